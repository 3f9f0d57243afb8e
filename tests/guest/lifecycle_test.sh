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
# field EXPRESSION: of the JSON on standard input, as python has it in "it".
field() { python3 -c 'import json, sys; it = json.load(sys.stdin); print('"$1"')'; }
nothing_left() {
  [ -z "$(find "$XDG_RUNTIME_DIR" -mindepth 1 ! -type d ! -name .lock)" ] && ! pgrep -f bin/mayfly-vmm >/dev/null
}

# ---- start, list, read ----
# What the machine "main" does until a file tells it to go on.
main='trap "echo bye; exit 4" TERM; echo out; echo err >&2; i=0
      while :; do [ -e /tmp/tick ] && echo tick $((i += 1)) | tee /tmp/ticks; sleep 0.1; done'
start_main() { status 0 mayfly run --detach --name main --cpus 1 -- sh -c "$main" && same main "$(cat "$work/out")"; }
check "run --detach prints the name, and returns" start_main
check "ps -q" same main "$(mayfly ps -q)"
check "ps --json" same "main running 128" "$(mayfly ps --json | field '" ".join(str(it[0][k]) for k in ("name", "state", "memory_mib"))')"
ps_table() { mayfly ps >"$work/out" && grep -q '^NAME .*COMMAND' "$work/out" && grep -q '^main  *running ' "$work/out"; }
check "ps" ps_table
logs_are() { mayfly logs main >"$work/out" 2>"$work/err" && same out "$(cat "$work/out")" && same err "$(cat "$work/err")"; }
check "logs, by stream" wait_until logs_are
check "inspect is JSON" same "main Running 1" "$(mayfly inspect main | field 'f"""{it["name"]} {it["state"].title()} {it["configuration"]["machine-config"]["vcpu_count"]}"""')"
check "a name that is taken" refused "main runs already" mayfly run --detach --name main -- true
check "a name that is none" refused "no name for a machine" mayfly run --detach --name 'a/b' -- true
check "a machine that is not there" refused "these do: main" mayfly stop nobody

# ---- stop ----
follow_to_the_end() {
  mayfly logs -f main >"$work/followed" 2>/dev/null &
  local follower=$! waited=0
  mayfly wait main &
  local waiter=$!
  wait_until grep -q out "$work/followed" || return 1
  mayfly stop main & local first=$!
  status 0 mayfly stop main
  wait $first || return 1
  wait $follower || return 1
  wait $waiter || waited=$?
  same 4 "$waited" && grep -q bye "$work/followed"
}
check "two stops at once, logs -f and wait see the end" follow_to_the_end
check "nothing is left of it" wait_until nothing_left
check "ps, when nothing runs" same "" "$(mayfly ps -q)"

# ---- ends ----
check "a command that is not there" status 127 mayfly run --detach -- no-such-program
killed() {
  status 0 mayfly run --detach --name victim || return 1
  kill -9 "$(mayfly inspect victim | field 'it["pid"]')"
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
