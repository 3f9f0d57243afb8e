#!/usr/bin/env bash
# `mayfly run` with real Linux guests. Runs where they run: on hardware virtualization, or in the lab
# (lab/run tests/guest/run_test.sh). Names of tests may be given to run only those.
set -u
cd "$(dirname "$0")/../.." || exit 1
bin=${MAYFLY_BIN:-$PWD/build/release/bin}
mayfly=$bin/mayfly
vmm=$bin/mayfly-vmm
artifacts=${MAYFLY_ARTIFACTS:-$PWD/artifacts}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export XDG_RUNTIME_DIR=$work/runtime
mkdir -m 700 "$XDG_RUNTIME_DIR"
# No guest test may take longer than this: what takes longer hangs.
deadline=240

run() { timeout -k 5 "$deadline" "$mayfly" run "$@"; }

# expect WHAT WANTED GOT
expect() {
  [ "$2" = "$3" ] && return 0
  printf '    %s: wanted "%s", got "%s"\n' "$1" "$2" "$3"
  return 1
}

# mentions WHAT FILE TEXT
mentions() {
  grep -qF -- "$3" "$2" && return 0
  printf '    %s does not mention "%s":\n' "$1" "$3"
  sed 's/^/      /' "$2"
  return 1
}

# refused TEXT ARGUMENT…: mayfly run ends with 125 and one line that has TEXT in it.
refused() {
  local text=$1 status=0
  shift
  run "$@" >"$work/out" 2>"$work/err" </dev/null || status=$?
  expect "exit status" 125 "$status" && mentions "the error" "$work/err" "$text" &&
    expect "lines of the error" 1 "$(wc -l <"$work/err")" && expect "output" "" "$(cat "$work/out")"
}

# wait_until COMMAND…: polls until it succeeds.
wait_until() {
  local tries=$((deadline * 5))
  until "$@"; do
    [ $((tries -= 1)) -gt 0 ] || { printf '    gave up waiting for: %s\n' "$*"; return 1; }
    sleep 0.2
  done
}

test_three_results() {
  local status=0
  run -- sh -c 'echo out; echo err >&2; exit 7' >"$work/out" 2>"$work/err" || status=$?
  expect "exit status" 7 "$status" && expect "stdout" out "$(cat "$work/out")" && expect "stderr" err "$(cat "$work/err")"
}

test_stdin_100_mib() {
  head -c 100M /dev/urandom >"$work/data"
  local wanted got
  wanted=$(sha256sum <"$work/data")
  got=$(run -- sha256sum <"$work/data") || return 1
  expect "checksum from a file" "$wanted" "$got"
  rm -f "$work/data"
}

test_stdin_to_stdout_through_pipes() {
  local wanted got
  head -c 8M /dev/urandom >"$work/data"
  wanted=$(sha256sum <"$work/data")
  got=$(cat "$work/data" | run -- cat | sha256sum)
  expect "checksum" "$wanted" "$got"
}

test_empty_stdin() {
  expect "bytes" 0 "$(run -- wc -c </dev/null | tr -d ' ')"
}

test_large_output() {
  expect "checksum" "$(yes 0123456789 | head -c 20000000 | sha256sum)" "$(run -- sh -c 'yes 0123456789 | head -c 20000000' </dev/null | sha256sum)"
}

test_stdout_closed_early() {
  expect "first line" y "$(run -- yes </dev/null 2>/dev/null | head -n 1)"
}

test_signals() {
  local signal status pid
  for signal in TERM INT; do
    status=0
    : >"$work/out"
    # A job of this script would ignore SIGINT from the start; env gives it back its default.
    env --default-signal=INT "$mayfly" run -- sh -c 'trap "echo got it; exit 3" '$signal'; echo ready; while :; do sleep 0.1; done' \
      >"$work/out" 2>"$work/err" </dev/null &
    pid=$!
    wait_until grep -q ready "$work/out" || { kill -9 $pid; return 1; }
    kill -$signal $pid
    wait $pid || status=$?
    expect "exit status after SIG$signal" 3 "$status" && mentions "stdout" "$work/out" "got it" || return 1
  done
}

test_killed_by_signal() {
  local status=0
  run -- sh -c 'kill -9 $$' </dev/null || status=$?
  expect "exit status" 137 "$status"
}

test_not_found() {
  local status=0
  run -- no-such-program </dev/null 2>"$work/err" || status=$?
  expect "exit status" 127 "$status" && mentions "the error" "$work/err" no-such-program
}

test_cannot_be_run() {
  local status=0
  run -- /etc/passwd </dev/null 2>"$work/err" || status=$?
  expect "exit status" 126 "$status" && mentions "the error" "$work/err" /etc/passwd
}

test_timeout() {
  local status=0
  run --timeout 5 -- sleep 1000 </dev/null 2>"$work/err" || status=$?
  expect "exit status" 124 "$status"
}

test_environment_folder_and_user() {
  local got
  got=$(run --env 'A=b c' --workdir /var/tmp --user 1000 -- sh -c 'echo "$A|$(pwd)|$(id -u)"' </dev/null)
  expect "what the command sees" 'b c|/var/tmp|1000' "$got"
}

test_scratch_layer() {
  local before
  before=$(sha256sum <"$artifacts/rootfs.ext4")
  expect "what was written" 'written' "$(run -- sh -c 'echo written >/etc/scratch; cat /etc/scratch' </dev/null)" &&
    expect "what is left" 'gone' "$(run -- sh -c 'cat /etc/scratch 2>/dev/null || echo gone' </dev/null)" &&
    expect "the image" "$before" "$(sha256sum <"$artifacts/rootfs.ext4")"
}

test_read_only() {
  local status=0
  run --read-only -- sh -c 'touch /etc/x' </dev/null 2>"$work/err" || status=$?
  expect "exit status" 1 "$status" && mentions "the error" "$work/err" "Read-only file system"
}

test_writable() {
  cp "$artifacts/rootfs.ext4" "$work/own.ext4"
  run --rootfs "$work/own.ext4" --writable -- sh -c 'echo kept >/etc/kept' </dev/null || return 1
  expect "what is left" kept "$(run --rootfs "$work/own.ext4" -- cat /etc/kept </dev/null)" &&
    e2fsck -fn "$work/own.ext4" >"$work/out" 2>&1 || { sed 's/^/      /' "$work/out"; return 1; }
}

test_cpus() {
  local n
  for n in 1 2 4; do
    expect "nproc with --cpus $n" $n "$(run --cpus $n -- nproc </dev/null)" || return 1
  done
}

test_memory() {
  local mib
  mib=$(run --memory 512 -- sh -c 'awk "/MemTotal/{print int(\$2/1024)}" /proc/meminfo' </dev/null)
  [ "$mib" -gt 440 ] && [ "$mib" -le 512 ] || expect "MiB of memory" "441 to 512" "$mib"
}

test_tty() {
  local status=0
  script -qec "stty rows 31 cols 97; '$mayfly' run --tty -- sh -c 'tty; stty size; exit 5'" /dev/null >"$work/out" 2>&1 </dev/null || status=$?
  expect "exit status" 5 "$status" && mentions "the terminal" "$work/out" /dev/pts/ && mentions "its size" "$work/out" "31 97"
}

test_tty_resize_interrupt_and_restoration() {
  tests/guest/terminal_test.py "$mayfly"
}

test_tty_without_terminal() {
  refused "terminal" --tty -- true
}

test_three_at_once() {
  local i pids=() pid
  for i in 1 2 3; do
    run -- echo "number $i" >"$work/out$i" 2>&1 </dev/null &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || return 1; done
  for i in 1 2 3; do expect "output $i" "number $i" "$(cat "$work/out$i")" || return 1; done
}

test_guest_panic() {
  local status=0
  mkdir -p "$work/tree"
  mke2fs -q -F -t ext4 -O ^has_journal -d "$work/tree" "$work/empty.ext4" 4M >"$work/out" || return 1
  run --rootfs "$work/empty.ext4" -- true </dev/null >"$work/out" 2>"$work/err" || status=$?
  expect "exit status" 125 "$status" && mentions "the error" "$work/err" "Kernel panic" || return 1
  cat >"$work/panic.json" <<END
{"boot-source": {"kernel_image_path": "$artifacts/vmlinux", "boot_args": "console=ttyS0 loglevel=1 reboot=k,panic_warm panic=-1"},
 "drives": [{"drive_id": "root", "is_root_device": true, "is_read_only": true, "path_on_host": "$work/empty.ext4"}]}
END
  status=0
  timeout "$deadline" "$vmm" --no-api --config-file "$work/panic.json" >"$work/out" 2>"$work/err" </dev/null || status=$?
  expect "exit status of mayfly-vmm" 10 "$status" && mentions "the console" "$work/out" "Kernel panic"
}

# The serial port, with interrupts both ways: a shell on it is told what to do.
test_serial_console() {
  local status=0
  cat >"$work/console.json" <<END
{"boot-source": {"kernel_image_path": "$artifacts/vmlinux",
                 "boot_args": "console=ttyS0 loglevel=1 reboot=k,panic_warm panic=-1 init=/bin/sh"},
 "drives": [{"drive_id": "root", "is_root_device": true, "is_read_only": true, "path_on_host": "$artifacts/rootfs.ext4"}]}
END
  printf '%s\n' 'echo $((6 * 7)) is the answer' 'seq 1 500 | tail -n 1' 'grep ttyS0 /proc/interrupts || { mount -t proc proc /proc; grep ttyS0 /proc/interrupts; }' 'reboot -f' |
    timeout "$deadline" "$vmm" --no-api --config-file "$work/console.json" >"$work/out" 2>"$work/err" || status=$?
  expect "exit status" 0 "$status" && mentions "the console" "$work/out" "42 is the answer" && mentions "the console" "$work/out" 500 &&
    mentions "the interrupts" "$work/out" IO-APIC
}

test_initrd() {
  local status=0
  rm -rf "$work/initrd" && mkdir -p "$work/initrd/dev" || return 1
  cp "$(command -v busybox)" "$work/initrd/busybox" && mknod "$work/initrd/dev/console" c 5 1 || return 1
  printf '#!/busybox sh\necho the initrd is here\n/busybox reboot -f\n' >"$work/initrd/init"
  chmod +x "$work/initrd/init"
  (cd "$work/initrd" && find . | busybox cpio -o -H newc >"$work/initrd.cpio" 2>/dev/null) || return 1
  cat >"$work/initrd.json" <<END
{"boot-source": {"kernel_image_path": "$artifacts/vmlinux", "initrd_path": "$work/initrd.cpio",
                 "boot_args": "console=ttyS0 loglevel=1 reboot=k,panic_warm panic=-1"}}
END
  timeout "$deadline" "$vmm" --no-api --config-file "$work/initrd.json" >"$work/out" 2>"$work/err" </dev/null || status=$?
  expect "exit status" 0 "$status" && mentions "the console" "$work/out" "the initrd is here"
}

test_bad_kernels() {
  refused "$work/none" --kernel "$work/none" -- true || return 1
  head -c 1000 "$artifacts/vmlinux" >"$work/short"
  refused "$work/short" --kernel "$work/short" -- true || return 1
  head -c 100000 /dev/urandom >"$work/noise"
  refused "$work/noise" --kernel "$work/noise" -- true || return 1
  refused "$work" --kernel "$work" -- true
}

test_bad_images() {
  refused "$work/none" --rootfs "$work/none" -- true || return 1
  head -c 1M /dev/urandom >"$work/noise"
  refused "$work/noise" --rootfs "$work/noise" -- true
}

test_out_of_range() {
  refused "0" --cpus 0 -- true && refused "33" --cpus 33 -- true && refused "memory" --memory 0 -- true &&
    refused "MiB" --memory 4 -- true && refused "--bogus" --bogus -- true
}

# Nothing of the machine's is left: no process whose command line has our runtime folder, no folder in it.
nothing_left() {
  [ -z "$(ls -A "$XDG_RUNTIME_DIR/mayfly" 2>/dev/null)" ] && ! pgrep -f mayfly-vmm >/dev/null
}

test_killed_mayfly() {
  local pid
  : >"$work/out"
  "$mayfly" run -- sh -c 'echo ready; sleep 1000' >"$work/out" 2>/dev/null </dev/null &
  pid=$!
  wait_until grep -q ready "$work/out" || { kill -9 $pid; return 1; }
  pgrep -f mayfly-vmm >/dev/null || { echo '    no mayfly-vmm is running'; return 1; }
  kill -9 $pid
  wait $pid 2>/dev/null
  wait_until nothing_left
}

test_timing() {
  run --timing=json -- true </dev/null 2>"$work/err" || return 1
  tail -n 1 "$work/err" | jq -e '[.phases[].ms] | length >= 8 and . == sort' >/dev/null || { cat "$work/err"; return 1; }
}

passed=0 failed=0
for name in $(declare -F | sed -n 's/^declare -f test_//p'); do
  [ $# -eq 0 ] || [[ " $* " == *" $name "* ]] || continue
  began=$SECONDS
  if "test_$name"; then
    passed=$((passed + 1))
    printf 'ok      %s (%d s)\n' "$name" $((SECONDS - began))
  else
    failed=$((failed + 1))
    printf 'FAILED  %s (%d s)\n' "$name" $((SECONDS - began))
  fi
done
wait_until nothing_left || failed=$((failed + 1))
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
