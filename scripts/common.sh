# Shell functions that the scripts share. Source it; it changes to the project's root.
# shellcheck shell=bash

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
umask 022 # an executable that others than its owner may change is not put into a jail

if [ -t 1 ]; then
  bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m' line_start=$'\r\e[K'
else
  bold='' green='' red='' plain='' line_start=''
fi

die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# need_packages NAME…: installs the Debian packages among these that are missing.
need_packages() {
  local missing=() name
  for name in "$@"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "needs these Debian packages: ${missing[*]}"
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "needs these Debian packages; install them as root: apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  apt_get() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@"
  }
  install_missing() {
    apt_get install -y --no-install-recommends "${missing[@]}" ||
      { apt_get update && apt_get install -y --no-install-recommends "${missing[@]}"; }
  }
  step "Debian packages: ${missing[*]}" install_missing
}

# step TITLE COMMAND…: runs it with its output in build/logs/, shows the elapsed time, and its last lines when it
# fails. Returns its status.
step() {
  local title=$1 name log start pid status elapsed
  shift
  mkdir -p build/logs
  name=$(printf '%s' "$title" | tr -c 'A-Za-z0-9\n' '-' | cut -c1-60)
  log=build/logs/$name.log
  start=$SECONDS
  "$@" >"$log" 2>&1 </dev/null &
  pid=$!
  trap 'kill "$pid" 2>/dev/null; exit 130' INT TERM
  if [ -n "$line_start" ]; then
    while kill -0 "$pid" 2>/dev/null; do
      printf '%s· %s  %d s' "$line_start" "$(printf '%s' "$title" | cut -c1-"$((${COLUMNS:-80} - 16))")" $((SECONDS - start))
      sleep 0.2
    done
  fi
  wait "$pid"
  status=$?
  trap - INT TERM
  elapsed=$((SECONDS - start))
  if [ "$status" -eq 0 ]; then
    printf '%s%s✓%s %s  (%d s)\n' "$line_start" "$green" "$plain" "$title" "$elapsed"
  else
    printf '%s%s✗%s %s  (%d s): exit status %d; what failed in %s, and its end:\n' "$line_start" "$red" "$plain" "$title" "$elapsed" "$status" "$log"
    { grep -E '^FAILED |\*\*\*' "$log" | head -n 40; echo …; tail -n 40 "$log"; } | sed 's/^/    /'
  fi
  return "$status"
}

# To build. What `mayfly run --net` needs at run time (nftables, passt) is not among them: mayfly doctor names it.
build_packages=(cmake g++ ninja-build libcli11-dev libfmt-dev libseccomp-dev libsodium-dev liburing-dev nlohmann-json3-dev musl-tools
  e2fsprogs fakeroot busybox-static help2man)

# build_preset PRESET [TARGET…]
build_preset() {
  local preset=$1
  shift
  cmake --preset "$preset" && cmake --build --preset "$preset" ${1:+--target "$@"}
}
