#!/usr/bin/env bash
# elf_test.sh [FOLDER]: the executables in FOLDER (build/release/bin) are built so that an error in them is hard to use: what
# the ELF files say, and what a process of mayfly-vmm has mapped.
set -u
cd "$(dirname "$0")/../.." || exit 1
bin=${1:-$PWD/build/release/bin}
work=$(mktemp -d)
trap 'kill "$pid" 2>/dev/null; rm -rf "$work"' EXIT
pid=
. tests/guest/checks.sh

headers() { readelf -lW "$1"; }
dynamic() { readelf -dW "$1"; }
has() { grep -qE -- "$1"; }
has_not() { ! grep -E -- "$1"; }

for name in mayfly mayfly-vmm mayfly-filter mayfly-jailer; do
  file=$bin/$name
  [ -e "$file" ] || continue
  check "$name is position-independent" has 'Type: +DYN' < <(readelf -hW "$file")
  check "$name is a PIE, and all is bound at the start" has 'FLAGS_1.*NOW.*PIE' < <(dynamic "$file")
  check "$name needs no shared library and no interpreter" has_not 'NEEDED|INTERP' < <(dynamic "$file"; headers "$file")
  check "$name has no relocations in its code" has_not 'TEXTREL' < <(dynamic "$file")
  check "$name: the tables are read-only once filled in" has 'GNU_RELRO' < <(headers "$file")
  check "$name: the stack is not executable" has 'GNU_STACK .* RW +0x' < <(headers "$file")
  check "$name: no segment is writable and executable" has_not 'LOAD .* RWE' < <(headers "$file")
  check "$name: functions check their stack" has '__stack_chk_fail' < <(nm "$file")
  check "$name: calls of the C library are checked" has '__[a-z]+_chk$' < <(nm "$file" | grep -v stack_chk)
  # Of ours; the C library of Debian 12 has none, so that the file as a whole cannot have the note that would switch
  # indirect branch tracking on. GCC leaves the mark out where no pointer leads.
  check "$name: functions that pointers lead to are marked" test "$(objdump -d "$file" | grep -c endbr64)" -gt 300
  main=$(nm "$file" | awk '$3 == "main" {print $1}')
  check "$name: main() is marked" has endbr64 < <(objdump -d --start-address="0x$main" "$file" | sed -n '/<main>:/,+1p')
done

(cd "$work" && exec "$bin/mayfly-vmm" --api-sock api.sock) >"$work/out" 2>&1 &
pid=$!
for _ in $(seq 600); do
  [ -S "$work/api.sock" ] && break
  sleep 0.1
done
check "mayfly-vmm runs" test -S "$work/api.sock"
cp "/proc/$pid/maps" "$work/maps"
check "nothing is mapped to write and to execute" has_not '^[0-9a-f-]+ .wx' <"$work/maps"
check "what is mapped to execute is the program itself, and the kernel's" has_not '.' < <(
  grep -E '^[0-9a-f-]+ ..x' "$work/maps" | grep -vE '/mayfly-vmm$|\[vdso\]$|\[vsyscall\]$')
check "its parts are where no other process has them" bash -c '[ "$(wc -l <"$1")" -eq 2 ]' - <(
  for _ in 1 2; do
    "$bin/mayfly-vmm" --api-sock "$work/x$RANDOM" & other=$!
    for _ in $(seq 100); do grep -q 'r-xp.*/mayfly-vmm' "/proc/$other/maps" 2>/dev/null && break; sleep 0.05; done
    awk '/r-xp.*\/mayfly-vmm/ {print $1; exit}' "/proc/$other/maps"
    kill "$other"
  done | sort -u)
summary
