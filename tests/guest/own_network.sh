# A network namespace of the test's own, in which taps can be made without root, and that takes them along when it goes. Source
# it from the project's root with the test's arguments: it starts the test again in there.
# shellcheck shell=bash
if [ -z "${MAYFLY_OWN_NETWORK:-}" ]; then
  [ -e /dev/net/tun ] || modprobe tun 2>/dev/null
  [ -e /dev/net/tun ] || { echo "tests/guest/${0##*/}: /dev/net/tun is missing: modprobe tun" >&2; exit 1; }
  [ "$(id -u)" -eq 0 ] && own=(unshare --net) || own=(unshare --map-root-user --net)
  MAYFLY_OWN_NETWORK=1 exec "${own[@]}" "$BASH" "$PWD/tests/guest/${0##*/}" "$@"
fi
