#!/usr/bin/env bash
# Machines that run detached, with real Linux guests: every subcommand of `mayfly` that is about them. Runs where guests run:
# on hardware virtualization, or in the lab (lab/run tests/guest/lifecycle_test.sh). One machine serves most checks.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/guest/checks.sh
bin=${MAYFLY_BIN:-$PWD/build/release/bin}
work=$(mktemp -d)
export XDG_RUNTIME_DIR=$work/runtime
mkdir -m 700 "$XDG_RUNTIME_DIR"
# No command may take longer than this: what takes longer hangs.
deadline=240
mayfly() { timeout -k 5 "$deadline" "$bin/mayfly" "$@"; }
finish() {
  local names
  names=$(mayfly ps -q) && [ -n "$names" ] && mayfly kill $names
  rm -rf "$work"
}
trap finish EXIT

# same WANTED GOT
same() {
  [ "$1" = "$2" ] && return 0
  printf '    wanted "%s", got "%s"\n' "$1" "$2"
  return 1
}
# status WANTED COMMAND…: its output is in $work/out and $work/err.
status() {
  local wanted=$1 got=0
  shift
  "$@" >"$work/out" 2>"$work/err" || got=$?
  [ "$got" -eq "$wanted" ] && return 0
  printf '    exit status %s instead of %s\n' "$got" "$wanted"
  sed 's/^/      /' "$work/out" "$work/err"
  return 1
}
# says TEXT: one line on standard error, with this in it.
says() {
  grep -qF -- "$1" "$work/err" && [ "$(wc -l <"$work/err")" -eq 1 ] && return 0
  printf '    wanted one line with "%s"\n' "$1"
  sed 's/^/      /' "$work/err"
  return 1
}
refused() {
  local text=$1
  shift
  status 125 "$@" && says "$text"
}
wait_until() {
  local tries=$((deadline * 5))
  until "$@"; do
    [ $((tries -= 1)) -gt 0 ] || { printf '    gave up waiting for: %s\n' "$*"; return 1; }
    sleep 0.2
  done
}
# field FILTER: of the JSON on standard input.
field() { jq -r "$1"; }
nothing_left() {
  [ -z "$(find "$XDG_RUNTIME_DIR" -mindepth 1 ! -type d ! -name .lock)" ] && ! pgrep -f mayfly-vmm >/dev/null
}

# ---- start, list, read ----
# What the machine "main" does; a file makes it tick.
main='trap "echo bye; sleep 1; exit 4" TERM; echo out; echo err >&2; i=0
      while :; do [ -e /tmp/tick ] && echo tick $((i += 1)) | tee /tmp/ticks; sleep 0.1; done'
start_main() { status 0 mayfly run --detach --name main --cpus 1 -- sh -c "$main" && same main "$(cat "$work/out")"; }
check "run --detach prints the name, and returns" start_main
check "ps -q" same main "$(mayfly ps -q)"
check "ps --json" same "main running 128" "$(mayfly ps --json | field '.[0] | "\(.name) \(.state) \(.memory_mib)"')"
ps_table() { mayfly ps >"$work/out" && grep -q '^NAME .*COMMAND' "$work/out" && grep -q '^main  *running ' "$work/out"; }
check "ps" ps_table
logs_are() { mayfly logs main >"$work/out" 2>"$work/err" && same out "$(cat "$work/out")" && same err "$(cat "$work/err")"; }
check "logs, by stream" wait_until logs_are
check "inspect is JSON" same "main running 1" "$(mayfly inspect main | field '"\(.name) \(.state | ascii_downcase) \(.configuration["machine-config"].vcpu_count)"')"
check "a name that is taken" refused "main runs already" mayfly run --detach --name main -- true
check "a name that is none" refused "no name for a machine" mayfly run --detach --name 'a/b' -- true
check "a machine that is not there" refused "these do: main" mayfly stop nobody

# ---- exec ----
exec_apart() {
  status 7 mayfly exec main -- sh -c 'echo o; echo e >&2; cat; exit 7' && same o "$(cat "$work/out")" && same e "$(cat "$work/err")"
}
check "exec: output, errors and status apart; no input without -i" exec_apart
exec_input() {
  head -c 3M /dev/urandom >"$work/data"
  same "$(sha256sum <"$work/data")" "$(mayfly exec -i main -- sha256sum <"$work/data")" &&
    same "$(sha256sum <"$work/data")" "$(mayfly exec -i main -- cat <"$work/data" | sha256sum)"
}
check "exec -i: input and output unchanged" exec_input
check "exec: environment, folder and user" same 'b c|/var/tmp|1000' \
  "$(mayfly exec -e 'A=b c' -w /var/tmp -u 1000 main -- sh -c 'echo "$A|$(pwd)|$(id -u)"')"
check "exec of what is not there" status 127 mayfly exec main -- no-such-program
check "exec in a machine that is not there" refused "these do: main" mayfly exec nobody -- true
exec_signal() {
  : >"$work/out"
  env --default-signal=INT "$bin/mayfly" exec main -- sh -c 'trap "echo got it; exit 3" INT; echo ready; while :; do sleep 0.1; done' >"$work/out" &
  local pid=$! got=0
  wait_until grep -q ready "$work/out" || { kill -9 $pid; return 1; }
  kill -INT $pid
  wait $pid || got=$?
  same 3 "$got" && grep -q "got it" "$work/out"
}
check "exec: signals reach the command" exec_signal
exec_killed() {
  "$bin/mayfly" exec main -- sleep 12345 &
  local pid=$!
  wait_until mayfly exec main -- sh -c 'ps | grep -q "sleep 1234[5]"' || return 1
  kill -9 $pid
  wait $pid 2>/dev/null
  wait_until mayfly exec main -- sh -c '! ps | grep -q "sleep 1234[5]"'
}
check "exec that is killed takes its command along" exec_killed
exec_tty() {
  script -qec "stty rows 31 cols 97; '$bin/mayfly' exec -it main -- sh -c 'tty; stty size; exit 5'" /dev/null >"$work/out" 2>&1 </dev/null
  same 5 $? && grep -q /dev/pts/ "$work/out" && grep -q '31 97' "$work/out"
}
check "exec -t: a terminal of our terminal's size" exec_tty
exec_three() {
  local i pids=() pid
  for i in 1 2 3; do
    mayfly exec main -- sh -c "sleep 0.2; echo number $i" >"$work/out$i" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || return 1; done
  same "number 1number 2number 3" "$(cat "$work"/out[123] | tr -d '\n')"
}
check "three execs at once" exec_three

# ---- pause, resume, stats, console ----
count_ticks() { mayfly logs main 2>/dev/null | grep -c tick; }
pause_pauses() {
  local before cpu
  mayfly exec main -- touch /tmp/tick && wait_until mayfly exec main -- test -s /tmp/ticks || return 1
  status 0 mayfly pause main && status 0 mayfly pause main || return 1
  before=$(count_ticks)
  cpu=$(mayfly stats --json main | field '.[0].cpu_ms')
  sleep 2
  same "$before" "$(count_ticks)" && same paused "$(mayfly ps --json | field '.[0].state')" || return 1
  # What answers our questions is all that works; the guest would have used most of this time.
  cpu=$(($(mayfly stats --json main | field '.[0].cpu_ms') - cpu))
  [ "$cpu" -lt 1500 ] || same "little CPU time" "$cpu ms"
}
check "pause stops the guest" pause_pauses
check "exec in a paused machine" refused "main is paused: mayfly resume main" mayfly exec main -- true
ticks_go_on() {
  local before
  before=$(count_ticks)
  status 0 mayfly resume main && wait_until eval '[ "$(count_ticks)" -gt '"$before"' ]' && status 0 mayfly exec main -- rm /tmp/tick
}
check "resume lets it go on" ticks_go_on
check "pause of what is not there" refused "these do: main" mayfly pause nobody
stats_json() {
  mayfly stats --json >"$work/out" &&
    same "main true true true" "$(field '.[0] | "\(.name) \(.cpu_ms > 0) \(.memory_bytes > 1000000) \(.counters.mayfly_block_read_bytes > 0)"' <"$work/out")"
}
check "stats --json" stats_json
stats_watch() {
  timeout 6 "$bin/mayfly" stats --watch main >"$work/out"
  [ "$(grep -c '^main .*running' "$work/out")" -ge 2 ]
}
check "stats --watch" stats_watch
console_shows() {
  "$bin/mayfly" console main >"$work/console" </dev/null &
  local pid=$!
  mayfly exec main -- sh -c 'echo from the guest >/dev/ttyS0' || return 1
  wait_until grep -q "from the guest" "$work/console" || { kill $pid; return 1; }
  kill $pid
  wait $pid 2>/dev/null
  mayfly logs --console main 2>/dev/null | grep -q "from the guest"
}
check "console shows what the guest writes, and logs --console has it" console_shows
console_types() {
  mayfly exec main -- sh -c 'head -n 1 </dev/ttyS0 >/tmp/typed' &
  local reader=$! typist
  (while :; do echo hello there; sleep 1; done) 2>/dev/null | "$bin/mayfly" console main >/dev/null &
  typist=$!
  wait_until mayfly exec main -- grep -q "hello there" /tmp/typed
  local result=$?
  kill $typist
  wait $reader
  return $result
}
check "what is typed on the console arrives" console_types
check "console, stats --watch and exec -it on a terminal" tests/guest/terminal_test.py "$bin/mayfly" main

# ---- cp ----
tree_sum() { (cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum; find . -type l -printf '%p %l\n' | sort) | sha256sum; }
copies() {
  mkdir -p "$work/tree/sub dir" && head -c 2M /dev/urandom >"$work/tree/sub dir/a&b" && echo text >"$work/tree/file" &&
    ln -s /etc/passwd "$work/tree/link" || return 1
  status 0 mayfly cp "$work/tree" main:/tmp && status 0 mayfly cp "$work/tree" 'main:/tmp/o[t]her&' || return 1
  status 0 mayfly cp main:/tmp/tree "$work/back" && same "$(tree_sum "$work/tree")" "$(tree_sum "$work/back")" || return 1
  status 0 mayfly cp 'main:/tmp/o[t]her&/' "$work" && same "$(tree_sum "$work/tree")" "$(tree_sum "$work/o[t]her&")" || return 1
  same 0 "$(mayfly exec main -- stat -c %u /tmp/tree/file)"
}
check "cp of folders, both ways" copies
copies_file() {
  status 0 mayfly cp "$work/data" main:/tmp/renamed && same "$(sha256sum <"$work/data")" "$(mayfly exec main -- cat /tmp/renamed | sha256sum)" &&
    status 0 mayfly cp main:/tmp/renamed "$work/tree/file" && cmp "$work/data" "$work/tree/file"
}
check "cp of a file, with another name" copies_file
check "cp of what is not there" refused "no-such" mayfly cp main:/tmp/no-such "$work"
check "cp from a file of ours that is not there" refused "no-such" mayfly cp "$work/no-such" main:/tmp
check "cp over a folder" refused "is there already" mayfly cp main:/tmp/tree "$work"
check "cp with no machine" refused "one end" mayfly cp a b
# A guest's tar that sends what nobody asked for: another name, a path that leads out, a device.
hostile_tar() {
  mkdir -p "$work/target" "$work/evil" && echo evil >"$work/evil/other" && ln -s "$work" "$work/evil/way" || return 1
  tar -C "$work/evil" -cf "$work/name.tar" other && tar -C "$work/evil" -cPf "$work/up.tar" --transform 's,^other,asked/../../escaped,' other &&
    tar -C "$work/evil" -cf "$work/through.tar" way && tar -C "$work/evil" --transform 's,^other,way/escaped,' -rf "$work/through.tar" other || return 1
  mknod "$work/evil/asked" c 1 3 && tar -C "$work/evil" -cf "$work/device.tar" asked || return 1
  local kind
  for kind in name up through device; do
    status 0 mayfly cp "$work/$kind.tar" main:/tmp/evil.tar || return 1
    mayfly exec main -- sh -c 'mkdir -p /usr/local/sbin; printf "#!/bin/sh\nexec cat /tmp/evil.tar\n" >/usr/local/sbin/tar; chmod +x /usr/local/sbin/tar' || return 1
    # Asked for by the name it has, where it is the way out that counts.
    status 125 mayfly cp "main:/tmp/$([ $kind = through ] && echo way || echo asked)" "$work/target" || { printf '    (%s)\n' "$kind"; return 1; }
    mayfly exec main -- rm /usr/local/sbin/tar
    [ ! -e "$work/escaped" ] && [ -z "$(ls -A "$work/target")" ] || { printf '    %s left something\n' "$kind"; ls -lA "$work" "$work/target"; return 1; }
  done
}
check "cp from a guest whose tar lies leaves nothing" hostile_tar
no_tar() {
  mayfly exec main -- sh -c 'mv /bin/tar /bin/tar.away' && refused "no program tar" mayfly cp main:/tmp/renamed "$work/x"
  local result=$?
  mayfly exec main -- mv /bin/tar.away /bin/tar
  return $result
}
check "cp from a guest without tar" no_tar

# ---- completion, version ----
completes() {
  PATH=$bin:$PATH bash -c 'source <(mayfly completion bash); COMP_WORDS=(mayfly exec ma); COMP_CWORD=2; _mayfly; echo "${COMPREPLY[@]}"
    COMP_WORDS=(mayfly run --publ); _mayfly; echo "${COMPREPLY[@]}"' >"$work/out" && same "main --publish" "$(paste -sd' ' "$work/out")"
}
check "completion of names and options in bash" completes
check "version" same true "$(mayfly version --json | field 'has("version")')"

# ---- stop ----
exec_outlived() {
  mayfly exec main -- sh -c 'echo up >/tmp/up; sleep 1000' >/dev/null 2>"$work/err" &
  local pid=$! got=0
  wait_until mayfly exec main -- test -e /tmp/up || return 1
  follow_to_the_end || return 1
  wait $pid || got=$?
  same 125 "$got" && grep -q "main: the machine ended" "$work/err"
}
# One that looks when the other is done already says so.
stop_or_gone() { mayfly stop main 2>"$work/stop$1" || grep -q "no machine named main" "$work/stop$1" || { cat "$work/stop$1"; return 1; }; }
follow_to_the_end() {
  mayfly logs -f main >"$work/followed" 2>/dev/null &
  local follower=$! waited=0 waiter first
  mayfly wait main &
  waiter=$!
  wait_until grep -q out "$work/followed" || return 1
  stop_or_gone 1 &
  first=$!
  stop_or_gone 2 && wait $first && wait $follower || return 1
  wait $waiter || waited=$?
  same 4 "$waited" && grep -q bye "$work/followed"
}
check "two stops at once; logs -f, wait and exec see the end" exec_outlived
check "nothing is left of it" wait_until nothing_left
check "ps, when nothing runs" same "" "$(mayfly ps -q)"

# ---- ends ----
idle() {
  status 0 mayfly run --detach --name idle || return 1
  same 42 "$(mayfly exec idle -- sh -c 'echo $((6 * 7))')" && status 0 mayfly pause idle && status 0 mayfly stop idle &&
    wait_until nothing_left
}
check "without a command: exec, pause, stop" idle
stubborn() {
  status 0 mayfly run --detach --name stubborn -- sh -c 'trap "" TERM; while :; do sleep 0.1; done' || return 1
  status 0 mayfly stop --timeout 1 stubborn && wait_until nothing_left
}
check "a command that does not heed SIGTERM is powered off" stubborn
check "a command that is not there" status 127 mayfly run --detach -- no-such-program
killed() {
  status 0 mayfly run --detach --name victim || return 1
  kill -9 "$(mayfly inspect victim | field .pid)"
  wait_until nothing_left && same "" "$(mayfly ps -q)"
}
check "who keeps a machine is killed: the machine ends, its entry is gone" killed
ten() {
  local i pids=() pid names
  for i in 1 2 3 4 5 6 7 8 9 10; do
    mayfly run --detach --memory 64 >"$work/name$i" 2>"$work/err$i" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || { cat "$work"/err*; return 1; }; done
  names=$(mayfly ps -q)
  same 10 "$(wc -l <<<"$names")" && same "$(cat "$work"/name? "$work"/name?? | sort)" "$(sort <<<"$names")" &&
    status 0 mayfly kill $names && wait_until nothing_left
}
check "ten at once" ten

summary
