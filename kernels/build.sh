#!/usr/bin/env bash
# Builds the guest kernels into artifacts/: `vmlinux` for one CPU and `vmlinux-smp` for up to 32, each with a .info (what it
# is made of, JSON), a .map (addresses to names, for stack traces) and a .config. The finished kernels stay in a cache, so
# that a second run, in whatever clone, copies at most.
set -u -o pipefail
. "$(dirname "$0")/../scripts/common.sh"

usage() {
  cat <<'END'
usage: kernels/build.sh [--force] [vmlinux] [vmlinux-smp]

Builds artifacts/vmlinux (one CPU) and artifacts/vmlinux-smp (up to 32), or the one that is named, from Debian's
linux-source-6.1 as it is, and kernels/*.config.
  --force   build even if the cache has them

MAYFLY_CACHE       the cache (default ~/.cache/mayfly): kernel/ in it takes 35 MiB a version, and 0.8 GiB during a build
MAYFLY_KERNEL_CC   the compiler (default gcc); "ccache gcc" helps who changes the configuration often
JOBS               compilers at once (default: the number of CPUs)
END
}

force=no kernels=()
for argument in "$@"; do
  case $argument in
    --force) force=yes ;;
    vmlinux | vmlinux-smp) kernels+=("$argument") ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
done
[ ${#kernels[@]} -gt 0 ] || kernels=(vmlinux vmlinux-smp)

source_package=linux-source-6.1
tarball=/usr/src/linux-source-6.1.tar.xz
packages=("$source_package" gcc libc6-dev make flex bison bc libelf-dev xz-utils python3)
declare -A fragments=([vmlinux]='kernels/base.config' [vmlinux-smp]='kernels/base.config kernels/smp.config')
# What the cache keeps of a kernel: the image without symbols, and what is known about it.
kept=('' .built .map .config)
# About as many files as one kernel has, for the percentage only.
usual_files=910
needed_mib=800

need_packages "${packages[@]}" || die "could not install the Debian packages the kernel is built with"
[ -r "$tarball" ] || die "$tarball is missing; reinstall it: apt-get install --reinstall $source_package"

[ -n "${MAYFLY_CACHE:-}${HOME:-}" ] || die "set MAYFLY_CACHE or HOME: the cache has to be somewhere"
cache=${MAYFLY_CACHE:-$HOME/.cache/mayfly}/kernel
mkdir -p "$cache" artifacts || die "cannot make $cache or artifacts/"
cache=$(cd "$cache" && pwd)
work=$cache/build
log=$work/log
cc=${MAYFLY_KERNEL_CC:-gcc}
package_version=$(dpkg-query -W -f='${Version}' "$source_package")
compiler=$($cc --version | head -n 1) || die "cannot run $cc"
linker=$(ld --version | head -n 1)

# --- What decides about the bytes of a kernel ----------------------------------------------------------------------
# What no x86 virtual machine compiles is not even written to the disk; the Kconfig files and makefiles are.
unpack() {
  local skipped=() folder
  for folder in arch/{alpha,arc,arm,arm64,csky,hexagon,ia64,loongarch,m68k,microblaze,mips,nios2,openrisc,parisc,powerpc,riscv,s390,sh,sparc,um,xtensa} \
    drivers/{gpu,media,staging,infiniband,iio,scsi,usb,net/wireless,net/ethernet,video} \
    drivers/{clk,crypto,hid,hwmon,input,isdn,md,mfd,mmc,mtd,phy,pinctrl,platform,power,regulator,soc,target} \
    fs/{btrfs,ceph,cifs,f2fs,gfs2,nfs,nfsd,ntfs3,ocfs2,xfs} sound; do
    skipped+=(--exclude="*/$folder/*.[chS]" --exclude="*/$folder/*.dts" --exclude="*/$folder/*.dtsi")
  done
  tar -x -J -f "$tarball" -C "$work" --strip-components=1 --one-top-level=source --no-same-owner \
    --exclude='*/Documentation/*/*' --exclude='*/tools/testing/*' --exclude='*/tools/perf/*' --exclude='*/samples/*.[ch]' \
    "${skipped[@]}"
}

# make_kernel ARGUMENT…: reproducible. Looking for the warnings of a compiler newer than the source, and for symbols that
# modules could not use, is a sixth of the time, and nobody's concern here.
make_kernel() {
  CCACHE_BASEDIR=$work CCACHE_NOHASHDIR=1 KBUILD_BUILD_USER=mayfly KBUILD_BUILD_HOST=mayfly KBUILD_BUILD_VERSION=1 \
    KBUILD_BUILD_TIMESTAMP=$(date -u -R -d "@$(stat -c %Y "$tarball")") \
    make -C "$work/source" ARCH=x86_64 O="$work/objects" CC="$cc" KCFLAGS=-w \
      cmd_check_local_export=: "$@"
}

# Writes the configuration of a kernel and refuses one in which a line of the fragments did not take effect.
configure() {
  local kernel=$1 ignored
  # shellcheck disable=SC2086
  cat ${fragments[$kernel]} >"$work/fragment" && mkdir -p "$work/objects" || return 1
  KCONFIG_ALLCONFIG=$work/fragment make_kernel -s allnoconfig >>"$log" 2>&1 || return 1
  ignored=$(awk '
    /^# CONFIG_[A-Z0-9_]+ is not set$/ { name = $2; text = "n" }
    /^CONFIG_[A-Z0-9_]+=/ { name = $0; sub(/=.*/, "", name); text = $0; sub(/^[^=]*=/, "", text) }
    name == "" { next }
    FNR == NR { wanted[name] = text }
    FNR != NR { got[name] = text }
    { name = "" }
    END { for (name in wanted) if (wanted[name] != (name in got ? got[name] : "n")) printf " %s", name }' \
    "$work/fragment" "$work/objects/.config")
  [ -z "$ignored" ] || die "$kernel: these options did not take effect:$ignored"
}

# Not the whole script: a change of a message is no reason to build again.
inputs=$({
  printf '%s\n' "$package_version" "$compiler" "$linker"
  cat kernels/base.config kernels/smp.config
  declare -f unpack make_kernel configure
} | sha256sum | cut -c1-16)
finished=$cache/$inputs

# --- Cache and artifacts -------------------------------------------------------------------------------------------
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

# publish KERNEL: into artifacts/, each file at once or not at all, and only what differs.
publish() {
  local kernel=$1 new=artifacts/.$1.$$ sizes suffix
  if ! {
    sizes=$(kernels/pack.py "$finished/$kernel" "$new") &&
      printf '{"kernel": "%s",\n%s\n%s}\n' "$kernel" "$(cat "$finished/$kernel.built")" "$sizes" >"$new.info" &&
      cp "$finished/$kernel.map" "$new.map" && cp "$finished/$kernel.config" "$new.config"
  }; then
    rm -f "$new" "$new".*
    die "cannot write artifacts/$kernel; is the disk full?"
  fi
  for suffix in .info .map .config ''; do
    if cmp -s "$new$suffix" "artifacts/$kernel$suffix"; then
      rm -f "$new$suffix"
    else
      mv -f "$new$suffix" "artifacts/$kernel$suffix"
    fi
  done
}

report() {
  awk -v name="$1" -F'": "?' '
    { key = $1; gsub(/[ {"]/, "", key); value[key] = $2; gsub(/"?[,}]*$/, "", value[key]) }
    END { printf "%-10s  %s: text %.1f MiB; the file, all of it loaded, %.1f MiB; in memory %.1f MiB; built in %d s\n", name,
          value["version"], value["text_bytes"] / 1048576, value["file_bytes"] / 1048576, value["memory_bytes"] / 1048576,
          value["seconds"] }' "artifacts/$1.info"
}

# One build at a time in a cache; whoever waited finds the result.
exec 9>"$cache/lock" || die "cannot write in $cache"
if ! flock -n 9; then
  printf 'waiting for another kernel build in %s\n' "$cache"
  flock 9
fi
mapfile -t wanted < <(not_cached)
started=$SECONDS

# --- Build ---------------------------------------------------------------------------------------------------------
# fail WHAT: one line, with the reason as far as the log tells; the log survives in artifacts/.
fail() {
  local reason
  reason=$(grep -aE 'No space left|[Ee]rror[: ]|\*\*\*' "$log" 2>/dev/null | head -n 1 | cut -c1-200)
  cp "$log" artifacts/kernel-build.log 2>/dev/null && reason="${reason:+$reason }(all of it: artifacts/kernel-build.log)"
  die "$1${reason:+: $reason}"
}

compiled_files() { grep -acE '^  (CC|AS) ' "$log"; }

# watched TITLE FILES COMMAND…: runs it into the log; shows the elapsed time and, where FILES is not 0, how far it is.
watched() {
  local title=$1 files=$2 pid status begun=$SECONDS said=$SECONDS already percent progress=''
  shift 2
  already=$(compiled_files 2>/dev/null)
  set -m # a process group of its own, so that make and its compilers end with this script
  "$@" >>"$log" 2>&1 </dev/null 9>&- &
  pid=$!
  set +m
  trap 'kill -- "-$pid" 2>/dev/null; wait "$pid" 2>/dev/null; exit 130' INT TERM HUP
  while kill -0 "$pid" 2>/dev/null; do
    if [ "$files" -gt 0 ]; then
      percent=$((($(compiled_files) - ${already:-0}) * 100 / files))
      progress=" $((percent < 99 ? percent : 99)) %"
    fi
    if [ -n "$line_start" ]; then
      printf '%s· %s%s  %d s' "$line_start" "$title" "$progress" $((SECONDS - begun))
    elif [ $((SECONDS - said)) -ge 30 ]; then
      printf '%s%s  %d s\n' "$title" "$progress" $((SECONDS - begun))
      said=$SECONDS
    fi
    sleep 1
  done
  wait "$pid"
  status=$?
  trap 'exit 130' INT TERM HUP
  printf '%s' "$line_start"
  [ "$status" -ne 0 ] || printf '%s  (%d s)\n' "$title" $((SECONDS - begun))
  return "$status"
}

# finish KERNEL SECONDS: what the cache keeps.
finish() {
  local kernel=$1 seconds=$2 out=$work/finished/$1
  cp "$work/objects/.config" "$out.config" && cp "$work/objects/System.map" "$out.map" &&
    strip -s -o "$out" "$work/objects/vmlinux" || return 1
  readelf -nW "$out" 2>>"$log" | grep -q Xen || { echo "error: $kernel has no PVH note" >>"$log"; return 1; }
  cat >"$out.built" <<END
 "version": "$(cat "$work/objects/include/config/kernel.release")",
 "package": "$source_package $package_version",
 "compiler": "$compiler",
 "linker": "$linker",
 "inputs": "$inputs",
 "config_sha256": "$(sha256sum <"$out.config" | cut -d' ' -f1)",
 "seconds": $seconds,
 "text_bytes": $(size -A "$out" | awk '$1 == ".text" { print $2 }'),
END
}

build() {
  local kernel begun free_mib
  trap 'rm -rf "$work"' EXIT
  trap 'exit 130' INT TERM HUP
  rm -rf "$work" && mkdir -p "$work/finished" || die "cannot write $work"
  free_mib=$(($(df --output=avail -k "$work" | tail -n 1) / 1024))
  [ "$free_mib" -ge "$needed_mib" ] ||
    die "$cache has $free_mib MiB free and a kernel build takes $needed_mib; make room, or set MAYFLY_CACHE"
  watched "unpacking $source_package $package_version" 0 unpack || fail "cannot unpack $tarball"
  for kernel in "$@"; do
    begun=$SECONDS
    # All are built in one folder: the second finds the tools of the build made.
    configure "$kernel" || fail "cannot configure $kernel"
    watched "building $kernel" "$usual_files" make_kernel -j"${JOBS:-$(nproc)}" vmlinux || fail "cannot build $kernel"
    finish "$kernel" $((SECONDS - begun)) || fail "cannot finish $kernel"
    # In the cache as soon as it is done: whoever stops the second does not lose the first.
    mkdir -p "$finished" && mv -f "$work/finished/"* "$finished/" || fail "cannot write $finished"
  done
  # Two versions back are worth keeping, for who changes branches; older ones only fill the disk.
  find "$cache" -mindepth 1 -maxdepth 1 -type d -name '????????????????' -printf '%T@ %p\n' | sort -rn | tail -n +4 |
    cut -d' ' -f2- | while read -r old; do rm -rf "$old"; done
}

[ ${#wanted[@]} -eq 0 ] || build "${wanted[@]}"
for kernel in "${kernels[@]}"; do
  publish "$kernel"
  report "$kernel"
done
rm -f artifacts/kernel-build.log
if [ ${#wanted[@]} -eq 0 ]; then
  printf 'up to date (%s)\n' "$finished"
else
  printf '%s built in %d s\n' "${wanted[*]}" $((SECONDS - started))
fi
