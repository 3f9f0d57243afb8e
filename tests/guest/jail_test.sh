#!/usr/bin/env bash
# Linux guests whose mayfly-vmm is in a jail: as root with a cgroup and the control socket, without root with /dev/kvm as a
# descriptor, and by mayfly run in each way there is. Runs where tests/guest/run_test.sh does (lab/run tests/guest/jail_test.sh); needs root, curl, jq and busybox-static.
set -u
cd "$(dirname "$0")/../.." || exit 1
bin=${MAYFLY_BIN:-$PWD/build/release/bin}
kernel=${MAYFLY_ARTIFACTS:-$PWD/artifacts}/vmlinux
# What takes longer hangs.
deadline=240
. tests/guest/checks.sh
. tests/guest/job.sh
work=$(mktemp -d)
chmod 755 "$work"
trap 'umount "$work/runtime" 2>/dev/null; rm -rf "$work"' EXIT
jails=$work/jails
uid=64201 gid=64202

make_job_initrd "$work/tree" "$work/initrd" <<'END'
say kernel uname -s
dd if=/dev/urandom of=/dev/vda bs=64k count=16
echo disk=$(dd if=/dev/vda bs=64k count=16 | sum)
END

# prepare FOLDER OWNER: what a client puts into a jail.
prepare() {
  mkdir -p "$1/run"
  cp "$kernel" "$work/initrd" "$1/"
  truncate -s 16M "$1/disk"
  chown -R "$2" "$1"
}

said() { tr -d '\r' <"$work/console" | sed -n "s/^$1=//p"; }
# ends COMMAND…: runs it with the console in $work/console; its exit status is the guest's.
ends() { timeout -k 5 "$deadline" "$@" >"$work/console" 2>"$work/err" </dev/null; }
guest_was_right() {
  [ "$(said kernel)" = Linux ] && [ "$(said job)" = done ] &&
    [ "$(said disk)" = "$(head -c 1M "$1" | sha256sum | cut -c1-64)" ] && return 0
  sed 's/^/    /' "$work/console" "$work/err"
  return 1
}

config='{"boot-source": {"kernel_image_path": "vmlinux", "initrd_path": "initrd",
  "boot_args": "console=ttyS0 loglevel=1 reboot=k,panic_warm panic=-1 tsc=reliable"},
 "machine-config": {"vcpu_count": 1, "mem_size_mib": 128},
 "drives": [{"drive_id": "disk", "is_root_device": false, "path_on_host": "disk"}]}'

# As root: a cgroup, a PID namespace, the control socket.
root=$jails/mayfly-vmm/one/root
prepare "$root" $uid:$gid
printf '%s' "$config" >"$root/config.json"
chmod 644 "$root/config.json"
"$bin/mayfly-jailer" --id one --exec-file "$bin/mayfly-vmm" --uid $uid --gid $gid --chroot-base-dir "$jails" --new-pid-ns \
  --cgroup pids.max=64 -- --config-file config.json --api-sock /run/api.sock >"$work/console" 2>"$work/err" </dev/null
check "the jailer ends once the VMM runs" [ $? -eq 0 ] || { cat "$work/err" >&2; summary; exit 1; }
pid=$(cat "$root/mayfly-vmm.pid")
# answer PATH [OPTION…]
answer() { curl -s --max-time 60 --unix-socket "$root/run/api.sock" "http://localhost$1" "${@:2}"; }
answers() {
  for _ in $(seq 300); do
    answer / | grep -q '"id":"one"' && return 0
    sleep 0.1
  done
  return 1
}
check "the control socket answers" answers
# It must not end while it is looked at.
becomes() { answer /vm -X PATCH -d "{\"state\": \"$1\"}" -w '%{http_code}' | grep -q 204; }
check "the machine can be paused" becomes Paused
# Of the VMM, which $pid is.
process() { awk -v name="$1:" '$1 == name {print $2}' "/proc/$pid/status"; }
no_capability() { [ "$(awk '/^Cap(Prm|Eff|Bnd|Amb|Inh):/ {print $2}' "/proc/$pid/status" | sort -u)" = 0000000000000000 ]; }
check "the VMM is the jail's user" [ "$(process Uid)" = $uid ]
check "the VMM has no capability" no_capability
check "the VMM is in its cgroup" grep -q '/mayfly-vmm/one$' "/proc/$pid/cgroup"
only_its_files() {
  local fd inode known
  known=" $(find "$root" "$work/console" "$work/err" -printf '%i ')"
  for fd in "/proc/$pid/fd/"*; do
    [ -f "$fd" ] || [ -d "$fd" ] || continue
    case $(readlink "$fd") in anon_inode:*) continue ;; esac
    inode=$(stat -L -c %i "$fd")
    case $known in *" $inode "*) ;; *) ls -l "$fd" >&2; return 1 ;; esac
  done
}
check "it has no file open but its jail's and its caller's output" only_its_files
ended() {
  for _ in $(seq $((deadline * 10))); do
    # Gone, or a zombie that whoever adopted it has not looked at.
    grep -q '^State:[[:space:]]*[^Z]' "/proc/$pid/status" 2>/dev/null || return 0
    sleep 0.1
  done
  return 1
}
check "the machine goes on" becomes Resumed
check "the guest ends" ended
check "the guest ran, and its disk is on the host" guest_was_right "$root/disk"
"$bin/mayfly-jailer" --cleanup one --chroot-base-dir "$jails"
check "nothing is left after --cleanup" sh -c "! find '$jails/mayfly-vmm' /sys/fs/cgroup -name one 2>/dev/null | grep ."

# The only process of a PID namespace gets no signal that it does not ask for; SIGTERM it does.
"$bin/mayfly-jailer" --id three --exec-file "$bin/mayfly-vmm" --uid $uid --gid $gid --chroot-base-dir "$jails" --new-pid-ns \
  --daemonize -- --api-sock /run/api.sock
root=$jails/mayfly-vmm/three/root
pid=$(cat "$root/mayfly-vmm.pid")
listening() {
  for _ in $(seq 300); do
    [ -S "$root/run/api.sock" ] && return 0
    sleep 0.1
  done
  return 1
}
check "a daemon listens" listening
kill -TERM "$pid"
check "SIGTERM ends it" ended
check "it took its socket away" [ ! -e "$root/run/api.sock" ]

# Without root.
root=$work/own/mayfly-vmm/two/root
prepare "$root" $uid:$uid
printf '%s' "$config" >"$root/config.json"
chown -R $uid:$uid "$work/own"
ends setpriv --reuid $uid --regid $uid --clear-groups "$bin/mayfly-jailer" --id two --exec-file "$bin/mayfly-vmm" \
  --chroot-base-dir "$work/own" --userns --pass-fd 9 -- --no-api --config-file config.json --kvm /dev/fd/9 9<>/dev/kvm
check "a VMM in a user namespace ends with its guest" [ $? -eq 0 ]
check "the guest ran there, by a descriptor for /dev/kvm" guest_was_right "$root/disk"

# ---- mayfly run ----
mayfly() { timeout -k 5 "$deadline" "${as[@]}" env XDG_RUNTIME_DIR="$runtime" HOME=/ "$bin/mayfly" "$@" </dev/null; }
says() { [ "$(wc -l <"$work/err")" -eq 1 ] && grep -qF -- "$1" "$work/err" || { cat "$work/err" >&2; return 1; }; }
started() { mayfly run "$@" --detach --name jailed -- sleep 1000 >"$work/out" 2>"$work/err" && pid=$(mayfly inspect jailed | jq .vmm_pid); }
nothing_left() {
  for _ in $(seq 100); do
    [ -z "$(find "$runtime" -mindepth 1 ! -type d ! -name .lock)" ] && ! pgrep -f mayfly-vmm >/dev/null && return 0
    sleep 0.1
  done
  find "$runtime" >&2
  return 1
}
# A machine that is used in every way that goes through its jail.
works() {
  [ "$(mayfly exec jailed -- sh -c 'echo $((6 * 7))')" = 42 ] && mayfly pause jailed && mayfly resume jailed &&
    mayfly stats jailed | grep -q jailed && mayfly inspect jailed | grep -q '"api_socket"'
}
in_force() { [ "$(mayfly inspect jailed | jq -r .jail)" = "$1" ]; }
# The VMM's threads and files, seen from the host.
no_code_is_writable() { ! awk '$2 ~ /w.*x/' "/proc/$pid/maps" | grep .; }
sees_only_its_jail() { [ "$(ls "/proc/$pid/root/" | tr '\n' ' ')" = "$1" ] || { ls "/proc/$pid/root/" >&2; return 1; }; }

# As root, on a disk as /run usually is: nothing may be executed from it, and no device used.
runtime=$work/runtime as=()
mkdir -m 700 "$runtime" && mount -t tmpfs -o noexec,nodev,nosuid,mode=700 runtime "$runtime"
check "mayfly run, root: it starts without a word" eval 'started && [ ! -s "$work/err" ]'
check "mayfly run, root: the jail is in force" in_force root
check "mayfly run, root: the VMM has a user of its own" [ "$(process Uid)" -gt 1879048192 ]
check "mayfly run, root: the VMM has no capability" no_capability
check "mayfly run, root: the VMM sees its jail" sees_only_its_jail "dev run "
check "mayfly run, root: no page is both written to and executed" no_code_is_writable
check "mayfly run, root: it works" works
mayfly kill jailed
check "mayfly run, root: nothing is left" nothing_left
# Without anybody who clears away, the VMM ends with its mayfly.
check "mayfly run, root: it starts again" started
keepers=$(pgrep -f 'mayfly run|mayfly-keeper|mayfly-machine')
kill -9 $keepers
check "mayfly run, root: it ends with its mayfly and its keeper" ended
mayfly ps >/dev/null
check "mayfly run, root: what they left, the next command removes" nothing_left
umount "$runtime"

check "--no-jail: it starts" started --no-jail
check "--no-jail: none is in force" in_force none
check "--no-jail: it works" works
mayfly kill jailed

as=(setpriv --bounding-set -mknod)
check "a root that can have no jail: it runs" [ "$(mayfly run -- echo ran 2>"$work/err")" = ran ]
check "a root that can have no jail: it is told" says "no jail around this virtual machine"
as=()

# A jail that there could be, and is not for another reason, is an error.
mkdir "$work/bin" && cp "$bin/mayfly" "$bin/mayfly-vmm" "$bin/mayfly-jailer" "$work/bin/" && chmod g+w "$work/bin/mayfly-vmm"
refused() {
  local status=0
  MAYFLY_ARTIFACTS=${MAYFLY_ARTIFACTS:-$PWD/artifacts} XDG_RUNTIME_DIR=$runtime "$work/bin/mayfly" run -- true >"$work/out" 2>"$work/err" </dev/null || status=$?
  [ "$status" -eq 125 ] && says "$1" && says "--no-jail"
}
check "a VMM that others may change" refused "others than its owner may change it (mode 775)"
rm "$work/bin/mayfly-jailer"
check "no jailer" refused "no mayfly-jailer at $work/bin/mayfly-jailer"
check "neither leaves anything" nothing_left

# What is written to an image goes through a descriptor.
cp "${MAYFLY_ARTIFACTS:-$PWD/artifacts}/rootfs.ext4" "$work/image"
check "--writable: it writes" mayfly run --rootfs "$work/image" --writable -- sh -c 'echo kept >/kept'
check "--writable: it was written" [ "$(mayfly run --rootfs "$work/image" -- cat /kept)" = kept ]

# As a user who may use /dev/kvm.
runtime=$work/users as=(setpriv --reuid $uid --regid $uid --clear-groups)
mkdir -m 700 "$runtime" && chown $uid:$uid "$runtime"
mode=$(stat -c %a /dev/kvm)
chmod 666 /dev/kvm
check "mayfly run, user: it starts without a word" eval 'started && [ ! -s "$work/err" ]'
check "mayfly run, user: the jail is in force" in_force userns
check "mayfly run, user: the VMM has no capability" no_capability
check "mayfly run, user: the VMM is in a user namespace" [ "$(readlink "/proc/$pid/ns/user")" != "$(readlink /proc/self/ns/user)" ]
check "mayfly run, user: the VMM sees its jail" sees_only_its_jail "dev mayfly-vmm run "
check "mayfly run, user: it works" works
mayfly kill jailed
check "mayfly run, user: nothing is left" nothing_left
chmod "$mode" /dev/kvm

summary
