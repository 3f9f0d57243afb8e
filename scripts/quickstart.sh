#!/usr/bin/env bash
# From a fresh clone on Debian 12 to a command run inside a microVM. Run it again at any time: it does only what is
# not done yet.
set -u -o pipefail
. "$(dirname "$0")/common.sh"

case ${1:-} in
  '') ;;
  *)
    printf 'usage: scripts/quickstart.sh\n\nInstalls what Mayfly is built with, builds it, and runs two commands in microVMs of their own.\n'
    [ "$1" = --help ] && exit 0
    exit 2
    ;;
esac

# The kernel for one CPU; the other takes as long again, and is for later.
scripts/build.sh vmlinux || exit 1

mayfly=build/release/bin/mayfly
run=()
if ! "$mayfly" doctor >/dev/null; then
  printf '\n%s\n' "This machine has no hardware virtualization behind /dev/kvm: the commands run in the lab, an emulated host (slow)."
  run=(lab/run --)
fi

# show COMMAND…: as a person would type it, then what it does.
show() {
  local quoted=''
  quoted=$(printf '%q ' "$@")
  printf '\n%s$ %s%s%s\n' "$bold" "${run[*]:+${run[*]} }" "${quoted% }" "$plain"
  "${run[@]}" "$@"
}

show "$mayfly" run -- uname -a || exit 1
show "$mayfly" run -- sh -c 'echo "$(nproc) CPU, $(free -m | awk "/Mem/{print \$2}") MiB, PID $$"; ps | wc -l; exit 7'
status=$?
printf '(exit status %d, the command'"'"'s own)\n' "$status"
[ "$status" -eq 7 ] || exit 1

prefix=${run[*]:+${run[*]} }
cat <<END

Try next:
  ${prefix}$mayfly run --timing -- true                  where the milliseconds go
  ${prefix}$mayfly run --tty -- sh                       a shell in a machine of its own
  echo hello | ${prefix}$mayfly run -- sha256sum         pipes work as they do everywhere
  $mayfly doctor                                what this machine can do
  $mayfly run --help
  kernels/build.sh                              a second kernel, for --cpus 2 and more
END
