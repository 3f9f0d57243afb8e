#!/usr/bin/env bash
# The Debian package, installed on a Debian 12 that has nothing else, run there, and removed. Wants root, and scripts/package.sh
# done; the Debian is made by debootstrap, and kept in the cache for a month. Where Linux guests run, one runs.
set -u -o pipefail
cd "$(dirname "$0")/../.." || exit 1
. tests/guest/checks.sh
package=$(realpath "${1:-$(ls -t build/package/*.deb | head -n 1)}") || exit 1
cache=${MAYFLY_CACHE:-$HOME/.cache/mayfly}/debian
work=$(mktemp -d)
root=$work/root
finish() {
  umount -q "$root/dev" "$root/proc" 2>/dev/null
  rm -rf --one-file-system "$work"
}
trap finish EXIT

make_debian() {
  local tarball
  mkdir -p "$cache" "$root" || return 1
  tarball=$(find "$cache" -name 'bookworm.tar' -mtime -30)
  if [ -z "$tarball" ]; then
    tarball=$cache/bookworm.tar
    debootstrap --variant=minbase bookworm "$work/new" >"$work/log" 2>&1 || { tail -n 5 "$work/log"; return 1; }
    tar -C "$work/new" --one-file-system -cf "$tarball.$$" . && mv "$tarball.$$" "$tarball" || return 1
    rm -rf --one-file-system "$work/new"
  fi
  tar -C "$root" -xpf "$tarball" && mount -t proc proc "$root/proc" && mount --bind /dev "$root/dev"
}
inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"; }
installs() { cp "$package" "$root/tmp/mayfly.deb" && inside dpkg -i /tmp/mayfly.deb >"$work/log" 2>&1 || { cat "$work/log"; return 1; }; }
prints() {
  local pattern=$1 out
  shift
  out=$("$@" 2>&1)
  grep -q "$pattern" <<<"$out" || { echo "    $*: $out"; return 1; }
}
# Each page is of use to man, and says so without a warning.
pages_render() {
  local page warnings count=0
  for page in "$root"/usr/share/man/man1/mayfly*.1*; do
    warnings=$(man --warnings -E UTF-8 -l "$page" 2>&1 >"$work/page") && [ -z "$warnings" ] && grep -q NAME "$work/page" || {
      echo "    $page: $warnings"
      return 1
    }
    count=$((count + 1))
  done
  [ "$count" -ge 10 ] || { echo "    $count pages"; return 1; }
}
unit_is_good() {
  local said
  # Nothing else of systemd is installed there.
  said=$(systemd-analyze --man=no --root="$root" verify mayfly@web.service 2>&1 | grep -v 'Unit .* not found')
  [ -z "$said" ] || { echo "    $said"; return 1; }
}
serves() {
  (exec chroot "$root" /usr/bin/mayfly-vmm --api-sock /tmp/api.sock --notify-fd 3 3>"$work/told" >"$work/log" 2>&1 </dev/null) &
  local pid=$! tries=600 status=0
  until grep -q socket "$work/told"; do
    [ $((tries -= 1)) -gt 0 ] && kill -0 $pid || break
    sleep 0.1
  done
  curl -sS --unix-socket "$root/tmp/api.sock" http://localhost/ | grep -q '"app_name":"Mayfly"' || status=1
  kill $pid
  wait $pid
  [ ! -e "$root/tmp/api.sock" ] && [ $status -eq 0 ]
}
# The executable of the package in a jail of the package.
makes_a_jail() {
  prints '[0-9]' inside mayfly-jailer --id deb --exec-file /usr/bin/mayfly-vmm --uid 20001 --gid 20001 -- --version &&
    inside mayfly-jailer --cleanup deb
}
completes() {
  prints '^stop$' inside bash -c 'source /usr/share/bash-completion/completions/mayfly; COMP_WORDS=(mayfly sto); COMP_CWORD=1; _mayfly; printf "%s\n" "${COMPREPLY[@]}"'
}
runs_a_guest() { [ "$(inside mayfly run -- sh -c 'echo $((6 * 7))')" = 42 ]; }
is_removed() {
  inside dpkg -P mayfly >"$work/log" 2>&1 || { cat "$work/log"; return 1; }
  [ -z "$(find "$root" -xdev -name '*mayfly*' ! -path "$root/tmp/*" ! -path "$root/proc/*" ! -path "$root/var/*" ! -path "$root/srv/jailer/*" ! -path "$root/run/*")" ]
}

make_debian || { echo "tests/package/deb_test.sh: no Debian to install it on" >&2; exit 1; }
check "it installs where nothing is" installs
check "mayfly" prints 'v[0-9]' inside mayfly version
check "mayfly doctor" prints '/dev/kvm' inside mayfly doctor
check "mayfly-vmm" prints '[0-9]' inside mayfly-vmm --version
check "the control socket answers" serves
check "a jail can be made" makes_a_jail
check "bash completes" completes
check "the manual's pages render" pages_render
check "systemd takes the unit" unit_is_good
if inside mayfly doctor --quiet; then
  check "a command runs in a guest" runs_a_guest
else
  echo "skipped  a command in a guest: no hardware virtualization here"
fi
check "it is removed" is_removed
summary
