#!/bin/sh
# Builds the default guest image: busybox and mayfly-init, as ext4.
#
#   rootfs/build.sh [INIT]
#
# INIT is the mayfly-init to put in (default: $MAYFLY_INIT, or build/release/bin/mayfly-init); beside it is the mayfly
# whose `image build` makes the image. The image is artifacts/rootfs.ext4 (or $MAYFLY_ROOTFS); nothing is done when it
# is up to date. Needs no root.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
init=${1:-${MAYFLY_INIT:-$root/build/release/bin/mayfly-init}}
image=${MAYFLY_ROOTFS:-$root/artifacts/rootfs.ext4}
work=

die() {
  echo "rootfs/build.sh: $*" >&2
  exit 1
}
clean() { rm -rf "$work" "$image.new"; }
trap clean EXIT
trap 'exit 1' INT TERM

[ -x "$init" ] || die "$init is missing: build the target mayfly-init first, or say where it is"
init=$(realpath "$init")
mayfly=$(dirname "$init")/mayfly
[ -x "$mayfly" ] || die "$mayfly is missing: build the target mayfly first"
image=$(realpath -m "$image")
busybox=$(command -v busybox) || die "busybox is missing: apt-get install busybox-static"
ldd "$busybox" >/dev/null 2>&1 && die "$busybox needs shared libraries: apt-get install busybox-static"

# Up to date is: made of the same inputs by the same script.
inputs=$(cat "$0" "$init" "$mayfly" "$busybox" | sha256sum | cut -c1-64)
if [ -f "$image" ] && [ "$(cat "$image.inputs" 2>/dev/null)" = "$inputs" ]; then
  echo "rootfs: $image is up to date"
  exit 0
fi
mkdir -p "$(dirname "$image")" || die "cannot make the folder of $image"

# In memory where there is some: the order of a tmpfs folder's entries depends on nothing but their making.
work=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d) || die "cannot make a temporary folder"
umask 022
mkdir "$work/tree"
cd "$work/tree"
# One folder for all programs: the first place that PATH is looked up in has them.
mkdir bin dev etc home mnt proc root run sys tmp usr var var/log var/tmp
ln -s bin sbin
ln -s ../bin usr/bin
ln -s ../bin usr/sbin
chmod 1777 tmp var/tmp
chmod 700 root
cp "$busybox" bin/busybox
chmod 755 bin/busybox
# Hard links: an applet's inode is in memory as soon as busybox's is.
for applet in $(bin/busybox --list); do
  [ -e "bin/$applet" ] || ln bin/busybox "bin/$applet"
done
cat >etc/passwd <<'EOF'
root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
EOF
cat >etc/group <<'EOF'
root:x:0:
tty:x:5:
nogroup:x:65534:
EOF
printf '127.0.0.1\tlocalhost mayfly\n::1\tlocalhost\n' >etc/hosts
: >etc/resolv.conf
echo mayfly >etc/hostname
printf 'export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nPS1="\\w # "\n' >etc/profile
cat >etc/os-release <<'EOF'
NAME="Mayfly guest"
ID=mayfly
PRETTY_NAME="Mayfly guest (busybox)"
EOF

# With a fixed date the image is the same each time.
SOURCE_DATE_EPOCH=1700000000 "$mayfly" image build --quiet --size 64 --init "$init" -o "$image.new" . \
  2>"$work/errors" || die "$(sed 's/^mayfly: //' "$work/errors")"
mv "$image.new" "$image"
echo "$inputs" >"$image.inputs"
echo "rootfs: $image, $(du -k "$image" | cut -f1) KiB on disk"
