#!/usr/bin/env bash
# Copy-on-write drives of Linux guests: two at the same time on one base, a reboot, a VMM that is killed, fstrim, and
# images made flat. Runs where tests/guest/block_test.sh does (lab/run tests/guest/overlay_test.sh).
set -u
cd "$(dirname "$0")/../.." || exit 1
bin=${MAYFLY_BIN:-$PWD/build/release/bin}
kernel=${MAYFLY_ARTIFACTS:-$PWD/artifacts}/vmlinux
work=$(mktemp -d)
pids=()
finish() {
  [ ${#pids[@]} -eq 0 ] || kill -9 "${pids[@]}" 2>/dev/null
  rm -rf "$work"
}
trap finish EXIT
# What takes longer hangs.
deadline=240
. tests/guest/checks.sh

# is WANTED GOT
is() { [ "$1" = "$2" ] || { printf '    wanted "%s", got "%s"\n' "$1" "$2"; return 1; }; }
at_most() { [ "$2" -le "$1" ] || { printf '    wanted at most %s, got %s\n' "$1" "$2"; return 1; }; }
at_least() { [ "$2" -ge "$1" ] || { printf '    wanted at least %s, got %s\n' "$1" "$2"; return 1; }; }
sum() { sha256sum | cut -c1-64; }
sound() { e2fsck -fn "$1" >"$work/fsck" 2>&1 || { sed 's/^/      /' "$work/fsck"; return 1; }; }

# KiB that a file takes on the host.
taken() {
  sync "$1"
  du -k "$1" | cut -f1
}

. tests/guest/job.sh

# begin NAME: starts a guest with the job on standard input on the base and $work/NAME.overlay.
begin() {
  make_job_initrd "$work/tree-$1" "$work/initrd-$1"
  cat >"$work/$1.json" <<END
{"boot-source": {"kernel_image_path": "$kernel", "initrd_path": "$work/initrd-$1",
  "boot_args": "console=ttyS0 loglevel=1 reboot=k,panic_warm panic=-1 tsc=reliable swiotlb=noforce"},
 "machine-config": {"vcpu_count": 1, "mem_size_mib": 160},
 "drives": [{"drive_id": "data", "is_root_device": false, "path_on_host": "$work/base", "overlay_path": "$work/$1.overlay",
   "cache_type": "${cache:-Writeback}"}]}
END
  timeout -k 5 "$deadline" "$bin/mayfly-vmm" --no-api --config-file "$work/$1.json" >"$work/$1.console" 2>"$work/$1.err" </dev/null &
  pids+=($!)
}

# over NAME: the guest that was started last did its job and ended.
over() {
  local status=0
  wait "${pids[-1]}" || status=$?
  unset 'pids[-1]'
  [ "$status" -eq 0 ] && [ "$(said "$1" job)" = done ] && return 0
  printf '    exit status %s:\n' "$status"
  sed 's/^/      /' "$work/$1.console" "$work/$1.err"
  return 1
}

# said NAME WHAT: what the guest said.
said() { tr -d '\r' <"$work/$1.console" | sed -n "s/^$2=//p"; }

# wait_for NAME WHAT: until it does.
wait_for() {
  local tries=$((deadline * 5))
  until [ -n "$(said "$1" "$2")" ]; do
    [ $((tries -= 1)) -gt 0 ] && kill -0 "${pids[-1]}" 2>/dev/null || return 1
    sleep 0.2
  done
}

refused() {
  local text=$1
  shift
  ! "$@" >"$work/refused" 2>&1 && grep -qF -- "$text" "$work/refused" && return 0
  sed 's/^/    /' "$work/refused"
  return 1
}

# ---- A base with a file system and some content on it ----
truncate -s 64M "$work/base"
mkdir "$work/content"
head -c 4M /dev/urandom >"$work/content/shared"
mke2fs -q -F -t ext4 -d "$work/content" "$work/base"
base=$(sum <"$work/base")
shared=$(sum <"$work/content/shared")

# ---- Two at the same time ----
for name in one two; do
  begin $name <<END
mount -t ext4 /dev/vda /mnt
echo shared=\$(sum </mnt/shared)
echo $name >/mnt/name
dd if=/dev/urandom of=/mnt/large bs=64k count=256
sync
echo large=\$(sum </mnt/large)
# Until the other is there, too.
sleep 3
drop_caches
echo again=\$(sum </mnt/large)
echo name=\$(cat /mnt/name)
umount /mnt
drop_caches
echo disk=\$(sum </dev/vda)
END
done
check "both see the base" wait_for two shared
check "one overlay serves one machine" refused "is in use" \
  timeout 60 "$bin/mayfly-vmm" --no-api --config-file "$work/two.json"
check "no image is made of one in use" refused "is in use" "$bin/mayfly" drive flatten "$work/two.overlay" -o "$work/early"
check "the second ends" over two
check "the first ends" over one
for name in one two; do
  check "$name: what the base has" is "$shared" "$(said $name shared)"
  check "$name: its own content" is "$name" "$(said $name name)"
  check "$name: what it wrote" is "$(said $name large)" "$(said $name again)"
  check "$name: closed" grep -q '^state *clean' <("$bin/mayfly" drive show "$work/$name.overlay")
  "$bin/mayfly" drive flatten -q "$work/$name.overlay" -o "$work/$name.flat"
  check "$name: flat, the disk that the guest saw" is "$(said $name disk)" "$(sum <"$work/$name.flat")"
  check "$name: flat, a good file system" sound "$work/$name.flat"
done
check "different content" [ "$(said one large)" != "$(said two large)" ]
check "the base is as it was" is "$base" "$(sum <"$work/base")"
check "an overlay takes what was written" at_most 22000 "$(taken "$work/one.overlay")"

# ---- A reboot, then trimmed ----
large=$(said one large)
full=$(taken "$work/one.overlay")
check "16 MiB were written" at_least 16000 "$full"
begin one <<'END'
mount -t ext4 /dev/vda /mnt
echo name=$(cat /mnt/name)
echo large=$(sum </mnt/large)
rm /mnt/large
sync
fstrim /mnt && echo trim=done
echo shared=$(sum </mnt/shared)
umount /mnt
drop_caches
echo disk=$(sum </dev/vda)
END
check "the next boot ends" over one
check "the next boot has the content" is one "$(said one name)"
check "the next boot has the file" is "$large" "$(said one large)"
check "fstrim" is done "$(said one trim)"
check "fstrim leaves the rest" is "$shared" "$(said one shared)"
check "fstrim frees space in the overlay" at_most 6000 "$(taken "$work/one.overlay")"
"$bin/mayfly" drive flatten -q --force "$work/one.overlay" -o "$work/one.flat"
check "flat after fstrim" is "$(said one disk)" "$(sum <"$work/one.flat")"
check "the base is as it was after fstrim" is "$base" "$(sum <"$work/base")"

# ---- Killed ----
begin three <<'END'
dd if=/dev/urandom of=/tmp/bytes bs=64k count=16
dd if=/tmp/bytes of=/dev/vda bs=64k seek=512 conv=fsync && echo bytes=$(sum </tmp/bytes)
sleep 1000
END
check "what was synced was said" wait_for three bytes
# timeout passes SIGTERM on, but not SIGKILL.
pkill -9 -P "${pids[-1]}"
{ wait "${pids[-1]}"; } 2>/dev/null
unset 'pids[-1]'
check "killed: not closed" grep -q '^state *not closed' <("$bin/mayfly" drive show "$work/three.overlay")
"$bin/mayfly" drive flatten -q "$work/three.overlay" -o "$work/three.flat"
check "killed: what was synced is there" is "$(said three bytes)" \
  "$(tail -c +$((512 * 65536 + 1)) "$work/three.flat" | head -c 1M | sum)"

# ---- A base that changed ----
touch "$work/base"
check "a changed base is refused" refused "was last modified" timeout 60 "$bin/mayfly-vmm" --no-api --config-file "$work/one.json"

summary
