#!/usr/bin/env bash
# The control socket and a Linux guest, driven as Firecracker's clients drive it: the calls of the Go SDK, an orchestrator
# that swaps a drive after the boot, and a start without any socket. Runs where tests/guest/run_test.sh does
# (lab/run tests/guest/api_test.sh); needs python3 and busybox-static.
set -u
cd "$(dirname "$0")/../.." || exit 1
vmm=${MAYFLY_BIN:-$PWD/build/release/bin}/mayfly-vmm
kernel=${MAYFLY_ARTIFACTS:-$PWD/artifacts}/vmlinux
. tests/guest/checks.sh
. tests/guest/job.sh
work=$(mktemp -d)
socket=$work/api.sock
pid='' loop=''
trap '[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null; [ -z "$loop" ] || losetup --detach "$loop"; rm -rf "$work"' EXIT
# What takes longer hangs; in tenths of a second.
deadline=2400
boot_args="console=ttyS0 loglevel=1 reboot=k,panic_warm panic=-1 tsc=reliable swiotlb=noforce"

# Sends the bytes that Go's net/http does. For each request three lines come in: method, path, body; a line goes out: the status
# and the content that is answered. One for all requests: an emulated host takes seconds to start it.
coproc client {
  exec python3 -u - "$socket" 3<&0 <<'END'
import socket, sys
requests = open(3)
while (method := requests.readline().rstrip("\n")):
    target, body = requests.readline().rstrip("\n"), requests.readline()
    head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Go-http-client/1.1\r\n"
    if body == "\n":
        body = ""
        head += "Accept: application/json\r\n"
    else:
        head += f"Content-Length: {len(body)}\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(120)
            s.connect(sys.argv[1])
            s.sendall((head + "Accept-Encoding: gzip\r\n\r\n" + body).encode())
            with s.makefile("rb") as f:
                status = f.readline().split()[1].decode()
                headers = {}
                while (line := f.readline().strip()):
                    name, value = line.split(b":", 1)
                    headers[name.lower()] = value.strip()
                content = f.read(int(headers.get(b"content-length", 0))).decode()
        print(status, content)
    except (OSError, IndexError) as error:
        print("none", repr(error))
END
}
exec {to_client}>&"${client[1]}" {from_client}<&"${client[0]}"
# http METHOD PATH [BODY]
http() {
  local answer
  printf '%s\n%s\n%s\n' "$1" "$2" "${3:-}" >&"$to_client"
  IFS= read -r -t 150 answer <&"$from_client" && printf '%s\n' "$answer"
}
# does METHOD PATH BODY: it is accepted.
does() {
  local answer
  answer=$(http "$@") && [ "$answer" = "204 " ] && return 0
  echo "    $1 $2: $answer" >&2
  return 1
}
# answers TEXT METHOD PATH [BODY]: the answer contains the text.
answers() {
  local text=$1 answer
  shift
  answer=$(http "$@") && [[ $answer == *"$text"* ]] && return 0
  echo "    $1 $2: wanted \"$text\", got \"$answer\"" >&2
  return 1
}
# wait_for COMMAND…: until it succeeds, or there is nobody left who could make it.
wait_for() {
  local i alive=yes
  for ((i = 0; i < deadline; ++i)); do
    "$@" && return 0
    [ $alive = yes ] || break
    kill -0 "$pid" 2>/dev/null || alive=no
    sleep 0.1
  done
  echo "    waited in vain for: $*" >&2
  tail -n 5 "$work/console" "$work/err" >&2
  return 1
}
said() { sed -n "s/^$1=//p" "$work/console" | tr -d '\r' | tail -n 1; }
has_said() { [ -n "$(said "$1")" ]; }
is() { [ "$1" = "$2" ] || { echo "    wanted \"$1\", got \"$2\"" >&2; return 1; }; }
ended() { ! kill -0 "$pid" 2>/dev/null; }
# ends STATUS: the process is gone, with this status.
ends() {
  local status=0
  wait_for ended || return 1
  wait "$pid" 2>/dev/null || status=$?
  pid=
  is "$1" "$status"
}
begin() {
  "$vmm" "$@" >"$work/console" 2>"$work/err" </dev/null &
  pid=$!
}
sum() { sha256sum | cut -c1-64; }

head -c 2M /dev/urandom >"$work/placeholder"
head -c 6M /dev/urandom >"$work/real"

# ---- The Go SDK ----
make_job_initrd "$work/tree" "$work/initrd" <<'END'
echo disk=$(sum </dev/vda)
i=0
while :; do
  i=$((i + 1))
  echo turn=$i
  sleep 0.05
done
END
mkfifo "$work/log" "$work/metrics"
begin --api-sock "$socket" --id sdk-1
check "sdk: the socket appears" wait_for test -S "$socket"
check "sdk: the machine's configuration at first" answers '"vcpu_count":1' GET /machine-config
check "sdk: logger, to a FIFO that nobody reads yet" does PUT /logger '{"level":"Debug","log_path":"'"$work/log"'","show_level":true,"show_log_origin":false}'
exec 8<>"$work/log" 9<>"$work/metrics"
check "sdk: metrics, to a FIFO" does PUT /metrics '{"metrics_path":"'"$work/metrics"'"}'
check "sdk: machine-config" does PUT /machine-config '{"mem_size_mib":192,"smt":false,"track_dirty_pages":false,"vcpu_count":1}'
check "sdk: machine-config is what was put" answers '"mem_size_mib":192' GET /machine-config
check "sdk: boot-source" does PUT /boot-source '{"boot_args":"'"$boot_args"'","initrd_path":"'"$work/initrd"'","kernel_image_path":"'"$kernel"'"}'
check "sdk: drive" does PUT /drives/1 '{"drive_id":"1","is_read_only":false,"is_root_device":false,"path_on_host":"'"$work/placeholder"'"}'
check "sdk: vsock" does PUT /vsock '{"guest_cid":3,"uds_path":"'"$work/v.sock"'","vsock_id":"1"}'
check "sdk: InstanceStart" does PUT /actions '{"action_type":"InstanceStart"}'
check "sdk: the guest reads its drive" wait_for has_said disk
check "sdk: what it reads" is "$(sum <"$work/placeholder")" "$(said disk)"
check "sdk: the guest runs" wait_for has_said turn
check "sdk: pause" does PATCH /vm '{"state":"Paused"}'
check "sdk: state" answers '"state":"Paused"' GET /
before=$(said turn)
sleep 1
check "sdk: a paused guest does nothing" is "$before" "$(said turn)"
check "sdk: resume" does PATCH /vm '{"state":"Resumed"}'
further() { [ "$(said turn)" != "$before" ]; }
check "sdk: the guest goes on" wait_for further
check "sdk: FlushMetrics" does PUT /actions '{"action_type":"FlushMetrics"}'
# Besides the line of each minute.
metrics_tell() {
  local line
  while IFS= read -r -t 60 line <&9; do
    grep -q '"block_1":{.*"read_bytes":[1-9]' <<<"$line" && return 0
    echo "    $line" >&2
  done
  return 1
}
check "sdk: the metrics are in the FIFO" metrics_tell
check "sdk: SendCtrlAltDel" does PUT /actions '{"action_type":"SendCtrlAltDel"}'
check "sdk: the boot cannot be configured any more" answers "400" PUT /boot-source '{"kernel_image_path":"'"$kernel"'"}'
kill -TERM "$pid"
check "sdk: SIGTERM ends it" ends 143
check "sdk: the socket is gone" test ! -e "$socket"
check "sdk: the log is in the FIFO" grep -qa "sdk-1:api:Debug" <(dd bs=64k count=1 <&8 2>/dev/null)
exec 8<&- 9<&-

# ---- An orchestrator: a file, a pause in the middle of writing, then a drive that is swapped, grows, and becomes a device ----
make_job_initrd "$work/tree" "$work/initrd" <<'END'
size() { cat /sys/block/vda/size; }
becomes() {
  while [ "$(size)" != "$1" ]; do sleep 0.05; done
}
# Each round is written, and read back from the drive.
pattern() { yes "$1" | head -c 1048576; }
write_on() {
  local round=0
  while [ "$(size)" = 4096 ]; do
    round=$((round + 1))
    pattern $round | dd of=/dev/vdb bs=16k conv=notrunc,fsync 2>/dev/null
    drop_caches
    [ "$(pattern $round | sum)" = "$(dd if=/dev/vdb bs=1M count=1 2>/dev/null | sum)" ] || echo lost=$round
    echo round=$round
  done
}
write_on &
echo size=$(size)
becomes 12288
wait
drop_caches
echo swapped=$(sum </dev/vda)
becomes 16384
echo grown=$(dd if=/dev/vda bs=1M skip=6 count=2 2>/dev/null | sum)
becomes 6144
drop_caches
echo device=$(sum </dev/vda)
END
cat >"$work/config.json" <<END
{"boot-source": {"kernel_image_path": "$kernel", "initrd_path": "$work/initrd", "boot_args": "$boot_args"},
 "machine-config": {"vcpu_count": 1, "mem_size_mib": 192},
 "drives": [{"drive_id": "data", "is_root_device": false, "path_on_host": "$work/placeholder"},
  {"drive_id": "written", "is_root_device": false, "path_on_host": "$work/written", "io_engine": "Async"}]}
END
truncate -s 1M "$work/written"
begin --api-sock "$socket" --id orchestrated --config-file "$work/config.json"
running() { [ -S "$socket" ] && [[ $(http GET /) == *'"state":"Running"'* ]]; }
further_round() { [ "$(said round)" != "$before" ]; }
check "orchestrator: it runs" wait_for running
check "orchestrator: the guest sees the placeholder" wait_for has_said size
check "orchestrator: its size" is 4096 "$(said size)"
check "orchestrator: the guest writes" wait_for has_said round
for i in 1 2 3; do
  before=$(said round)
  wait_for further_round
  sleep 0.$i
  check "orchestrator: pause $i" does PATCH /vm '{"state":"Paused"}'
  written=$(sum <"$work/written")
  sleep 1
  check "orchestrator: what was on its way had arrived, and nothing follows" is "$written" "$(sum <"$work/written")"
  check "orchestrator: resume $i" does PATCH /vm '{"state":"Resumed"}'
done
before=$(said round)
check "orchestrator: it writes on" wait_for further_round
check "orchestrator: nothing was lost" is "" "$(said lost)"
check "orchestrator: another file" does PATCH /drives/data '{"drive_id":"data","path_on_host":"'"$work/real"'"}'
check "orchestrator: the guest sees it" wait_for has_said swapped
check "orchestrator: its content" is "$(sum <"$work/real")" "$(said swapped)"
truncate -s 8M "$work/real"
check "orchestrator: the same file, larger" does PATCH /drives/data '{"drive_id":"data","path_on_host":"'"$work/real"'"}'
check "orchestrator: the guest reads the new end" wait_for has_said grown
check "orchestrator: its content" is "$(head -c 2M /dev/zero | sum)" "$(said grown)"
head -c 3M /dev/urandom >"$work/third"
loop=$(loop_device "$work/third")
check "orchestrator: a block device" does PATCH /drives/data '{"drive_id":"data","path_on_host":"'"$loop"'"}'
check "orchestrator: the guest reads it" wait_for has_said device
check "orchestrator: its content" is "$(sum <"$work/third")" "$(said device)"
check "orchestrator: the guest's reset ends it" ends 0
losetup --detach "$loop"
loop=

# ---- No socket at all ----
make_job_initrd "$work/tree" "$work/initrd" <<'END'
devmem 0xc0000000 8 123
END
echo '{"a": 1}' >"$work/metadata"
begin --no-api --config-file "$work/config.json" --metadata "$work/metadata" --boot-timer --level Info --id no-api
check "no-api: the guest's reset ends it" ends 0
check "no-api: the boot timer's line" grep -qE 'Guest-boot-time = [0-9]+ us [0-9]+ ms, [0-9]+ CPU us [0-9]+ CPU ms' "$work/err"

summary
