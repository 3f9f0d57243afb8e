#!/usr/bin/env bash
# scripts/httplib.sh: gets cpp-httplib from Debian's source package and prints the folder that httplib.h is in. Debian's binary
# packages of it are a shared library and a header for that; what Mayfly links is static. The cache keeps it; CMake calls this.
set -u -o pipefail
{
  . "$(dirname "$0")/common.sh"

  need_packages dpkg-dev xz-utils debian-archive-keyring || exit 1
  [ -n "${MAYFLY_CACHE:-}${HOME:-}" ] || die "set MAYFLY_CACHE or HOME: the cache has to be somewhere"
  version=$(apt-cache show --no-all-versions libcpp-httplib-dev 2>/dev/null | sed -n 's/^Version: //p')
  [ -n "$version" ] || die "apt knows no libcpp-httplib-dev: run apt-get update as root"
  cache=${MAYFLY_CACHE:-$HOME/.cache/mayfly}/httplib
  place=$cache/$version

  # From the archives that binary packages come from, checked with the same keys, into folders of our own: the system's
  # configuration may have no deb-src lines, and stays as it is.
  fetch() {
    local work=$1 uri release
    mkdir -p "$work/lists/partial" "$work/sources" || return 1
    while IFS='|' read -r uri release; do
      printf 'Types: deb-src\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n' \
        "$uri" "$release"
    done < <(apt-get indextargets --format '$(ORIGIN)|$(REPO_URI)|$(RELEASE)' 'Created-By: Packages' 'Component: main' |
      sed -n 's/^Debian|//p' | sort -u) >"$work/sources/debian.sources"
    [ -s "$work/sources/debian.sources" ] || { echo "apt has no lists of Debian's packages: run apt-get update as root" >&2; return 1; }
    local options=(-qq -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$work/sources" -o "Dir::State::lists=$work/lists"
      -o "Dir::Cache=$work" -o APT::Sandbox::User=)
    apt-get "${options[@]}" update && (cd "$work" && apt-get "${options[@]}" source "cpp-httplib=$version") || return 1
    [ -r "$(echo "$work"/cpp-httplib-*/httplib.h)" ]
  }

  if [ ! -r "$place/httplib.h" ]; then
    mkdir -p "$cache" || die "cannot make $cache"
    work=$(mktemp -d "$cache/fetch.XXXXXX") || die "cannot write to $cache"
    trap 'rm -rf "$work"' EXIT
    step "Source package: cpp-httplib $version" fetch "$work" || die "could not get Debian's source package cpp-httplib $version"
    mkdir -p "$place" && cp "$work"/cpp-httplib-*/httplib.h "$place/.httplib.h.$$" && mv "$place/.httplib.h.$$" "$place/httplib.h" ||
      die "cannot write to $place"
  fi
} >&2
printf '%s\n' "$place"
