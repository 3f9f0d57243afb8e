#!/usr/bin/env bash
# The metadata service and a Linux guest: both versions, both forms, 50 KB at once, many requests in a row, two interfaces.
# Runs where tests/guest/run_test.sh does (lab/run tests/guest/mmds_test.sh); needs /dev/net/tun, iproute2 and busybox-static.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/guest/own_network.sh
vmm=${MAYFLY_BIN:-$PWD/build/release/bin}/mayfly-vmm
kernel=${MAYFLY_ARTIFACTS:-$PWD/artifacts}/vmlinux
busybox=$(command -v busybox) || { echo "tests/guest/mmds_test.sh: busybox is missing" >&2; exit 1; }
# What takes longer hangs.
deadline=300
host=10.78.0.1
guest=10.78.0.2
. tests/guest/checks.sh
work=$(mktemp -d)
listener=
trap '[ -z "$listener" ] || kill "$listener" 2>/dev/null; rm -rf "$work"' EXIT

said() { sed -n "s/^$1 //p" "$work/console" | tr -d '\r' | tail -n 1; }
is() { [ "$(said "$1")" = "$2" ] || { echo "    $1: wanted \"$2\", got \"$(said "$1")\"" >&2; return 1; }; }

# What both guests can do: get PATH [HEADER] prints an answer's content; ask LINES prints an answer, headers and all.
library() {
  cat <<END
#!/bin/busybox sh
/bin/busybox --install /bin
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
exec >/dev/console 2>&1 </dev/null
say() { echo "\$@"; }
get() { timeout 60 wget -q -O - \${2:+--header "\$2"} "http://\$address\$1"; }
ask() { printf '%b' "\$1" | nc -w 60 \$address 80; }
status() { ask "\$1" | head -n 1 | cut -d ' ' -f 2; }
END
}

# The guest of version 1: the default gateway is the way to the service.
init_v1() {
  library
  cat <<END
address=169.254.169.254
ip route add \$address dev eth0
say keys "\$(get /latest/meta-data/ | tr '\n' ' ')"
say id "\$(get /latest/meta-data/id)"
say json "\$(get /latest/meta-data/count 'Accept: application/json')"
say count \$(status 'GET /latest/meta-data/count HTTP/1.0\r\n\r\n')
say missing \$(status 'GET /nothing HTTP/1.0\r\n\r\n')
say post \$(status 'POST / HTTP/1.0\r\n\r\n')
say malformed \$(status 'one two three four\r\n\r\n')
say large \$(get /large | sha256sum | cut -c1-64)
say pipelined \$(ask 'GET /latest/meta-data/id HTTP/1.1\r\n\r\nGET /latest/meta-data/id HTTP/1.0\r\n\r\n' | grep -c i-0123456789)
good=0
i=0
while [ \$i -lt 200 ]; do
  [ "\$(get /latest/meta-data/id)" = i-0123456789 ] && good=\$((good + 1))
  i=\$((i + 1))
done
say in_a_row \$good
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do get /large >/tmp/large\$i & done
wait
say at_once \$(cat /tmp/large* | wc -c)
say closed \$(echo | nc -w 5 \$address 81 >/dev/null 2>&1 && echo no || echo yes)
say neighbour \$(grep -c "^\$address .*02:4d:4d:44:53:01 .*eth0" /proc/net/arp)
say offloads \$(cat /sys/class/net/eth0/device/features | cut -c1,12)
ping -c 2 -w 60 $host >/dev/null && say ping yes || say ping no
reboot -f
END
}

# The guest of version 2: the service is on its second interface, at an address of its own.
init_v2() {
  library
  cat <<END
address=169.254.170.2
ip link set eth1 up
ip addr add 169.254.170.3/16 dev eth1
say no_token \$(status 'GET /latest/meta-data/id HTTP/1.0\r\n\r\n')
say wrong_token \$(status 'GET /latest/meta-data/id HTTP/1.0\r\nX-metadata-token: 0123\r\n\r\n')
token=\$(ask 'PUT /latest/api/token HTTP/1.0\r\nX-metadata-token-ttl-seconds: 300\r\n\r\n' | tail -n 1)
say token \${#token}
say id "\$(get /latest/meta-data/id "X-metadata-token: \$token")"
say ec2_id "\$(get /latest/meta-data/id "X-aws-ec2-metadata-token: \$token")"
say compat "\$(get /latest/meta-data/ "\$(printf 'X-metadata-token: %s\r\nAccept: application/json' \$token)" | tr '\n' ' ')"
short=\$(ask 'PUT /latest/api/token HTTP/1.0\r\nX-metadata-token-ttl-seconds: 1\r\n\r\n' | tail -n 1)
sleep 2
say expired \$(status "GET /latest/meta-data/id HTTP/1.0\r\nX-metadata-token: \$short\r\n\r\n")
say forwarded \$(status 'PUT /latest/api/token HTTP/1.0\r\nX-Forwarded-For: a\r\nX-metadata-token-ttl-seconds: 60\r\n\r\n')
say ttl \$(status 'PUT /latest/api/token HTTP/1.0\r\nX-metadata-token-ttl-seconds: 21601\r\n\r\n')
ip route add \$address dev eth0
say other_interface \$(ask 'GET / HTTP/1.0\r\n\r\n' >/dev/null 2>&1 && echo answered || echo silent)
reboot -f
END
}

# boot VERSION INTERFACES MMDS-CONFIG
boot() {
  local status=0
  mkdir -p "$work/tree"/{bin,dev,proc,sys,tmp}
  cp "$busybox" "$work/tree/bin/busybox"
  "init_$1" >"$work/tree/init"
  chmod 755 "$work/tree/init"
  (cd "$work/tree" && find . | "$busybox" cpio -o -H newc) >"$work/initrd" 2>/dev/null
  cat >"$work/vm.json" <<END
{"boot-source": {"kernel_image_path": "$kernel", "initrd_path": "$work/initrd",
   "boot_args": "console=ttyS0 loglevel=1 reboot=k,panic_warm panic=-1 tsc=reliable ip=$guest::$host:255.255.255.0::eth0:off"},
 "machine-config": {"vcpu_count": 1, "mem_size_mib": 256},
 "network-interfaces": [$2],
 "mmds-config": $3}
END
  timeout -k 5 "$deadline" "$vmm" --no-api --config-file "$work/vm.json" --metadata "$work/metadata.json" \
    >"$work/console" 2>"$work/log" </dev/null || status=$?
  [ "$status" -eq 0 ] || { echo "    exit status $status"; tail -n 15 "$work/console" "$work/log" | sed 's/^/      /'; return 1; }
}

# refused WHAT-IT-SAYS ARGUMENT…
refused() {
  local status=0 wanted=$1
  shift
  timeout 60 "$vmm" --no-api --config-file "$work/vm.json" "$@" >"$work/out" 2>&1 </dev/null || status=$?
  [ "$status" -eq 1 ] && grep -q -- "$wanted" "$work/out" || { echo "    exit status $status"; sed 's/^/    /' "$work/out"; return 1; }
}

ip link set lo up
for tap in tap0 tap1; do
  ip tuntap add $tap mode tap
  ip link set $tap up
done
ip addr add $host/24 dev tap0
# The host would answer to the same address, if anything for the service got out to it.
ip addr add 169.254.169.254/32 dev tap0
"$busybox" nc -l -p 81 </dev/null >/dev/null &
listener=$!
large=$(head -c 37400 /dev/urandom | base64 -w 0 | cut -c1-49800)
wanted=$(printf '%s' "$large" | sha256sum | cut -c1-64)
printf '{"latest": {"meta-data": {"id": "i-0123456789", "count": 3, "more": {"a": "b"}}}, "large": "%s"}' "$large" >"$work/metadata.json"
eth0='{"iface_id": "eth0", "host_dev_name": "tap0"}'
eth1='{"iface_id": "eth1", "host_dev_name": "tap1"}'

check "a guest with version 1" boot v1 "$eth0" '{"network_interfaces": ["eth0"]}'
kill "$listener" 2>/dev/null
check "it has offloads on" is offloads 11
check "keys are listed" is keys "count id more/"
check "a string is shown" is id i-0123456789
check "a number is JSON" is json 3
check "and nothing else" is count 501
check "a path that is not there" is missing 404
check "another method" is post 405
check "a request that is none" is malformed 400
check "50 KB" is large "$wanted"
check "two requests in one segment" is pipelined 2
check "200 requests in a row" is in_a_row 200
check "20 times 50 KB at once" is at_once $((20 * ${#large}))
check "another port is closed, though the host has it open" is closed yes
check "the neighbour is the service, not the host" is neighbour 1
check "the network is there besides" is ping yes

check "a guest with version 2" boot v2 "$eth0, $eth1" \
  '{"network_interfaces": ["eth1"], "version": "V2", "ipv4_address": "169.254.170.2", "imds_compat": true}'
check "no token" is no_token 401
check "a wrong token" is wrong_token 401
check "a token is given" is token 64
check "and good" is id i-0123456789
check "by either name" is ec2_id i-0123456789
check "plain text only, as with EC2" is compat "count id more/"
check "a token expires" is expired 401
check "nothing is given to proxies" is forwarded 400
check "nor for too long" is ttl 400
check "the other interface has no service" is other_interface silent

check "metadata that is too large is refused" refused "too large.*the limit is 1000" --metadata "$work/metadata.json" --mmds-size-limit 1000
printf '[1]' >"$work/metadata.json"
check "metadata that is no object is refused" refused "not a JSON object" --metadata "$work/metadata.json"
summary
