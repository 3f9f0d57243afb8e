#!/usr/bin/env bash
# A container's image, as docker save writes them: imported, and run as a Linux guest. Runs where tests/guest/run_test.sh does
# (lab/run tests/guest/image_test.sh); needs skopeo, umoci, python3 and busybox-static.
set -u
cd "$(dirname "$0")/../.." || exit 1
mayfly=${MAYFLY_BIN:-$PWD/build/release/bin}/mayfly
. tests/guest/checks.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export XDG_DATA_HOME=$work/data
deadline=300

# Two layers: in the second one a file of the first is gone, and another is changed.
make_archive() {
  mkdir -p "$work"/one/{bin,etc,home/app} "$work/two/etc" || return 1
  cp "$(command -v busybox)" "$work/one/bin/" && chown 1234:50 "$work/one/home/app" && chmod 700 "$work/one/home/app" || return 1
  for applet in sh id pwd cat ls env; do ln -s busybox "$work/one/bin/$applet"; done
  echo 'app:x:1234:50::/home/app:/bin/sh' >"$work/one/etc/passwd"
  echo gone >"$work/one/etc/gone"
  echo first >"$work/one/etc/changed"
  echo second >"$work/two/etc/changed"
  touch "$work/two/etc/.wh.gone"
  python3 - "$work" <<'END'
import hashlib, json, sys, tarfile
work = sys.argv[1]
names = []
for layer in ("one", "two"):
    names.append(f"{work}/{layer}.tar")
    with tarfile.open(names[-1], "w") as tar:
        tar.add(f"{work}/{layer}", ".")
digests = ["sha256:" + hashlib.sha256(open(name, "rb").read()).hexdigest() for name in names]
config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": digests},
          "config": {"Entrypoint": ["/bin/sh", "-c"], "Cmd": ["id -u; id -g; pwd; cat /etc/changed; ls /etc; echo $GREETING"],
                     "Env": ["PATH=/bin", "GREETING=hello"], "User": "app", "WorkingDir": "/home/app"}}
manifest = [{"Config": "config.json", "RepoTags": ["demo:1"], "Layers": ["one.tar", "two.tar"]}]
for name, value in (("config", config), ("manifest", manifest)):
    with open(f"{work}/{name}.json", "w") as f:
        json.dump(value, f)
with tarfile.open(f"{work}/demo.tar", "w") as tar:
    for name in ("one.tar", "two.tar", "config.json", "manifest.json"):
        tar.add(f"{work}/{name}", name)
END
}
# prints TEXT COMMAND…
prints() {
  local wanted=$1 got
  shift
  got=$(timeout -k 5 "$deadline" "$@" 2>"$work/err" </dev/null)
  [ "$got" = "$wanted" ] || { printf '    wanted "%s", got "%s"\n' "$wanted" "$got"; sed 's/^/      /' "$work/err"; return 1; }
}

make_archive || exit 1
check "it is imported" "$mayfly" image import --quiet "$work/demo.tar"
check "its own command runs as its user, where it says" prints $'1234\n50\n/home/app\nsecond\nchanged\npasswd\nhello' "$mayfly" run demo
check "another command and other variables" prints "0 /tmp bye" "$mayfly" run --user 0 --workdir /tmp --env GREETING=bye demo -- \
  'echo "$(id -u) $(pwd) $GREETING"'
check "it is removed" "$mayfly" image rm demo
check "and there no more" [ "$("$mayfly" run demo 2>&1)" = "mayfly: there is no image demo: make it with \"mayfly image import ARCHIVE --name demo\"" ]
summary
