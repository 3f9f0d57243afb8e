#!/usr/bin/env bash
# A Linux guest's three devices under load, by the programs people use: fio with verification through both engines, iperf3 both
# ways with and without offloads, thousands of vsock connections and a long stream each way, the metadata service with curl, and
# whether rate limiters let through what they are set to. Runs where tests/guest/run_test.sh does (lab/run tests/guest/load_test.sh);
# needs /dev/net/tun, iproute2, busybox-static, fio, iperf3, curl, ethtool, python3 and gcc. Without --full the numbers are smaller.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/guest/own_network.sh
vmm=${MAYFLY_BIN:-$PWD/build/release/bin}/mayfly-vmm
kernel=${MAYFLY_ARTIFACTS:-$PWD/artifacts}/vmlinux
case ${1:-} in
  --full) connections=10000 stream=$((1 << 30)) seconds=10 file=32M percent=5 refill=250 ;;
  # An emulated guest may stall for a second: that there is a limit, and nearly which, is all that so short a time can tell.
  '') connections=1000 stream=$((64 << 20)) seconds=3 file=4M percent=45 refill=1000 ;;
  *) echo "usage: tests/guest/load_test.sh [--full]" >&2; exit 2 ;;
esac
. tests/guest/checks.sh
work=$(mktemp -d)
vmm_pid='' servers=''
finish() {
  # shellcheck disable=SC2086
  kill -9 $vmm_pid $servers 2>/dev/null
  rm -rf "$work"
}
trap finish EXIT
# What takes longer hangs.
deadline=1500
host=10.77.0.1
limited_host=10.78.0.1
# Of each limiter, in a second. A request of the drive's is 64 KiB or 4 KiB.
# Far below what an emulated guest that shares its CPUs manages.
disk_rate=$((1 << 20)) disk_operations=20 net_rate=$((64 << 10))

# add_program NAME: the program and its libraries.
add_program() {
  local program file
  program=$(command -v "$1") || { echo "tests/guest/load_test.sh: $1 is missing" >&2; exit 1; }
  cp "$program" "$work/tree/bin/"
  while read -r file; do
    mkdir -p "$work/tree$(dirname "$file")"
    cp -L "$file" "$work/tree$file"
  done < <(ldd "$program" | grep -o '/[^ ]*')
}

make_root() {
  mkdir -p "$work/tree"/{bin,dev,proc,sys,tmp,lib64} || return 1
  cp "$(command -v busybox)" "$work/tree/bin/busybox" || return 1
  for program in fio iperf3 curl ethtool; do add_program "$program"; done
  gcc -static -O2 -Wall -o "$work/streams" tests/guest/load/streams.c -pthread && cp "$work/streams" "$work/tree/bin/" || return 1
  cat >"$work/tree/init" <<END
#!/bin/busybox sh
export PATH=/bin HOME=/tmp
/bin/busybox mount -t tmpfs tmp /tmp
/bin/busybox mkdir /tmp/bin
/bin/busybox --install -s /tmp/bin
PATH=/bin:/tmp/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
exec >/dev/console 2>&1 </dev/null
# say NAME COMMAND…: a line "NAME OUTPUT".
say() {
  name=\$1
  shift
  echo "\$name \$("\$@" 2>/tmp/error || tail -n 3 /tmp/error)"
}

# ---- Drives: vdb Sync, vdc Async, vdd limited in bytes, vde in operations ----
verified() {
  fio --name=mixed --filename=\$1 --rw=randrw --bsrange=4k-64k --direct=1 --ioengine=libaio --iodepth=8 --numjobs=4 --size=$file \\
    --offset_increment=$file --verify=crc32c --verify_fatal=1 --do_verify=1 --group_reporting --output=/tmp/fio &&
    grep -o 'err= *[0-9]*' /tmp/fio
}
say fio_sync verified /dev/vdb
say fio_async verified /dev/vdc

# Hundredths of a second.
now() { cut -d ' ' -f 1 /proc/uptime | tr -d .; }
# timed BLOCKS SIZE DEVICE: how long it takes to read them.
timed() {
  before=\$(now)
  dd if=\$3 of=/dev/null bs=\$2 count=\$1 iflag=direct
  echo \$((\$(now) - before))
}
# A second's worth is in the bucket at first.
say disk_bytes timed $(((seconds + 1) * disk_rate >> 16)) 64k /dev/vdd
say disk_operations timed $(((seconds + 1) * disk_operations)) 4k /dev/vde

# ---- Networks: eth0 as fast as it goes, eth1 limited each way ----
ip link set lo up
ip link set eth1 up
ip addr add 10.78.0.2/24 dev eth1
ip route add 169.254.169.254 dev eth0
say curl curl -sS --max-time 60 http://169.254.169.254/latest/meta-data/id
token() { curl -sS --max-time 60 -X PUT -H 'X-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token | wc -c; }
say curl_token token
moved() { iperf3 -c $host -t $seconds -J "\$@" >/tmp/iperf && grep -A 8 '"sum_received"' /tmp/iperf | sed -n 's/.*"bytes":[^0-9]*\([0-9]*\).*/\1/p'; }
say to_host moved
say to_guest moved -R
offloads() { ethtool -K eth0 tx \$1 tso \$1 gso \$1 gro \$1 && ethtool -k eth0 | grep -c "^\(tx-checksumming\|tcp-segmentation-offload\|generic-segmentation-offload\|generic-receive-offload\): \$1"; }
say offloads_off offloads off
say to_host_plain moved
say to_guest_plain moved -R
# sent FILE: bytes a second on its way to the host, but for those that were in the bucket. It is over when the host has it all.
sent() {
  bytes=\$(cat /sys/class/net/eth1/statistics/tx_bytes)
  times=\$(curl -sS --max-time 600 -H Expect: -T \$1 -w '%{time_total} %{time_pretransfer}' http://$limited_host:8000/) || return
  bytes=\$((\$(cat /sys/class/net/eth1/statistics/tx_bytes) - bytes - $((net_rate * refill / 1000))))
  echo "\$times" | awk -v bytes=\$bytes '{ printf "%d", bytes / (\$1 - \$2) }'
}
# Bytes a second in the middle of a stream of datagrams, of which the host has always more.
received() {
  counter=/sys/class/net/eth1/statistics/rx_bytes
  first=\$(cat \$counter)
  iperf3 -c $limited_host -R -u -b 2M -t 600 >/tmp/iperf 2>&1 &
  until [ \$((\$(cat \$counter) - first)) -ge $((4 * net_rate)) ]; do sleep 0.2; done
  bytes=\$(cat \$counter) before=\$(now)
  sleep $seconds
  bytes=\$((\$(cat \$counter) - bytes)) before=\$((\$(now) - before))
  kill -9 \$!
  echo \$((bytes * 100 / before))
}
head -c $(((seconds + 1) * net_rate)) /dev/zero >/tmp/bytes
say net_sent sent /tmp/bytes
say net_received received

# ---- Vsock ----
say connections streams connections $connections
say stream_sent streams send $stream
say stream_received streams receive $stream
reboot -f
END
  chmod 755 "$work/tree/init"
  mke2fs -q -F -t ext4 -d "$work/tree" "$work/root" "$(($(du -sm "$work/tree" | cut -f1) * 5 / 4 + 16))M" >/dev/null
}

# limiter KIND RATE MS: as much as comes in MS may come at once; an emulated guest that stalls for less makes up for it.
limiter() { printf '{"%s": {"size": %d, "refill_time": %d}}' "$1" $(($2 * $3 / 1000)) "$3"; }
drive() {
  truncate -s 128M "$work/$1"
  printf '{"drive_id": "%s", "is_root_device": false, "path_on_host": "%s", "io_engine": "%s"%s}' "$1" "$work/$1" "$2" "${3:+, \"rate_limiter\": $3}"
}
configure() {
  cat >"$work/vm.json" <<END
{"boot-source": {"kernel_image_path": "$kernel", "boot_args":
   "console=ttyS0 loglevel=1 reboot=k,panic_warm panic=-1 tsc=reliable init=/init ip=10.77.0.2::$host:255.255.255.0::eth0:off"},
 "machine-config": {"vcpu_count": 1, "mem_size_mib": 256},
 "drives": [
   {"drive_id": "root", "is_root_device": true, "is_read_only": true, "path_on_host": "$work/root"},
   $(drive sync Sync), $(drive async Async), $(drive bytes Async "$(limiter bandwidth "$disk_rate" 1000)"), $(drive operations Sync "$(limiter ops "$disk_operations" 1000)")],
 "network-interfaces": [
   {"iface_id": "eth0", "host_dev_name": "tap0", "guest_mac": "02:6d:66:00:00:02"},
   {"iface_id": "eth1", "host_dev_name": "tap1", "guest_mac": "02:6d:66:00:00:03",
    "tx_rate_limiter": $(limiter bandwidth "$net_rate" $refill), "rx_rate_limiter": $(limiter bandwidth "$net_rate" $refill)}],
 "mmds-config": {"network_interfaces": ["eth0"]},
 "vsock": {"guest_cid": 3, "uds_path": "$work/vsock"}}
END
  echo '{"latest": {"meta-data": {"id": "i-0123456789"}}}' >"$work/metadata.json"
}

make_taps() {
  ip link set lo up
  local tap=0 address
  for address in $host $limited_host; do
    # A short queue: what ends a measurement waits behind what is in it.
    ip tuntap add tap$tap mode tap && ip addr add $address/24 dev tap$tap && ip link set tap$tap txqueuelen 50 up || return 1
    iperf3 -s -B $address >"$work/iperf$tap" 2>&1 &
    servers+=" $!"
    disown
    tap=$((tap + 1))
  done
  python3 - $limited_host <<'END' 2>"$work/http" &
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_PUT(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer((sys.argv[1], 8000), Handler).serve_forever()
END
  servers+=" $!"
  disown
}

start() {
  "$work/streams" serve "$work/vsock" >"$work/streams.out" 2>"$work/streams.err" &
  servers+=" $!"
  disown
  until grep -q ready "$work/streams.out"; do sleep 0.1; done
  timeout -k 5 "$deadline" "$vmm" --no-api --config-file "$work/vm.json" --metadata "$work/metadata.json" >"$work/console" 2>"$work/log" </dev/null &
  vmm_pid=$!
}

# What the guest said about NAME, once it did; fails when it is over without a word.
said() {
  until grep -q "^$1 .*"$'\r$' "$work/console"; do
    if ! kill -0 "$vmm_pid" 2>/dev/null; then
      echo "    the guest did not say \"$1\":" >&2
      tail -n 15 "$work/console" "$work/log" | sed 's/^/      /' >&2
      return 1
    fi
    sleep 0.5
  done
  sed -n "s/^$1 //p" "$work/console" | tr -d '\r' | tail -n 1
}
is() { [ "$(said "$1")" = "$2" ] || { echo "    $1: wanted \"$2\", got \"$(said "$1")\"" >&2; return 1; }; }
at_least() { [ "$(said "$1")" -ge "$2" ] || { echo "    $1: wanted at least $2, got $(said "$1")" >&2; return 1; }; }
# about NAME WANTED: within the percentage that a guest which stalls now and then can make in so short a time.
about() {
  local got
  got=$(said "$1") || return 1
  echo "    $1: $got, set to $2"
  [ $((got * 100)) -ge $(($2 * (100 - percent))) ] && [ $((got * 100)) -le $(($2 * (100 + percent))) ]
}
ends_well() {
  local status=0
  wait "$vmm_pid" || status=$?
  vmm_pid=
  [ "$status" -eq 0 ] && [ ! -s "$work/streams.err" ] || { echo "    exit status $status"; cat "$work/log" "$work/streams.err"; return 1; }
}

make_root || exit 1
configure
make_taps || exit 1
start
check "fio verifies what it wrote, four jobs, Sync" is fio_sync "err= 0"
check "fio verifies what it wrote, four jobs, Async" is fio_async "err= 0"
check "a drive has the bytes a second it was given" about disk_bytes $((seconds * 100))
check "a drive has the operations a second it was given" about disk_operations $((seconds * 100))
check "curl gets metadata" is curl i-0123456789
check "curl gets a token" at_least curl_token 32
check "iperf3 sends" at_least to_host 100000
check "iperf3 receives" at_least to_guest 100000
check "offloads are off" is offloads_off 4
check "iperf3 sends without offloads" at_least to_host_plain 100000
check "iperf3 receives without offloads" at_least to_guest_plain 100000
check "an interface sends the bytes a second it was given" about net_sent $net_rate
check "an interface receives the bytes a second it was given" about net_received $net_rate
check "$connections vsock connections, one after another" is connections ok
check "$((stream >> 20)) MiB to the host over one" is stream_sent ok
check "$((stream >> 20)) MiB to the guest over one" is stream_received ok
check "and it ends well" ends_well

summary
