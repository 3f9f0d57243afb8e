#!/bin/bash
# Tests of the lab itself. Prints a line a test, a summary, and ends with 1 when something failed.
# usage: lab/test.sh [PATTERN]    only the tests whose name matches, such as '^kept: terminal' or '^one'
set -u
here=$(dirname "$(realpath "$0")")
work=$(mktemp -d /tmp/lab-test.XXXXXX)
# A place of our own for what runs, so that nothing left behind can be told from the labs of others.
export XDG_RUNTIME_DIR=$work/run MAYFLY_LAB=kept
mkdir "$XDG_RUNTIME_DIR"
passed=0 failed=0 started=
pattern=${1:-.}

run() { "$here/run" "$@"; }
cleanup() {
    "$here/stop" --all
    rm -rf "$work"
}
trap cleanup EXIT

report() { # NAME, ok or not, DETAIL
    if [ "$2" = ok ]; then
        passed=$((passed + 1))
        echo "ok      $1"
    else
        failed=$((failed + 1))
        echo "FAILED  $1: $3"
    fi
}
# Runs a test function; it fails by `fail TEXT`. Each in a subshell, which "|| exit" leaves.
fail() { echo "$*" >"$work/why"; exit 1; }
equal() { [ "$1" = "$2" ] || fail "expected '$1', got '$2'"; }
test_case() { # NAME FUNCTION
    [[ $1 =~ $pattern ]] || return 0
    [[ $1 != kept:* || -n $started ]] || { "$here/start" --owner $$ && started=yes; } || exit 1
    echo "it ended early" >"$work/why"
    if ("$2"); then report "$1" ok; else report "$1" not "$(cat "$work/why")"; fi
}
# Waits for a condition that must come true; gives up after two minutes.
eventually() {
    for _ in $(seq 1200); do
        if "$@"; then return 0; fi
        sleep 0.1
    done
    fail "never came true: $*"
}
our_qemus() { pgrep -f "path=$XDG_RUNTIME_DIR/mayfly-lab" || true; }
no_qemu() { [ -z "$(our_qemus)" ]; }
state_is_empty() { [ -z "$(find "$XDG_RUNTIME_DIR"/mayfly-lab-* -mindepth 1 ! -name lock)" ]; }
nothing_left() {
    no_qemu || fail "QEMU runs"
    state_is_empty || fail "left: $(find "$XDG_RUNTIME_DIR"; cat "$XDG_RUNTIME_DIR"/mayfly-lab-*/*/keeper.log)"
}

## In a kept lab

streams_and_status() {
    run sh -c 'echo out; echo err >&2; exit 7' >"$work/out" 2>"$work/err"
    equal 7 $?
    equal out "$(cat "$work/out")"
    equal err "$(cat "$work/err")"
}
death_by_signal() { run sh -c 'kill -9 $$'; equal 137 $?; }
not_found() {
    run no-such-command 2>"$work/err"
    equal 127 $?
    equal "lab: no-such-command: command not found" "$(cat "$work/err")"
}
cannot_run() { run /etc/passwd 2>/dev/null; equal 126 $?; }
working_directory() { cd /usr/share; equal /usr/share "$(run pwd)"; }
missing_directory() {
    mkdir "$work/gone"; cd "$work/gone" || exit; rmdir "$work/gone"
    run true 2>"$work/err"
    equal 125 $?
}
environment() {
    export MAYFLY_TEST='a  b' LANG=C.UTF-8 SECRET=no OTHER=yes
    equal "a  b C.UTF-8  yes $here/../build/lab-out 1=2" \
        "$(run --env OTHER --env X=1=2 sh -c 'echo "$MAYFLY_TEST $LANG $SECRET $OTHER $LAB_OUT $X"' | sed "s,$(realpath "$here/../build/lab-out"),$here/../build/lab-out,")"
}
arguments() { equal "<a b><><-x><'\"\$\\>" "$(run printf '<%s>' 'a b' '' -x "'\"\$\\")"; }
long_arguments() {
    long=$(head -c 100000 /dev/zero | tr '\0' x)
    equal 400000 "$(run printf %s%s%s%s "$long" "$long" "$long" "$long" | wc -c)"
}
large_stdin() {
    head -c 64M /dev/urandom >"$work/data"
    equal "$(sha256sum <"$work/data")" "$(run sha256sum <"$work/data")"
}
large_both_ways() { equal "$(sha256sum <"$work/data")" "$(run cat <"$work/data" | sha256sum)"; }
large_stderr() {
    equal "$(sha256sum <"$work/data")" "$(run sh -c 'cat >&2' <"$work/data" 2>&1 >/dev/null | sha256sum)"
}
stdin_pipe_end() { equal 3 "$(printf abc | run wc -c)"; }
stdin_empty() { equal 0 "$(run wc -c </dev/null)"; }
stdin_off() { equal 0 "$(yes | run -n wc -c)"; }
stdin_ignored() { yes | run true; equal 0 "${PIPESTATUS[1]}"; }
reader_gone() {
    run yes | head -1 >/dev/null
    equal 141 "${PIPESTATUS[0]}"
}
left_running() { equal done "$(run sh -c 'sleep 1000 & echo done')"; }
results_come_out() {
    rm -f "$here/../build/lab-out/test-$$"
    run sh -c "echo inside >\$LAB_OUT/test-$$"
    equal inside "$(cat "$here/../build/lab-out/test-$$")"
    rm "$here/../build/lab-out/test-$$"
}
results_go_in() {
    echo outside >"$here/../build/lab-out/test-$$"
    equal outside "$(run sh -c "cat \$LAB_OUT/test-$$")"
    rm "$here/../build/lab-out/test-$$"
}
outside_unchanged() {
    echo before >"$work/file"
    equal after "$(run sh -c "echo after >$work/scratch; cat $work/scratch")"
    [ ! -e "$work/scratch" ] || fail "a file written inside came out"
}
outside_changes_seen() {
    echo 1 >"$work/changing"
    equal 1 "$(run cat "$work/changing")"
    echo 22 >"$work/changing.new"
    mv "$work/changing.new" "$work/changing"
    equal 22 "$(run cat "$work/changing")"
    echo 333 >"$work/changing"
    equal 333 "$(run cat "$work/changing")"
    run cat "$work/new" 2>/dev/null && fail "a file that is not there"
    echo new >"$work/new"
    equal new "$(run cat "$work/new")"
    rm "$work/new"
    run cat "$work/new" 2>/dev/null && fail "a file that is gone"
    true
}
time_limit() {
    run --timeout 2 sh -c 'sleep 1000 & trap "" TERM INT; sleep 1001; sleep 1002' 2>"$work/err"
    equal 124 $?
    equal "lab: timed out after 2 s" "$(cat "$work/err")"
    equal "" "$(run pgrep -x sleep -a | grep 100 | grep -v 'sleep 1000$')"
}
signal_passed() {
    "$here/run" sh -c 'trap "echo caught; exit 9" TERM; echo ready; while :; do sleep 0.1; done' >"$work/out" &
    eventually grep -q ready "$work/out"
    kill -TERM $!
    wait $!
    equal 9 $?
    equal caught "$(tail -1 "$work/out")"
}
killed_caller() {
    "$here/run" sh -c 'echo started; exec sleep 2000' >"$work/out" &
    eventually grep -q started "$work/out"
    kill -KILL $!
    no_sleep() { ! run pgrep -f 'sleep 2000' >/dev/null; }
    eventually no_sleep
}
many_at_once() {
    pids=()
    for i in $(seq 12); do # more than there are slots
        (yes "$i" | head -c 1M | run md5sum >"$work/many-$i") &
        pids+=($!)
    done
    wait "${pids[@]}"
    for i in $(seq 12); do equal "$(yes "$i" | head -c 1M | md5sum)" "$(cat "$work/many-$i")"; done
}
a_host() {
    "$here/run" sh -c 'test "$(id -u)" = 0 && test "$(hostname)" = lab && test -w /dev/shm && test -c /dev/net/tun &&
        grep -qw memory /sys/fs/cgroup/cgroup.controllers && test -d /sys/kernel/tracing/events/kvm/kvm_exit &&
        test -c /dev/ptmx && ip link show lo | grep -q ,UP && test "$(stat -c %a /dev/kvm)" = 666' || fail "something is missing"
    modprobe=$(command -v modprobe || echo /usr/sbin/modprobe)
    if [ -x "$modprobe" ]; then
        run sh -c 'PATH=$PATH:/usr/sbin; modprobe veth && ip link add type veth && modprobe nf_tables && modprobe bridge' ||
            fail "no module loads"
    fi
}
clock() {
    before=$(date +%s) inside=$(run date +%s) after=$(date +%s)
    ((before - 1 <= inside && inside <= after + 1)) || fail "inside $inside, outside $before to $after"
}
kvm_works() {
    gcc -O1 -o "$work/tiny_guest" "$here/tests/tiny_guest.c"
    equal "K halted" "$(run "$work/tiny_guest")"
}
on_terminal() { python3 "$here/tests/on_terminal.py" "$@"; }
terminal() {
    on_terminal -- "$here/run" sh -c 'test -t 0 && test -t 1 && test -t 2 && stty size; exit 3' >"$work/out"
    equal 3 $?
    equal "31 97" "$(tr -d '\r' <"$work/out")"
}
terminal_interrupt() {
    on_terminal 'ready=>\x03' -- "$here/run" sh -c 'trap "echo interrupted; exit 4" INT; echo ready; while :; do sleep 0.1; done' >"$work/out"
    equal 4 $?
    grep -q interrupted "$work/out" || fail "$(cat "$work/out")"
}
terminal_resize() {
    on_terminal 'ready=>RESIZE' -- "$here/run" bash -c 'trap "stty size; exit 5" WINCH; echo ready; while :; do sleep 0.1; done' >"$work/out"
    equal 5 $?
    grep -q "40 120" "$work/out" || fail "$(cat "$work/out")"
}
terminal_restored() {
    on_terminal -- sh -c "stty -a >$work/before; $here/run true; stty -a >$work/after" >"$work/out"
    equal "$(cat "$work/before")" "$(cat "$work/after")"
}
terminal_shell() {
    on_terminal '# =>echo $((6 * 7))\n' '42=>exit 6\n' -- "$here/run" env PS1='# ' sh >"$work/out"
    equal 6 $?
}
start_twice() { "$here/start" 2>"$work/err" || fail "status $?"; grep -q "up already" "$work/err" || fail "$(cat "$work/err")"; }
other_settings() { run --memory 2048 true 2>"$work/err"; equal 125 $?; }
panic_in_kept() {
    "$here/run" sleep 1000 2>"$work/err2" &
    other=$!
    run sh -c 'echo c >/proc/sysrq-trigger; sleep 1000' 2>"$work/err"
    equal 123 $?
    grep -q "^lab: the emulated host locked up (Kernel panic.*); starting afresh$" "$work/err" || fail "$(cat "$work/err")"
    wait $other
    equal 123 $?
    equal again "$(run echo again)"
}
soft_lockup() {
    say='echo "<0>watchdog: BUG: soft lockup - CPU#0 stuck for 23s!" >/dev/kmsg'
    run sh -c "$say; sleep 1; $say; sleep 1; exit 5" # it may only have been busy outside
    equal 5 $?
    run sh -c "$say; sleep 12; $say; sleep 1000" 2>"$work/err"
    equal 123 $?
    grep -q "soft lockup - CPU#0" "$work/err" || fail "$(cat "$work/err")"
    equal again "$(run echo again)"
}
retry() {
    marker=$here/../build/lab-out/test-retry-$$
    run -n --retry-on-lockup 2 sh -c "test -e $marker && exit 8; touch $marker; sync; echo c >/proc/sysrq-trigger; sleep 1000" 2>"$work/err"
    equal 8 $?
    rm "$marker"
    grep -q "running the command again" "$work/err" || fail "$(cat "$work/err")"
}
no_retry_without_lockup() {
    run -n --retry-on-lockup 2 sh -c "echo x >>$work/tries; exit 123" 2>"$work/err"
    equal 123 $?
    equal "" "$(cat "$work/err")"
}
stopped() {
    "$here/run" sh -c 'echo started; exec sleep 1000' >"$work/out" 2>"$work/err" &
    eventually grep -q started "$work/out"
    "$here/stop" || fail "status $?"
    wait $!
    equal 123 $?
    equal "lab: the lab was stopped while the command ran" "$(cat "$work/err")"
    nothing_left
    "$here/stop" || fail "second stop: status $?"
}

## A lab for one command

one_command() {
    echo in | run sh -c 'cat; echo err >&2; exit 7' >"$work/out" 2>"$work/err"
    equal 7 "${PIPESTATUS[1]}"
    equal in "$(cat "$work/out")"
    equal err "$(cat "$work/err")"
    nothing_left
}
panic_in_one() {
    run -n sh -c 'echo c >/proc/sysrq-trigger; sleep 1000' 2>"$work/err"
    equal 123 $?
    nothing_left
}
killed_with_its_lab() { # SIGNAL
    "$here/run" sh -c 'echo started; exec sleep 1000' >"$work/out" &
    eventually grep -q started "$work/out"
    kill "-$1" $!
    wait $! 2>/dev/null
    eventually no_qemu
    eventually state_is_empty
}
killed_caller_of_one() { killed_with_its_lab KILL; }
terminated_caller_of_one() { killed_with_its_lab TERM; }
killed_while_booting() {
    "$here/run" true &
    eventually test -n "$(sleep 1; our_qemus)"
    kill -KILL $!
    eventually no_qemu
    eventually state_is_empty
}
killed_keeper() {
    "$here/run" sh -c 'echo started; exec sleep 1000' >"$work/out" 2>"$work/err" &
    eventually grep -q started "$work/out"
    info=$(echo "$XDG_RUNTIME_DIR"/mayfly-lab-*/once-*/info)
    kill -KILL "$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["keeper"])' "$info")"
    eventually no_qemu
    wait $!
    equal 123 $?
    equal next "$(run echo next)"
    nothing_left
}
owner_gone() {
    sleep 1000 &
    "$here/start" --name owned --owner $! 2>/dev/null || fail "status $?"
    kill $!
    eventually no_qemu
    eventually state_is_empty
}
idle_ends() {
    "$here/start" --name idle --idle 1 2>/dev/null || fail "status $?"
    eventually no_qemu
    eventually state_is_empty
}
no_memory() { # more than any machine here has
    run --memory 65536 --fresh sh -c 'exit 0' 2>"$work/err" <&- # where it has: an overcommitted lab still runs
    status=$?
    [ $status = 0 ] || { equal 125 $status; grep -q "QEMU ended" "$work/err"; } || fail "$(cat "$work/err")"
}
closed_streams() {
    run sh -c 'echo out; echo err >&2; cat; exit 3' <&- >&- 2>"$work/err"
    equal 3 $?
    equal err "$(cat "$work/err")"
}
cold_start() { equal cold "$(run --cold echo cold)"; }
broken_saved_state() {
    real=${MAYFLY_CACHE:-$HOME/.cache/mayfly}/lab
    mkdir -p "$work/cache/lab"
    ln -s "$real/kernel" "$real/image" "$work/cache/lab"
    export MAYFLY_CACHE=$work/cache
    equal first "$(run echo first 2>"$work/err")"
    grep -q "for the first time" "$work/err" || fail "$(cat "$work/err")"
    truncate -s 1M "$work"/cache/lab/saved/*
    equal second "$(run echo second)"
    [ -z "$(ls "$work/cache/lab/saved")" ] || fail "the broken state is still there"
    no_qemu || fail "QEMU runs"
}
own_randomness() {
    random="head -c 16 /dev/urandom | od -An -tx1"
    [ "$(run sh -c "$random")" != "$(run sh -c "$random")" ] || fail "two labs drew the same bytes"
}
two_at_once() {
    "$here/run" echo 1 >"$work/two-1" &
    run echo 2 >"$work/two-2"
    wait $!
    equal "1 2" "$(cat "$work/two-1") $(cat "$work/two-2")"
}

## Bad input

refused() { # EXPECTED-MESSAGE-PART ARGUMENTS
    part=$1; shift
    run "$@" 2>"$work/err"
    equal 125 $?
    equal 1 "$(wc -l <"$work/err")"
    grep -q -- "$part" "$work/err" || fail "$(cat "$work/err")"
}
bad_options() {
    refused "unknown option --frobnicate" --frobnicate true
    refused "512 to 65536" --memory 12 true
    refused "512 to 65536" --memory lots true
    refused "1 to 16" --cpus 0 true
    refused "takes no value" --keep=1 true
    refused "wants SECONDS" --timeout
    refused "number of seconds" --timeout -3 true
    refused "no command" --
    refused "exclude each other" --keep --fresh true
    refused "letters" --name ../x true
}
help() { run --help | grep -q "lab/run bash" && "$here/start" --help | grep -q usage && "$here/stop" --help | grep -q usage || fail "no help"; }
no_cache_folder() { MAYFLY_CACHE=/proc/none run true 2>"$work/err"; equal 125 $?; }

test_case "bad options are refused in one line" bad_options
test_case "help" help
test_case "a cache that cannot be written" no_cache_folder

test_case "kept: output, error output and status are apart" streams_and_status
test_case "kept: death by a signal" death_by_signal
test_case "kept: command not found" not_found
test_case "kept: a file that is no program" cannot_run
test_case "kept: working directory" working_directory
test_case "kept: working directory that is gone" missing_directory
test_case "kept: environment" environment
test_case "kept: arguments" arguments
test_case "kept: long arguments" long_arguments
test_case "kept: 64 MiB through stdin" large_stdin
test_case "kept: 64 MiB both ways" large_both_ways
test_case "kept: 64 MiB through stderr" large_stderr
test_case "kept: the end of stdin" stdin_pipe_end
test_case "kept: empty stdin" stdin_empty
test_case "kept: no stdin" stdin_off
test_case "kept: a command that does not read its stdin" stdin_ignored
test_case "kept: nobody reads the output" reader_gone
test_case "kept: a process left running" left_running
test_case "kept: files come out" results_come_out
test_case "kept: files go in" results_go_in
test_case "kept: other files stay inside" outside_unchanged
test_case "kept: files changed outside are seen" outside_changes_seen
test_case "kept: time limit" time_limit
test_case "kept: signals reach the command" signal_passed
test_case "kept: the command of a killed caller ends" killed_caller
test_case "kept: many commands at once" many_at_once
test_case "kept: what a host has" a_host
test_case "kept: the clock" clock
test_case "kept: KVM runs a guest" kvm_works
test_case "kept: terminal" terminal
test_case "kept: terminal, Ctrl-C" terminal_interrupt
test_case "kept: terminal, resize" terminal_resize
test_case "kept: terminal as it was afterwards" terminal_restored
test_case "kept: terminal, a dialogue" terminal_shell
test_case "kept: starting it again" start_twice
test_case "kept: other settings are refused" other_settings
test_case "kept: a panic ends all commands, and it starts afresh" panic_in_kept
test_case "kept: a soft lockup is noticed" soft_lockup
test_case "kept: running again after a lockup" retry
test_case "kept: not running again without one" no_retry_without_lockup
test_case "kept: stop leaves nothing" stopped
"$here/stop"

test_case "one: streams and status, and nothing left" one_command
test_case "one: a panic" panic_in_one
test_case "one: SIGKILL of the caller" killed_caller_of_one
test_case "one: SIGTERM of the caller" terminated_caller_of_one
test_case "one: SIGKILL of the caller while booting" killed_while_booting
test_case "one: SIGKILL of the keeper" killed_keeper
test_case "one: streams that are closed" closed_streams
test_case "one: more memory than there is" no_memory
test_case "one: from power-on" cold_start
test_case "one: a saved state that does not load" broken_saved_state
test_case "one: two labs draw different random bytes" own_randomness
test_case "one: two labs at once" two_at_once
test_case "the owner of a kept lab ends" owner_gone
test_case "an idle lab ends" idle_ends

echo "lab: $passed passed, $failed failed"
[ "$failed" = 0 ]
