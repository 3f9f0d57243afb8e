#!/usr/bin/env bash
# Builds the guest kernels into artifacts/: `vmlinux-up` for one CPU and `vmlinux` for up to 32, each with a .info (what it
# is made of, JSON), a .map (addresses to names, for stack traces) and a .config. The finished kernels stay in a cache, so
# that a second run, in whatever clone, copies at most.
set -u -o pipefail
. "$(dirname "$0")/../scripts/common.sh"

usage() {
  cat <<'END'
usage: kernels/build.sh [--force] [vmlinux-up] [vmlinux]

Builds artifacts/vmlinux-up (one CPU) and artifacts/vmlinux (up to 32), or the one that is named, from Debian's
linux-source-6.1 as it is, and kernels/*.config.
  --force   build even if the cache has them

MAYFLY_CACHE       the cache (default ~/.cache/mayfly): kernel/ in it takes 20 MiB a version, and 0.8 GiB during a build
MAYFLY_KERNEL_CC   the compiler (default gcc); "ccache gcc" helps who changes the configuration often
JOBS               compilers at once (default: the number of CPUs)
END
}

force=no kernels=()
for argument in "$@"; do
  case $argument in
    --force) force=yes ;;
    vmlinux-up | vmlinux) kernels+=("$argument") ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
done
[ ${#kernels[@]} -gt 0 ] || kernels=(vmlinux-up vmlinux)

source_package=linux-source-6.1
tarball=/usr/src/linux-source-6.1.tar.xz
packages=("$source_package" gcc libc6-dev make flex bison bc libelf-dev xz-utils)
declare -A fragments=([vmlinux-up]='kernels/base.config' [vmlinux]='kernels/base.config kernels/smp.config')
kept=('' .info .map .config)
# About as many files as one kernel has, for the percentage only.
usual_files=910

need_packages "${packages[@]}" || die "could not install the Debian packages the kernel is built with"
[ -r "$tarball" ] || die "$tarball is missing; reinstall it: apt-get install --reinstall $source_package"

[ -n "${MAYFLY_CACHE:-}${HOME:-}" ] || die "set MAYFLY_CACHE or HOME: the cache has to be somewhere"
cache=${MAYFLY_CACHE:-$HOME/.cache/mayfly}/kernel
mkdir -p "$cache" artifacts || die "cannot make $cache or artifacts/"
package_version=$(dpkg-query -W -f='${Version}' "$source_package")
cc=${MAYFLY_KERNEL_CC:-gcc}
compiler=$($cc --version | head -n 1) || die "cannot run $cc"
linker=$(ld --version | head -n 1)
inputs=$({
  printf '%s\n' "$package_version" "$compiler" "$linker"
  cat kernels/*.config kernels/build.sh
} | sha256sum | cut -c1-16)
finished=$cache/$inputs
work=$cache/build

# One build at a time in a cache; whoever waited finds the result.
exec 9>"$cache/lock" || die "cannot write in $cache"
if ! flock -n 9; then
  printf 'waiting for another kernel build in %s\n' "$cache"
  flock 9
fi

# mebibytes BYTES
mebibytes() { awk -v n="$1" 'BEGIN { printf "%.1f MiB", n / 1048576 }'; }

# segment_bytes FILE COLUMN: the sum over the loadable segments; column 5 is what the file holds, 6 what memory takes.
segment_bytes() {
  local sum=0 size
  for size in $(readelf -lW "$1" | awk -v column="$2" '$1 == "LOAD" { print $column }'); do sum=$((sum + size)); done
  printf '%s' "$sum"
}

# not_cached: those of the kernels that the cache does not have.
not_cached() {
  local kernel suffix
  for kernel in "${kernels[@]}"; do
    for suffix in "${kept[@]}"; do
      [ "$force" = no ] && [ -s "$finished/$kernel$suffix" ] && continue
      printf '%s\n' "$kernel"
      break
    done
  done
}

# Into artifacts/, each file at once or not at all, and only what differs.
publish() {
  local kernel suffix from to
  for kernel in "${kernels[@]}"; do
    for suffix in "${kept[@]}"; do
      from=$finished/$kernel$suffix to=artifacts/$kernel$suffix
      cmp -s "$from" "$to" && continue
      if ! { cp "$from" "$to.$$" && mv -f "$to.$$" "$to"; }; then
        rm -f "$to.$$"
        die "cannot write $to; is the disk full?"
      fi
    done
  done
}

report() {
  local kernel
  for kernel in "${kernels[@]}"; do
    awk -v name="$kernel" -F'[:,]' '
      { gsub(/[" {}]/, "", $1); value[$1] = $2; gsub(/^ *"|"$/, "", value[$1]) }
      END { printf "%-11s %s: file %.1f MiB, text %.1f MiB, loaded %.1f MiB; built in %d s\n", name, value["version"],
            value["file_bytes"] / 1048576, value["text_bytes"] / 1048576, value["loaded_bytes"] / 1048576, value["seconds"] }' \
      "artifacts/$kernel.info"
  done
}

mapfile -t wanted < <(not_cached)
if [ ${#wanted[@]} -eq 0 ]; then
  publish
  report
  printf 'up to date (%s)\n' "$finished"
  exit 0
fi

# --- Build ---------------------------------------------------------------------------------------------------------
started=$SECONDS
rm -rf "$work"
mkdir "$work" || die "cannot make $work"
clean_up() { rm -rf "$work"; }
trap clean_up EXIT
trap 'exit 130' INT TERM HUP
log=$work/log
needed_kib=$((800 * 1024))
free_kib=$(df --output=avail -k "$work" | tail -n 1)
[ "$free_kib" -ge "$needed_kib" ] ||
  die "$cache has $((free_kib / 1024)) MiB free, a kernel build takes $((needed_kib / 1024)); make room or set MAYFLY_CACHE"

# fail WHAT: one line, with the reason as far as the log tells; the log survives in artifacts/.
fail() {
  local reason
  reason=$(grep -aE 'No space left|[Ee]rror[: ]|\*\*\*' "$log" 2>/dev/null | head -n 1 | cut -c1-200)
  cp "$log" artifacts/kernel-build.log 2>/dev/null
  die "$1${reason:+: $reason} (all of it: artifacts/kernel-build.log)"
}

# watched TITLE FILES COMMAND…: runs it into the log; shows the elapsed time and, where FILES is not 0, how far it is.
watched() {
  local title=$1 files=$2 pid status begun=$SECONDS said=$SECONDS already progress=''
  shift 2
  already=$(grep -acE '^  (CC|AS) ' "$log" 2>/dev/null || true)
  "$@" >>"$log" 2>&1 </dev/null &
  pid=$!
  trap 'kill "$pid" 2>/dev/null; wait "$pid" 2>/dev/null; exit 130' INT TERM HUP
  while kill -0 "$pid" 2>/dev/null; do
    if [ "$files" -gt 0 ]; then
      progress=$(($(grep -acE '^  (CC|AS) ' "$log") - ${already:-0}))
      progress=" $((progress * 100 / files < 99 ? progress * 100 / files : 99)) %"
    fi
    if [ -n "$line_start" ]; then
      printf '%s· %s%s  %d s' "$line_start" "$title" "$progress" $((SECONDS - begun))
    elif [ $((SECONDS - said)) -ge 30 ]; then
      printf '%s%s  %d s\n' "$title" "$progress" $((SECONDS - begun))
      said=$SECONDS
    fi
    sleep 0.3
  done
  wait "$pid"
  status=$?
  trap 'exit 130' INT TERM HUP
  [ "$status" -eq 0 ] && printf '%s%s  (%d s)\n' "$line_start" "$title" $((SECONDS - begun)) || printf '%s' "$line_start"
  return "$status"
}

# What no x86 virtual machine compiles is not even written to the disk; the Kconfig files and makefiles are.
unpack() {
  local skipped=() folder
  for folder in arch/{alpha,arc,arm,arm64,csky,hexagon,ia64,loongarch,m68k,microblaze,mips,nios2,openrisc,parisc,powerpc,riscv,s390,sh,sparc,um,xtensa} \
    drivers/{gpu,media,staging,infiniband,iio,scsi,usb,net/wireless,net/ethernet,video} sound; do
    skipped+=(--exclude="*/$folder/*.[chS]" --exclude="*/$folder/*.dts" --exclude="*/$folder/*.dtsi")
  done
  tar -x -J -f "$tarball" -C "$work" --strip-components=1 --one-top-level=source --no-same-owner \
    --exclude='*/Documentation/*/*' --exclude='*/tools/testing/*' --exclude='*/tools/perf/*' --exclude='*/samples/*.[ch]' \
    "${skipped[@]}"
}

# make_kernel ARGUMENT…: reproducible. The warnings of a compiler newer than the source are nobody's here, and looking for
# them is a tenth of the time.
make_kernel() {
  CCACHE_BASEDIR=$work CCACHE_NOHASHDIR=1 KBUILD_BUILD_USER=mayfly KBUILD_BUILD_HOST=mayfly KBUILD_BUILD_VERSION=1 \
    KBUILD_BUILD_TIMESTAMP=$(date -u -R -d "@$(stat -c %Y "$tarball")") \
    make -C "$work/source" ARCH=x86_64 O="$work/objects" CC="$cc" KCFLAGS=-w "$@"
}

# Writes the configuration of a kernel and refuses one in which a line of the fragments did not take effect.
configure() {
  local kernel=$1 missing
  # shellcheck disable=SC2086
  cat ${fragments[$kernel]} >"$work/fragment" && mkdir -p "$work/objects" || return 1
  KCONFIG_ALLCONFIG=$work/fragment make_kernel -s allnoconfig >>"$log" 2>&1 || return 1
  missing=$(awk '
    /^# CONFIG_[A-Z0-9_]+ is not set$/ { name = $2; text = "n" }
    /^CONFIG_[A-Z0-9_]+=/ { name = $0; sub(/=.*/, "", name); text = $0; sub(/^[^=]*=/, "", text) }
    name == "" { next }
    FNR == NR { wanted[name] = text }
    FNR != NR { got[name] = text }
    { name = "" }
    END { for (name in wanted) if (wanted[name] != (name in got ? got[name] : "n")) printf " %s", name }' \
    "$work/fragment" "$work/objects/.config")
  [ -z "$missing" ] || die "$kernel: these options did not take effect:$missing"
}

# finish KERNEL SECONDS: strips what was built and describes it.
finish() {
  local kernel=$1 seconds=$2 out=$work/finished/$1
  cp "$work/objects/.config" "$out.config" && cp "$work/objects/System.map" "$out.map" || return 1
  # Symbols are a fifth of the file and nobody's in the guest; notes (the PVH entry) are in a segment and stay.
  strip -s -o "$out" "$work/objects/vmlinux" || return 1
  readelf -nW "$out" 2>>"$log" | grep -q Xen || { echo "error: $kernel has no PVH note" >>"$log"; return 1; }
  cat >"$out.info" <<END
{"kernel": "$kernel",
 "version": "$(cat "$work/objects/include/config/kernel.release")",
 "package": "$source_package $package_version",
 "compiler": "$compiler",
 "linker": "$linker",
 "inputs": "$inputs",
 "config_sha256": "$(sha256sum <"$out.config" | cut -d' ' -f1)",
 "file_bytes": $(stat -c %s "$out"),
 "text_bytes": $(size -A "$out" | awk '$1 == ".text" { print $2 }'),
 "loaded_bytes": $(segment_bytes "$out" 5),
 "memory_bytes": $(segment_bytes "$out" 6),
 "seconds": $seconds}
END
}

watched "unpacking $source_package $package_version" 0 unpack || fail "cannot unpack $tarball"
mkdir "$work/finished" || fail "cannot write in $work"
for kernel in "${wanted[@]}"; do
  begun=$SECONDS
  # Both are built in one folder: the second finds the tools of the build made.
  configure "$kernel" || fail "cannot configure $kernel"
  watched "building $kernel" "$usual_files" make_kernel -j"${JOBS:-$(nproc)}" vmlinux || fail "cannot build $kernel"
  finish "$kernel" $((SECONDS - begun)) || fail "cannot finish $kernel"
done
mkdir -p "$finished" && mv -f "$work"/finished/* "$finished"/ || fail "cannot write $finished"

# Two versions back are worth keeping, for who changes branches; older ones only fill the disk.
find "$cache" -mindepth 1 -maxdepth 1 -type d -name '????????????????' -printf '%T@ %p\n' | sort -rn | tail -n +4 | cut -d' ' -f2- |
  while read -r old; do rm -rf "$old"; done
publish
report
printf 'kernels built in %d s\n' $((SECONDS - started))
