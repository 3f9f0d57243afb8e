#!/usr/bin/env bash
# scripts/man.sh BIN OUT: a manual page in OUT for each command in BIN and each of its subcommands, made of what --help prints.
set -u -o pipefail

[ $# -eq 2 ] || { echo "usage: scripts/man.sh BIN OUT" >&2; exit 2; }
bin=$(realpath "$1") out=$2
work=$(mktemp -d) && mkdir -p "$out" || exit 1
trap 'rm -rf "$work"' EXIT
version=$("$bin/mayfly" version | sed 's/.*v//') || exit 1

# page WORD…: of this command, and of those below it.
page() {
  local name summary word
  name=$(IFS=-; printf '%s' "$*")
  "$bin/$1" "${@:2}" --help >"$work/text" || { echo "scripts/man.sh: $* --help failed" >&2; return 1; }
  # What it is for, which the page has once, by itself.
  summary=$(head -n 1 "$work/text")
  summary=${summary%.}
  # help2man leaves lines as they are where a prompt begins them.
  sed -i '1d; s/…/.../g; /^Examples:/,$s/^  \([^ ]\)/  $ \1/' "$work/text"
  # It calls a page by the program's name.
  printf '#!/bin/sh\ncat %q\n' "$work/text" >"$work/$name" && chmod +x "$work/$name" || return 1
  help2man --no-info --version-string="$version" --name="${summary,}" --source="Mayfly $version" --manual=Mayfly \
    --output="$out/$name.1" "$work/$name" || return 1
  for word in $(sed -n '/^Subcommands:/,/^$/s/^  \([a-z]\+\) .*/\1/p; /^Usage: mayfly COMMAND/,/^Examples:/s/^  \([a-z]\+\) .*/\1/p' \
    "$work/text" | sort -u); do
    page "$@" "$word" || return 1
  done
}

for command in mayfly mayfly-filter mayfly-jailer mayfly-vmm; do
  [ ! -x "$bin/$command" ] || page "$command" || exit 1
done
