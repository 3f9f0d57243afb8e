#!/usr/bin/env bash
# A Linux guest that is started, paused, changed and ended by way of the control socket. Runs where Linux guests run: on
# hardware virtualization, or in the lab (lab/run tests/guest/control_test.sh).
set -u
cd "$(dirname "$0")/../.." || exit 1
vmm=${MAYFLY_BIN:-$PWD/build/release/bin}/mayfly-vmm
artifacts=${MAYFLY_ARTIFACTS:-$PWD/artifacts}
work=$(mktemp -d)
trap 'kill "$pid" 2>/dev/null; rm -rf "$work"' EXIT
pid=
# No guest may take longer than this: what takes longer hangs.
deadline=240
. tests/guest/job.sh
. tests/guest/checks.sh

# ask METHOD PATH [BODY or @FILE]: the status of the answer; the answer is in $work/answer.
ask() {
  curl -s -o "$work/answer" -w '%{http_code}' --max-time "$deadline" --unix-socket "$work/api.sock" -X "$1" ${3:+-d "$3"} "http://x$2"
}
answers() { [ "$(ask "${@:2}")" = "$1" ] || { printf '    %s %s: %s\n' "$2" "$3" "$(cat "$work/answer")"; return 1; }; }
within() { # COMMAND…: until it succeeds
  local end=$((SECONDS + deadline))
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] && kill -0 "$pid" || { printf '    gave up on: %s\n' "$*"; cat "$work/console" "$work/log" "$work/err"; return 1; }
    sleep 0.2
  done
}
says() { grep -q "$1" "$work/console"; }
ends_with() {
  local status=0
  wait "$pid" || status=$?
  [ "$status" -eq "$1" ] || { printf '    it ended with %s\n' "$status"; cat "$work/console" "$work/log" "$work/err"; return 1; }
}

# start: a VMM that has everything configured, and its guest.
start() {
  rm -f "$work"/{api.sock,vsock,log,console}
  mkfifo "$work/log.fifo" 2>/dev/null
  cat "$work/log.fifo" >"$work/log" &
  "$vmm" --api-sock "$work/api.sock" --id control --boot-timer --http-api-max-payload-size 1000000 >"$work/console" 2>"$work/err" </dev/null &
  pid=$!
  within test -S "$work/api.sock"
  check "PUT /logger" answers 204 PUT /logger '{"log_path": "'"$work/log.fifo"'", "level": "Debug"}'
  check "PUT /metrics" answers 204 PUT /metrics '{"metrics_path": "'"$work/metrics"'"}'
  check "PUT /boot-source" answers 204 PUT /boot-source '{"kernel_image_path": "'"$artifacts/vmlinux"'",
    "initrd_path": "'"$work/initrd"'", "boot_args": "console=ttyS0 loglevel=1 reboot=k,panic_warm panic=-1 tsc=reliable"}'
  for engine in Sync Async; do
    check "PUT /drives/$engine" answers 204 PUT "/drives/$engine" '{"drive_id": "'"$engine"'", "is_root_device": false,
      "path_on_host": "'"$work/small"'", "io_engine": "'"$engine"'"}'
  done
  check "PUT /drives/fixed" answers 204 PUT /drives/fixed '{"drive_id": "fixed", "is_root_device": false,
    "path_on_host": "'"$work/small"'", "is_read_only": true}'
  check "PUT /vsock" answers 204 PUT /vsock '{"guest_cid": 3, "uds_path": "'"$work/vsock"'"}'
  check "PUT /actions" answers 204 PUT /actions '{"action_type": "InstanceStart"}'
  within says guest=ready
}

make_job_initrd "$work/tree" "$work/initrd" <<'END_OF_JOB'
devmem 0xc0000000 8 123
say guest echo ready
for disk in vda vdb; do
  until [ "$(cat /sys/block/$disk/size)" = 4096 ]; do sleep 0.1; done
  echo "hello $disk" | dd of=/dev/$disk bs=512 seek=8 conv=sync,fsync 2>/dev/null
  drop_caches
  say "read_$disk" sh -c "dd if=/dev/$disk bs=512 skip=8 count=1 2>/dev/null | head -n 1"
done
END_OF_JOB
truncate -s 1M "$work/small"
truncate -s 2M "$work/large1" "$work/large2"

start
for state in Paused Resumed Paused Resumed; do
  check "PATCH /vm: $state" answers 204 PATCH /vm '{"state": "'"$state"'"}'
done
check "GET /" answers 200 GET /
# Larger than what the heap's own memory is used for.
printf '{"large": "%s"}' "$(head -c 400000 /dev/zero | tr '\0' x)" >"$work/large.json"
check "PUT /mmds" answers 204 PUT /mmds "@$work/large.json"
check "the last of a connection" bash -c '[ "$(curl -s -o "$1/answer" -w "%{http_code}" -H "Connection: close" --max-time 240 \
  --unix-socket "$1/api.sock" http://x/)" = 200 ]' - "$work"
check "GET /metrics" answers 200 GET /metrics
check "FlushMetrics" answers 204 PUT /actions '{"action_type": "FlushMetrics"}'
check "a rate limiter" answers 204 PATCH /drives/Sync '{"drive_id": "Sync", "rate_limiter": {"ops": {"size": 500, "refill_time": 10}}}'
# A program that speaks no vsock is sent away; and its connection was taken.
check "a stranger at the vsock" bash -c '! curl -s --max-time 20 --unix-socket "$1" http://x/' - "$work/vsock"
check "another drive, Sync" answers 204 PATCH /drives/Sync '{"drive_id": "Sync", "path_on_host": "'"$work/large1"'"}'
check "another drive, read-only" answers 204 PATCH /drives/fixed '{"drive_id": "fixed", "path_on_host": "'"$work/large1"'"}'
check "another drive, Async" answers 204 PATCH /drives/Async '{"drive_id": "Async", "path_on_host": "'"$work/large2"'"}'
check "the guest wrote and ended" ends_with 0
check "it read what it wrote, Sync" says "read_vda=hello vda"
check "it read what it wrote, Async" says "read_vdb=hello vdb"
check "the file has it, Sync" grep -qa "hello vda" "$work/large1"
check "the file has it, Async" grep -qa "hello vdb" "$work/large2"
check "the old file has not" bash -c '! grep -qa hello "$1"' - "$work/small"
check "the guest told the boot timer" grep -q "Guest-boot-time" "$work/log"
check "no system call was forbidden" bash -c '! grep -h "was stopped" "$1" "$2"' - "$work/log" "$work/err"
check "its sockets are gone" bash -c '[ ! -e "$1/api.sock" ] && [ ! -e "$1/vsock" ]' - "$work"

start
kill -TERM "$pid"
check "SIGTERM ends it" ends_with 143
check "its sockets are gone again" bash -c '[ ! -e "$1/api.sock" ] && [ ! -e "$1/vsock" ]' - "$work"
summary
