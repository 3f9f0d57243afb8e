#!/usr/bin/env bash
# A Linux guest on a tap: addresses, pings, much TCP each way, offloads, spoofing, an interface that goes away.
# Runs where tests/guest/run_test.sh does (lab/run tests/guest/net_test.sh); needs /dev/net/tun, iproute2, python3 and busybox-static.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/guest/own_network.sh
vmm=${MAYFLY_BIN:-$PWD/build/release/bin}/mayfly-vmm
kernel=${MAYFLY_ARTIFACTS:-$PWD/artifacts}/vmlinux
busybox=$(command -v busybox) || { echo "tests/guest/net_test.sh: busybox is missing" >&2; exit 1; }
megabytes=12
# What takes longer hangs.
deadline=600
host=10.77.0.1
guest=10.77.0.2
mac=02:6d:66:00:00:02
. tests/guest/checks.sh
work=$(mktemp -d)
vmm_pid='' upload='' watcher=''
finish() {
  kill -9 $vmm_pid $upload $watcher 2>/dev/null
  rm -rf "$work"
}
trap finish EXIT

# What the guest said about NAME, once it did; fails when it is over without a word.
said() {
  local tries=$((deadline * 5))
  until grep -q "^$1 " "$work/console"; do
    if [ $((tries -= 1)) -le 0 ] || ! kill -0 "$vmm_pid" 2>/dev/null; then
      echo "    the guest did not say \"$1\":" >&2
      tail -n 15 "$work/console" "$work/log" | sed 's/^/      /' >&2
      return 1
    fi
    sleep 0.2
  done
  sed -n "s/^$1 //p" "$work/console" | tr -d '\r' | tail -n 1
}
is() { [ "$(said "$1")" = "$2" ] || { echo "    $1: wanted \"$2\", got \"$(said "$1")\"" >&2; return 1; }; }

make_initrd() {
  mkdir -p "$work/tree"/{bin,dev,proc,sys,tmp}
  cp "$busybox" "$work/tree/bin/busybox"
  cat >"$work/tree/init" <<END
#!/bin/busybox sh
/bin/busybox --install /bin
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
exec >/dev/console 2>&1 </dev/null
say() { echo "\$@"; }
device=\$(basename "\$(readlink -f /sys/class/net/eth0/device)")
say address "\$(cat /sys/class/net/eth0/address)"
say mtu "\$(cat /sys/class/net/eth0/mtu)"
say features "\$(cat /sys/bus/virtio/devices/\$device/features)"
say carrier_first "\$(cat /sys/class/net/eth0/carrier)"
ping -c 3 -w 60 $host >/tmp/ping && say ping yes || say ping no
# nc ends when the other side has nothing more to say, so each side that only listens keeps its mouth open.
mkfifo /tmp/open
nc -w 60 $host 5001 <>/tmp/open >/tmp/data
say received "\$(sha256sum </tmp/data | cut -c1-64)"
nc -w 60 $host 5002 </tmp/data
say sent done
# Host programs may talk to us until they say so.
say ready now
nc -l -p 5003 >/dev/null
ip link set eth0 down
ip link set eth0 address 02:6d:66:00:00:99
ip link set eth0 up
ip addr add $guest/24 dev eth0
ping -c 2 -w 3 $host >/dev/null && say spoofed yes || say spoofed no
while [ "\$(cat /sys/class/net/eth0/carrier)" = 1 ]; do sleep 1; done
say carrier_last "\$(cat /sys/class/net/eth0/carrier)"
reboot -f
END
  chmod 755 "$work/tree/init"
  (cd "$work/tree" && find . | "$busybox" cpio -o -H newc) >"$work/initrd" 2>/dev/null
}

# configuration TAP [EXTRA FIELDS OF THE INTERFACE]
configuration() {
  cat <<END
{"boot-source": {"kernel_image_path": "$kernel", "initrd_path": "$work/initrd",
   "boot_args": "console=ttyS0 loglevel=1 reboot=k,panic_warm panic=-1 tsc=reliable ip=$guest::$host:255.255.255.0::eth0:off"},
 "machine-config": {"vcpu_count": 1, "mem_size_mib": 512},
 "network-interfaces": [{"iface_id": "eth0", "host_dev_name": "$1", "guest_mac": "$mac", "mtu": 1400}]}
END
}

refused_without_tap() {
  local status=0
  configuration nosuchtap >"$work/missing.json"
  timeout "$deadline" "$vmm" --no-api --config-file "$work/missing.json" >"$work/out" 2>&1 </dev/null || status=$?
  [ "$status" -eq 1 ] && grep -q 'nosuchtap.*ip tuntap add nosuchtap mode tap' "$work/out" || { sed 's/^/    /' "$work/out"; return 1; }
}

# Ends when a packet leaves the guest that no wire of this MTU would take, and notes it.
watch_packets() {
  python3 - "$work/from_guest" "$work/watching" <<'END' &
import pathlib, socket, sys
tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
tap.bind(("tap0", 0))
pathlib.Path(sys.argv[2]).touch()
while True:
    try:
        packet, (_, _, kind, _, _) = tap.recvfrom(1 << 17)
    except OSError:  # the tap is gone
        break
    if kind == socket.PACKET_HOST and len(packet) > 3000:
        pathlib.Path(sys.argv[1]).touch()
        break
END
  watcher=$!
  until [ -e "$work/watching" ] || ! kill -0 $watcher 2>/dev/null; do sleep 0.2; done
}
# The average packet to the guest is larger than an MTU and a header; before it sends, those are nearly all data.
average_larger_than_mtu() {
  local bytes packets
  read -r bytes packets < <(awk -F'[: ]+' '$2 == "tap0" {print $11, $12}' /proc/net/dev)
  [ $((bytes / (packets + 1))) -gt 1414 ] || { echo "    $bytes bytes in $packets packets"; return 1; }
}

# Waits until nothing passes the tap for two seconds.
quiet() {
  local before tries=$((deadline / 2))
  until [ "$(grep tap0 /proc/net/dev)" = "${before:-}" ]; do
    [ $((tries -= 1)) -gt 0 ] || return 1
    before=$(grep tap0 /proc/net/dev)
    sleep 2
  done
}

has_features() {
  local bits bit
  bits=$(said features) || return 1
  # CSUM GUEST_CSUM MTU MAC GUEST_TSO4 GUEST_TSO6 HOST_TSO4 HOST_TSO6 MRG_RXBUF STATUS INDIRECT_DESC EVENT_IDX VERSION_1
  for bit in 0 1 3 5 7 8 11 12 15 16 28 29 32; do
    [ "${bits:$bit:1}" = 1 ] || { echo "    bit $bit is not negotiated: $bits"; return 1; }
  done
}

pings_guest() { "$busybox" ping -c 3 -w 60 $guest >"$work/out" || { sed 's/^/    /' "$work/out"; return 1; }; }
# Nobody answers, because nobody was asked: the host knows no such address.
nothing_spoofed() {
  is spoofed no && ! ip neigh show dev tap0 | grep -i 02:6d:66:00:00:99
}
link_goes_down() {
  ip link del tap0
  is carrier_last 0
}
ends_well() {
  local status=0
  wait "$vmm_pid" || status=$?
  vmm_pid=
  [ "$status" -eq 0 ] || { echo "    exit status $status"; cat "$work/log"; return 1; }
}

make_initrd
check "a tap that does not exist" refused_without_tap

ip link set lo up
ip tuntap add tap0 mode tap
ip addr add $host/24 dev tap0
ip link set tap0 mtu 1400 up
head -c "${megabytes}M" /dev/urandom >"$work/data"
wanted=$(sha256sum <"$work/data" | cut -c1-64)
mkfifo "$work/open"
# In one large write, which may pass the tap in large packets; nc writes a KiB at a time.
timeout "$deadline" python3 - "$work/data" <<'END' &
import pathlib, socket, sys
guest = socket.create_server(("", 5001)).accept()[0]
guest.sendall(pathlib.Path(sys.argv[1]).read_bytes())
guest.shutdown(socket.SHUT_WR)
guest.recv(1)
END
until grep -q ':1389 ' /proc/net/tcp; do sleep 0.2; done # 5001, listened at
"$busybox" nc -l -p 5002 >"$work/back" <>"$work/open" &
upload=$!
configuration tap0 >"$work/vm.json"
timeout -k 5 "$deadline" "$vmm" --no-api --config-file "$work/vm.json" >"$work/console" 2>"$work/log" </dev/null &
vmm_pid=$!

check "the guest's MAC" is address "$mac"
check "its MTU" is mtu 1400
check "its features" has_features
check "its link is up" is carrier_first 1
check "it pings the host" is ping yes
check "it receives $megabytes MiB" is received "$wanted"
check "what it got came in packets larger than the MTU" average_larger_than_mtu
# The reader stops until the guest's send buffer is full: what is in there can then leave in large packets.
kill -STOP $upload
check "it waits for a reader that stops" quiet
watch_packets
kill -CONT $upload
check "it sends them back" is sent "done"
wait $upload
upload=
check "and that left in packets larger than the MTU" [ -e "$work/from_guest" ]
check "and they are the same" [ "$(sha256sum <"$work/back" | cut -c1-64)" = "$wanted" ]
check "it waits for the host" is ready now
check "the host pings it" pings_guest
"$busybox" nc -w 60 $guest 5003 </dev/null >/dev/null
check "nothing leaves it from another MAC" nothing_spoofed
check "its link goes down with the tap" link_goes_down
check "and it ends well" ends_well

summary
