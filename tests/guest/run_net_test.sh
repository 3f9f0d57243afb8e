#!/usr/bin/env bash
# `mayfly run --net` with real Linux guests, by a tap as root and by passt as another user. What is outside is a network
# namespace with a web server and a name server in it. Runs as root where tests/guest/run_test.sh does
# (lab/run tests/guest/run_net_test.sh); needs nftables, passt, iproute2, python3, musl-tools and busybox-static.
set -u
cd "$(dirname "$0")/../.." || exit 1
[ "$(id -u)" -eq 0 ] || { echo "tests/guest/run_net_test.sh: run it as root" >&2; exit 1; }
# Namespaces of our own: what is left in them is what a run left.
if [ -z "${MAYFLY_NET_TEST_INSIDE:-}" ]; then
  [ -e /dev/net/tun ] || modprobe tun 2>/dev/null
  MAYFLY_NET_TEST_INSIDE=1 exec unshare --net --mount "$BASH" "$PWD/tests/guest/run_net_test.sh" "$@"
fi
export PATH=$PATH:/usr/sbin:/sbin
mayfly=${MAYFLY_BIN:-$PWD/build/release/bin}/mayfly
for tool in nft passt ip busybox nsenter python3 musl-gcc; do
  command -v $tool >/dev/null || { echo "tests/guest/run_net_test.sh: $tool is missing" >&2; exit 1; }
done
# What takes longer hangs.
deadline=300
server=198.51.100.1 outside=192.0.2.1 host=192.0.2.2 metadata=169.254.169.254
. tests/guest/checks.sh
work=$(mktemp -d)
chmod 755 "$work"
mkdir -m 700 "$work/mine"
outside_pid='' servers=()
finish() {
  kill -9 ${servers[@]+"${servers[@]}"} $outside_pid 2>/dev/null
  rm -rf "$work"
}
trap finish EXIT

wait_until() {
  local tries=$((deadline * 5))
  until "$@" >/dev/null 2>&1; do
    [ $((tries -= 1)) -gt 0 ] || { printf '    gave up waiting for: %s\n' "$*"; return 1; }
    sleep 0.2
  done
}
there() { nsenter -t "$outside_pid" -n "$@"; }

# A name server that knows one name: it repeats the question, and for an IPv4 address adds ours (RFC 1035, section 4).
cat >"$work/names.py" <<END
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("$server", 53))
while True:
    question, peer = server.recvfrom(512)
    end = question.index(0, 12) + 5
    known = question[12:end] == b"\x06server\x07example\x00\x00\x01\x00\x01"
    answer = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04" + socket.inet_aton("$server") if known else b""
    server.sendto(question[:2] + b"\x81\x80\x00\x01" + bytes([0, known]) + bytes(4) + question[12:end] + answer, peer)
END

make_the_world() {
  unshare --net sleep infinity &
  outside_pid=$!
  wait_until sh -c "[ \$(readlink /proc/$outside_pid/ns/net) != \$(readlink /proc/$$/ns/net) ]"
  ip link set lo up
  ip link add up0 type veth peer name up1 netns "$outside_pid"
  ip addr add $host/24 dev up0
  ip link set up0 up
  ip route add default via $outside
  there ip link set lo up
  there ip link set up1 up
  there ip addr add $outside/24 dev up1
  there ip addr add $server/32 dev lo
  there ip addr add $metadata/32 dev lo
  head -c 20M /dev/urandom >"$work/data"
  wanted=$(sha256sum <"$work/data" | cut -c1-64)
  # Who connects is served at once.
  there busybox nc -ll -p 80 -e cat "$work/data" &
  servers+=($!)
  there busybox nc -ll -p 9000 -e echo secret &
  servers+=($!)
  there python3 "$work/names.py" &
  servers+=($!)
  wait_until there grep -q ':0035 ' /proc/net/udp # 53
  # Services of the host's, which a guest by a tap is not to reach.
  busybox nc -ll -p 9000 -e echo secret &
  servers+=($!)
  printf 'nameserver %s\n' $server >"$work/resolv.conf"
  mount --bind "$work/resolv.conf" /etc/resolv.conf
}

# A server that repeats datagrams; what is in the guest's image has none.
cat >"$work/repeat.c" <<END
#include <netinet/in.h>
#include <sys/socket.h>
int main(void) {
  char text[512];
  struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons(53)}, peer;
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  if (bind(fd, (struct sockaddr*)&place, sizeof place) < 0) return 1;
  for (;;) {
    socklen_t size = sizeof peer;
    ssize_t n = recvfrom(fd, text, sizeof text, 0, (struct sockaddr*)&peer, &size);
    sendto(fd, text, n, 0, (struct sockaddr*)&peer, size);
  }
}
END

# What the command in the guest does: it asks for all, says what it got, and is a server until somebody tells it to end.
cat >"$work/command" <<END
say() { echo "\$@"; }
# Who asks for nothing keeps its mouth open: passt of Debian 12 repeats itself to those that close first.
mkfifo /tmp/open
gets_secret() { [ "\$(nc -w 5 \$1 9000 2>/dev/null <>/tmp/open)" = secret ] && echo yes || echo no; }
cat >/tmp/repeat && chmod 755 /tmp/repeat
say address "\$(ip -4 addr show eth0 | sed -n 's/ *inet \([^ ]*\) .*/\1/p')"
say mtu "\$(cat /sys/class/net/eth0/mtu)"
say received "\$(nc -w 60 server.example 80 <>/tmp/open | sha256sum | cut -c1-64)"
say outside "\$(gets_secret $outside)"
say host "\$(gets_secret $host)"
say gateway "\$(gets_secret "\$(ip route | sed -n 's/default via \([^ ]*\) .*/\1/p')")"
say metadata "\$(gets_secret $metadata)"
ip addr add 203.0.113.9/32 dev lo
ping -c 1 -w 2 -I 203.0.113.9 $server >/dev/null && say spoofed yes || say spoofed no
/tmp/repeat &
nc -ll -p 80 -e echo "from the guest" &
say ready now
nc -l -p 81 >/dev/null
say end now
exit 7
END

# start NAME WORD…: mayfly run, with what the guest says in NAME.out.
start() {
  local name=$1
  shift
  "$@" "$mayfly" run --publish 8080:80 --publish 8081:81 --publish 5353:53/udp "${net[@]}" -- sh -c "$(cat "$work/command")" \
    >"$work/$name.out" 2>"$work/$name.err" <"$work/repeat" &
  pid=$!
}
said() {
  wait_until sh -c "grep -q '^$1 ' $work/$run.out || ! kill -0 $pid"
  sed -n "s/^$1 //p" "$work/$run.out" | tail -n 1
}
is() {
  local got
  got=$(said "$1")
  [ "$got" = "$2" ] || { echo "    $1: wanted \"$2\", got \"$got\""; sed 's/^/      /' "$work/$run.err"; return 1; }
}
fetches() { [ "$("$@" 8080 2>/dev/null </dev/null)" = "from the guest" ]; }
cat >"$work/ask.py" <<END
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(2)
client.connect((sys.argv[1], 5353))
client.send(b"question")
sys.exit(client.recv(100) != b"question")
END
ends_with() {
  local status=0
  echo end | there busybox nc -w 20 $host 8081
  wait "$pid" || status=$?
  [ "$status" -eq "$1" ] || { echo "    exit status $status"; sed 's/^/      /' "$work/$run.err"; return 1; }
}
nothing_left() {
  gone() {
    ! ip -o link | grep -q mayfly && [ -z "$(nft list tables)" ] && ! pgrep -f 'mayfly-vmm|mayfly run|passt --foreground' &&
      [ -z "$(find /run/mayfly "$work/mine" -mindepth 1 ! -name mayfly 2>/dev/null)" ] &&
      [ "$(cat /proc/sys/net/ipv4/conf/up0/forwarding)" = 0 ]
  }
  wait_until gone && return 0
  ip -o link; nft list tables; pgrep -af 'mayfly|passt'; find /run/mayfly "$work/mine" -mindepth 1
  return 1
}

common() {
  check "$run: it fetches 20 MiB by name" is received "$wanted"
  check "$run: it is up" is ready now
  check "$run: from outside its port is reached" wait_until fetches there busybox nc -w 20 $host
  check "$run: and from the host, by 127.0.0.1" wait_until fetches busybox nc -w 20 127.0.0.1
  # By passt the guest has that address itself.
  [ "$run" = passt ] || check "$run: and by the host's address" wait_until fetches busybox nc -w 20 $host
  check "$run: datagrams reach it from outside, and its answers return" wait_until there python3 "$work/ask.py" $host
  [ "$run" = passt ] || check "$run: and from the host" wait_until python3 "$work/ask.py" 127.0.0.1
  check "$run: it ends with the command's status" ends_with 7
  check "$run: nothing is left" nothing_left
}
killed() {
  start "$run" "$@"
  check "$run, killed: it is up" is ready now
  kill -9 "$pid"
  wait "$pid" 2>/dev/null
  check "$run, killed: nothing is left" nothing_left
}

musl-gcc -static -Os -o "$work/repeat" "$work/repeat.c" || exit 1
make_the_world

run=tap net=(--net)
start tap env XDG_RUNTIME_DIR="$work/mine"
check "tap: address" is address 10.213.0.2/30
check "tap: MTU" is mtu 1500
check "tap: services outside are in reach" is outside yes
check "tap: the host's services are out of reach" is host no
check "tap: on the tap as well" is gateway no
check "tap: link-local addresses are out of reach" is metadata no
check "tap: nothing leaves with another source address" is spoofed no
common
killed env XDG_RUNTIME_DIR="$work/mine"

# passt asks for no privileges, so it gets none.
user=1000
mkdir -p "$work/user" && chown "$user" "$work/user" && chmod 700 "$work/user"
as_user=(setpriv --reuid $user --regid $user --clear-groups env XDG_RUNTIME_DIR="$work/user" HOME=/)
run=passt net=(--net)
start passt "${as_user[@]}"
check "passt: it has the host's address" is address $host/24
check "passt: MTU" is mtu 65520
check "passt: services outside are in reach" is outside yes
check "passt: the host's services at its address are out of reach" is host no
common
killed "${as_user[@]}"

summary
