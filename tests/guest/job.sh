# Guests that do one job, for the tests of drives. Source it.
# shellcheck shell=bash

# loop_device FILE: makes a block device of it, and prints its path; losetup --detach ends it.
loop_device() {
  [ -e /dev/loop-control ] || modprobe loop
  losetup --find --show "$1"
}

# make_job_initrd FOLDER FILE: an initrd in FILE, made in FOLDER: busybox, and an init that runs the job on standard input and
# ends the machine.
make_job_initrd() {
  local tree=$1
  rm -rf "$tree"
  mkdir -p "$tree"/{bin,proc,sys,dev,mnt,tmp}
  cp /usr/bin/busybox "$tree/bin/busybox"
  cat >"$tree/init" <<'END_OF_INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
exec </dev/ttyS0 >/dev/ttyS0 2>&1
# say NAME COMMAND…: a line "NAME=OUTPUT".
say() {
  local name=$1
  shift
  echo "$name=$("$@" 2>&1)"
}
sum() { sha256sum | cut -c1-64; }
drop_caches() {
  sync
  echo 3 >/proc/sys/vm/drop_caches
}
. /job
echo job=done
reboot -f
END_OF_INIT
  cat >"$tree/job"
  chmod +x "$tree/init"
  (cd "$tree" && find . | busybox cpio -o -H newc 2>/dev/null) >"$2"
}
