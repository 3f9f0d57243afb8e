#!/usr/bin/env bash
# Linux guests whose mayfly-vmm is in a jail: as root with a cgroup and the control socket, and without root with /dev/kvm as a
# descriptor. Runs where tests/guest/run_test.sh does (lab/run tests/guest/jail_test.sh); needs root, curl and busybox-static.
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
jailer=
trap '[ -z "$jailer" ] || kill "$jailer" 2>/dev/null; rm -rf "$work"' EXIT
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
check "the VMM is the jail's user" [ "$(awk '/^Uid:/ {print $2}' "/proc/$pid/status")" = $uid ]
check "the VMM has no capability" [ "$(awk '/^Cap(Prm|Eff|Bnd|Amb|Inh):/ {print $2}' "/proc/$pid/status" | sort -u)" = 0000000000000000 ]
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
summary
