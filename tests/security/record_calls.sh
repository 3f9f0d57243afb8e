#!/usr/bin/env bash
# record_calls.sh RECORD COMMAND…: runs the command while the kernel records the system calls of every mayfly-vmm, and leaves
# in RECORD one line of each kind. For mayfly-filter audit, which says what of the policies nothing used. Needs root and
# tracefs; the lab has both: lab/run tests/security/record_calls.sh …
# Ends with the command's status, or with 125 where nothing can be recorded.
set -u -o pipefail
record=$1
shift
tracing=/sys/kernel/tracing
event=$tracing/events/raw_syscalls/sys_enter
[ -d "$tracing/events" ] || mount -t tracefs tracefs "$tracing" || exit 125
[ -d "$event" ] || { printf 'record_calls.sh: this kernel has no event raw_syscalls:sys_enter\n' >&2; exit 125; }

echo 65536 >"$tracing/buffer_size_kb" || exit 125
echo 4096 >"$tracing/saved_cmdlines_size" # names of threads
echo 'comm == "vmm" || comm == "api" || comm ~ "vcpu*"' >"$event/filter" || exit 125
pipe=$(mktemp -u)
mkfifo "$pipe"
cat "$tracing/trace_pipe" >"$pipe" &
reader=$!
# Kinds of calls, by their arguments but for pointers, from the call on that installs the thread's filter (317).
awk '
  / LOST / { print }
  match($0, /: sys_enter: NR [0-9]+ /) {
    task = $1
    call = substr($0, RSTART + 16) + 0
    if (call == 317 || call == 60 || call == 231) { print; confined[task] = call == 317; if (call == 317) next }
    else if (!(task in confined) || !confined[task]) next
    kind = task
    sub(/[0-9]*-[0-9]+$/, "", kind)
    arguments = substr($0, RSTART)
    gsub(/[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]+/, "pointer", arguments)
    if (!seen[kind, arguments]++) print
  }' <"$pipe" >"$record" &
writer=$!
echo 1 >"$event/enable" || exit 125
status=0
"$@" || status=$?
echo 0 >"$event/enable"
until awk '/^entries:/ && $2 > 0 { exit 1 }' "$tracing"/per_cpu/cpu*/stats || ! kill -0 "$reader" 2>/dev/null; do sleep 0.2; done
sleep 1 # for what was read to be written
kill "$reader" 2>/dev/null
wait "$reader" "$writer" 2>/dev/null
rm "$pipe"
cat "$tracing"/per_cpu/cpu*/stats | awk '/^overrun/ && $2 > 0 { print "CPU:? [LOST " $2 " EVENTS]" }' >>"$record"
exit "$status"
