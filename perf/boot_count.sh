#!/usr/bin/env bash
# Counts the instructions a guest kernel runs from reset to the first one of its init: QEMU's emulation with -icount, where
# guest time is one nanosecond an instruction, waits included. No KVM, and the same figure on every machine.
set -u -o pipefail
. "$(dirname "$0")/../scripts/common.sh"

usage() {
  cat <<'END'
usage: perf/boot_count.sh [OPTION…] [KERNEL…]

Boots each KERNEL (default: artifacts/vmlinux and artifacts/vmlinux-smp) to an init that tells the time, and prints the
guest's time until then: since reset, and since the kernel's clock started.
  -n, --boots N  boots of each kernel (default 3)
  --json FILE    also write the figures here
  --memory MIB   guest memory (default 128)
  --initrd       init in an initrd, not on a read-only ext4 disk
  --append TEXT  more for the kernel's command line
  --raw          without the stand-ins for what KVM gives a guest (see below)
  --calls        the initcalls that took longest
  --profile      the functions that ran most instructions (needs KERNEL.map)

QEMU's emulation has no kvm-clock and no TSC-deadline timer, so a kernel measures its clocks against a PIT, waiting up to
0.2 s; under KVM it is told. Three parameters stand in for that: tsc_early_khz=1000000 noapictimer no_timer_check.
idle=poll keeps time from jumping to the next timer while the disk works. `rep stos` counts each byte or word it writes.
END
}

boots=3 json='' memory=128 initrd=no more='' show='' stand_ins='tsc_early_khz=1000000 noapictimer no_timer_check'
kernels=()
while [ $# -gt 0 ]; do
  case $1 in
    -n | --boots | --json | --memory | --append) [ $# -ge 2 ] || { usage >&2; exit 2; } ;;&
    -n | --boots) boots=$2; shift ;;
    --json) json=$2; shift ;;
    --memory) memory=$2; shift ;;
    --append) more=$2; shift ;;
    --initrd) initrd=yes ;;
    --raw) stand_ins='' ;;
    --calls | --profile) show=${1#--} ;;
    --help | -h) usage; exit 0 ;;
    -*) usage >&2; exit 2 ;;
    *) kernels+=("$1") ;;
  esac
  shift
done
[[ $boots =~ ^[1-9][0-9]*$ && $memory =~ ^[1-9][0-9]*$ ]] || { usage >&2; exit 2; }
[ ${#kernels[@]} -gt 0 ] || kernels=(artifacts/vmlinux artifacts/vmlinux-smp)
for kernel in "${kernels[@]}"; do
  [ -r "$kernel" ] || die "no kernel at $kernel; kernels/build.sh builds them"
  [ "$show" != profile ] || [ -r "$kernel.map" ] || die "--profile needs $kernel.map"
done
need_packages qemu-system-x86 e2fsprogs gcc libc6-dev cpio || exit 1

work=$(mktemp -d) || die "cannot make a temporary folder"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
mkdir -p "$work"/tree/{dev,proc,sys}
gcc -Os -static -nostdlib -ffreestanding -fno-stack-protector -fno-pic -no-pie -fcf-protection=none -s \
  -fno-asynchronous-unwind-tables -Wl,--build-id=none,-z,noseparate-code -o "$work/tree/init" perf/count/init.c ||
  die "cannot build the init"
mke2fs -q -t ext4 -d "$work/tree" "$work/root.ext4" 64M >/dev/null || die "cannot make the disk"
(cd "$work/tree" && printf '%s\n' . init | cpio -o -H newc --quiet) >"$work/initrd" || die "cannot make the initrd"
if [ "$show" = profile ]; then
  gcc -O2 -Wall -Wextra -shared -fPIC -o "$work/profile.so" perf/count/profile.c || die "cannot build the profiler"
fi

# boot KERNEL PARAMETER…: one boot; the serial console goes to $work/console.
boot() {
  local kernel=$1 arguments line
  shift
  line="console=ttyS0 loglevel=1 reboot=t panic=-1 tsc=reliable idle=poll $stand_ins $more $*"
  arguments=(-M 'microvm,acpi=off,x-option-roms=off,isa-serial=on,rtc=on,pit=on,pic=on' -accel tcg,thread=single
    -icount 'shift=0,sleep=off' -cpu max -smp 1 -m "$memory" -nodefaults -no-user-config -no-reboot -display none
    -serial "file:$work/console" -kernel "$kernel")
  if [ "$initrd" = yes ]; then
    arguments+=(-initrd "$work/initrd")
  else
    arguments+=(-drive "if=none,id=root,file=$work/root.ext4,format=raw,readonly=on" -device virtio-blk-device,drive=root)
    line+=' root=/dev/vda ro init=/init'
  fi
  [ "$show" != profile ] || arguments+=(-plugin "$work/profile.so")
  : >"$work/console"
  # The deadline is for a kernel that hangs: a boot takes a second or two.
  MAYFLY_PROFILE=$work/profile timeout --foreground 300 qemu-system-x86_64 "${arguments[@]}" -append "$line" \
    >"$work/qemu" 2>&1 </dev/null
  grep -aq '^mayfly-init ' "$work/console" || {
    tail -n 20 "$work/qemu" "$work/console" >&2
    die "$kernel did not reach its init"
  }
}

# The longest initcalls, from the kernel's own record of them; names from the map where there is one.
show_calls() {
  grep -aoE 'initcall .* returned .* after [0-9]+ usecs' "$work/console" |
    sed -E 's/initcall (0x)?([^ +]+).* after ([0-9]+) usecs/\3 \2/' | sort -rn | head -n 25 |
    while read -r microseconds name; do
      [ -r "$1.map" ] && name=$(awk -v address="$name" '$1 == address { print $3; found = 1; exit } END { if (!found) print address }' "$1.map")
      printf '%8d us  %s\n' "$microseconds" "$name"
    done
}

# Adds the blocks of the profile to the functions of the map; both are sorted by address, of equal width.
show_profile() {
  { awk '$2 ~ /^[tTwW]$/ { print $1, "!", $3 }' "$1.map"; cat "$work/profile"; } | LC_ALL=C sort -k1,1 -k2,2 |
    awk '$2 == "!" { name = $3; next }
         { where = $1 >= "ffffffff80000000" ? name : $1 < "0000000001000000" ? "(firmware)" : "(not at a kernel address)"
           count[where] += $2; total += $2 }
         END { printf "%12d  total, with the reboot\n", total; for (f in count) printf "%12d  %s\n", count[f], f }' |
    sort -rn | head -n 60
}

records=()
case $show in
  '') printf '%-24s %12s %12s %12s   %s\n' "instructions to init" median least most 'since the clock started' ;;
  calls) extra='initcall_debug loglevel=8' ;;
esac
for kernel in "${kernels[@]}"; do
  if [ -n "$show" ]; then
    boot "$kernel" "${extra:-}"
    printf '%s:\n' "$kernel"
    "show_$show" "$kernel"
    continue
  fi
  totals=() clocks=()
  for ((i = 0; i < boots; i++)); do
    boot "$kernel"
    read -r total clock < <(grep -a '^mayfly-init ' "$work/console" | tr -d '\r' | cut -d' ' -f2,3)
    totals+=("$total") clocks+=("$clock")
  done
  mapfile -t totals < <(printf '%s\n' "${totals[@]}" | sort -n)
  mapfile -t clocks < <(printf '%s\n' "${clocks[@]}" | sort -n)
  median=${totals[$((boots / 2))]} clock=${clocks[$((boots / 2))]}
  printf '%-24s %12d %12d %12d   %d   = %s ms\n' "$(basename "$kernel")" "$median" "${totals[0]}" "${totals[-1]}" "$clock" \
    "$(awk -v n="$median" 'BEGIN { printf "%.1f", n / 1e6 }')"
  records+=("{\"kernel\": \"$kernel\", \"bytes\": $(stat -c %s "$kernel"), \"instructions\": {\"median\": $median, \"min\": ${totals[0]}, \"max\": ${totals[-1]}}, \"kernel_clock_ns\": $clock}")
done

if [ -n "$json" ] && [ -z "$show" ]; then
  {
    printf '{"boots": %d, "memory_mib": %d, "root": "%s", "stand_ins": "%s", "append": "%s",\n "qemu": "%s",\n "kernels": [' "$boots" "$memory" \
      "$([ "$initrd" = yes ] && echo initrd || echo ext4)" "$stand_ins" "$more" "$(qemu-system-x86_64 --version | head -n 1)"
    separator=''
    for record in "${records[@]}"; do
      printf '%s\n  %s' "$separator" "$record"
      separator=','
    done
    printf '\n ]}\n'
  } >"$json.new" && mv "$json.new" "$json" || die "cannot write $json"
fi
