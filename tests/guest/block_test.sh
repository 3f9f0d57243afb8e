#!/usr/bin/env bash
# Drives of Linux guests, with both engines: what was written is there, what was trimmed is freed, what is
# read-only stays. Runs where Linux guests run: on hardware virtualization, or in the lab
# (lab/run tests/guest/block_test.sh). Names of tests may be given to run only those.
set -u
cd "$(dirname "$0")/../.." || exit 1
vmm=${MAYFLY_BIN:-$PWD/build/release/bin}/mayfly-vmm
artifacts=${MAYFLY_ARTIFACTS:-$PWD/artifacts}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# No guest may take longer than this: what takes longer hangs.
deadline=240

# expect WHAT WANTED GOT
expect() {
  [ "$2" = "$3" ] && return 0
  printf '    %s: wanted "%s", got "%s"\n' "$1" "$2" "$3"
  return 1
}

# at_most WHAT LIMIT GOT, at_least WHAT LIMIT GOT
at_most() {
  [ "$3" -le "$2" ] && return 0
  printf '    %s: wanted at most %s, got %s\n' "$1" "$2" "$3"
  return 1
}
at_least() {
  [ "$3" -ge "$2" ] && return 0
  printf '    %s: wanted at least %s, got %s\n' "$1" "$2" "$3"
  return 1
}

# KiB that a file takes on the host.
taken() {
  sync "$1"
  du -k "$1" | cut -f1
}

. tests/guest/job.sh

# boot ENGINE VCPUS: runs the job on standard input in a guest with drives fixed (vda, read-only), data (vdb) and
# raw (vdc; of $raw where that is set). What it says is in $work/out.
boot() {
  local engine=$1 vcpus=$2 kernel=vmlinux status=0
  make_job_initrd "$work/tree" "$work/initrd"
  [ "$vcpus" -eq 1 ] || kernel=vmlinux-smp
  cat >"$work/config.json" <<END
{"boot-source": {"kernel_image_path": "$artifacts/$kernel", "initrd_path": "$work/initrd",
  "boot_args": "console=ttyS0 loglevel=1 reboot=k,panic_warm panic=-1 tsc=reliable swiotlb=noforce"},
 "machine-config": {"vcpu_count": $vcpus, "mem_size_mib": 192},
 "drives": [
  {"drive_id": "fixed", "is_root_device": false, "is_read_only": true, "path_on_host": "$work/fixed", "io_engine": "$engine"},
  {"drive_id": "data", "is_root_device": false, "path_on_host": "$work/data", "cache_type": "Writeback", "io_engine": "$engine"},
  {"drive_id": "raw", "is_root_device": false, "path_on_host": "${raw:-$work/raw}", "io_engine": "$engine"}]}
END
  rm -f "$work/metrics"
  timeout -k 5 "$deadline" "$vmm" --no-api --config-file "$work/config.json" --metrics-path "$work/metrics" >"$work/console" 2>"$work/err" </dev/null || status=$?
  tr -d '\r' <"$work/console" >"$work/out"
  expect "exit status" 0 "$status" && expect "the job" done "$(said job)" && return 0
  sed 's/^/      /' "$work/out" "$work/err"
  return 1
}

# counted DEVICE METRIC: what the machine counted by its end.
counted() {
  jq --arg device "$1" --arg metric "$2" '.[$device][$metric]' "$work/metrics"
}

# said NAME: what the guest said.
said() {
  sed -n "s/^$1=//p" "$work/out"
}

make_drives() {
  rm -f "$work"/{fixed,data,raw}
  head -c 4M /dev/urandom >"$work/fixed"
  truncate -s 64M "$work/data"
  mke2fs -q -F -t ext4 "$work/data"
  truncate -s 16M "$work/raw"
}

# each_engine COMMAND…: with the engine as its last argument.
each_engine() {
  local engine
  for engine in Sync Async; do
    make_drives
    "$@" "$engine" || { printf '    … with the engine %s\n' "$engine"; return 1; }
  done
}

written_and_read() {
  boot "$1" 1 <<'END' || return 1
dd if=/dev/urandom of=/tmp/bytes bs=64k count=200
echo bytes=$(sum </tmp/bytes)
dd if=/tmp/bytes of=/dev/vdc bs=64k conv=fsync
drop_caches
echo again=$(dd if=/dev/vdc bs=64k count=200 | sum)
echo small=$(dd if=/dev/vdc bs=512 count=25600 iflag=direct | sum)
echo fixed=$(sum </dev/vda)
END
  local wanted
  wanted=$(said bytes)
  expect "characters of a checksum" 64 "${#wanted}" &&
    expect "read back" "$wanted" "$(said again)" &&
    expect "read back in sectors" "$wanted" "$(said small)" &&
    expect "on the host" "$wanted" "$(head -c $((200 * 65536)) "$work/raw" | sha256sum | cut -c1-64)" &&
    expect "the other drive" "$(sha256sum <"$work/fixed" | cut -c1-64)" "$(said fixed)" &&
    expect "bytes written, by the metrics" $((200 * 65536)) "$(counted block_raw write_bytes)" &&
    expect "bytes written to any drive" $((200 * 65536)) "$(counted block write_bytes)" &&
    at_least "bytes read" $((4 << 20)) "$(counted block_fixed read_bytes)" &&
    expect "requests that are wrong" 0 "$(counted block invalid_reqs_count)"
}
test_written_and_read() { each_engine written_and_read; }

read_only() {
  local before
  before=$(sha256sum <"$work/fixed")
  boot "$1" 1 <<'END' || return 1
say ro cat /sys/block/vda/ro
say discard cat /sys/block/vda/queue/discard_max_bytes
if dd if=/dev/zero of=/dev/vda bs=512 count=1 conv=fsync; then echo write=done; else echo write=refused; fi
# Past the block layer's own check, the device refuses.
blockdev --setrw /dev/vda
if dd if=/dev/zero of=/dev/vda bs=512 count=1 conv=fsync; then echo forced=done; else echo forced=refused; fi
END
  expect "the drive is read-only" 1 "$(said ro)" &&
    expect "discards" 0 "$(said discard)" &&
    expect "a write" refused "$(said write)" &&
    expect "a write by force" refused "$(said forced)" &&
    expect "the image" "$before" "$(sha256sum <"$work/fixed")"
}
test_read_only() { each_engine read_only; }

trim() {
  local empty full trimmed
  empty=$(taken "$work/data")
  boot "$1" 1 <<'END' || return 1
mount -t ext4 /dev/vdb /mnt
dd if=/dev/urandom of=/mnt/large bs=64k count=512
echo large=$(sum </mnt/large)
echo kept >/mnt/kept
umount /mnt
END
  full=$(taken "$work/data")
  local wanted
  wanted=$(said large)
  at_least "KiB with the file" $((empty + 32000)) "$full" || return 1
  boot "$1" 1 <<'END' || return 1
mount -t ext4 /dev/vdb /mnt
echo large=$(sum </mnt/large)
rm /mnt/large
sync
if fstrim /mnt; then echo trim=done; else echo trim=refused; fi
say kept cat /mnt/kept
umount /mnt
END
  trimmed=$(taken "$work/data")
  expect "the file in the next guest" "$wanted" "$(said large)" &&
    expect "fstrim" done "$(said trim)" && expect "the other file" kept "$(said kept)" &&
    at_most "KiB after fstrim" $((empty + 4000)) "$trimmed" || return 1
  e2fsck -fn "$work/data" >"$work/fsck" 2>&1 || { sed 's/^/      /' "$work/fsck"; return 1; }
}
test_trim() { each_engine trim; }

discard_all() {
  head -c 16M /dev/urandom >"$work/raw"
  boot "$1" 1 <<'END' || return 1
if blkdiscard /dev/vdc; then echo discard=done; else echo discard=refused; fi
echo content=$(sum </dev/vdc)
END
  expect "blkdiscard" done "$(said discard)" &&
    expect "content" "$(head -c 16M /dev/zero | sha256sum | cut -c1-64)" "$(said content)" &&
    at_most "KiB of the image" 64 "$(taken "$work/raw")" && expect "size" $((16 << 20)) "$(stat -c %s "$work/raw")"
}
test_discard_all() { each_engine discard_all; }

block_device() {
  local device whole status=0
  head -c 16M /dev/urandom >"$work/raw"
  device=$(loop_device "$work/raw") || return 1
  whole=$(sha256sum <"$work/raw" | cut -c1-64)
  raw=$device boot "$1" 1 <<'END' || status=1
say sectors cat /sys/block/vdc/size
echo whole=$(sum </dev/vdc)
dd if=/dev/urandom of=/tmp/bytes bs=64k count=16
echo bytes=$(sum </tmp/bytes)
dd if=/tmp/bytes of=/dev/vdc bs=64k conv=notrunc,fsync
if blkdiscard -o 8388608 -l 8388608 /dev/vdc; then echo discard=done; else echo discard=refused; fi
END
  losetup --detach "$device"
  [ $status -eq 0 ] && expect "sectors" 32768 "$(said sectors)" && expect "what was there" "$whole" "$(said whole)" && expect "blkdiscard" done "$(said discard)" &&
    expect "what was written" "$(said bytes)" "$(head -c 1M "$work/raw" | sha256sum | cut -c1-64)" &&
    expect "what was discarded" "$(head -c 8M /dev/zero | sha256sum | cut -c1-64)" "$(tail -c 8M "$work/raw" | sha256sum | cut -c1-64)" &&
    at_most "KiB of the image" $((8 * 1024 + 64)) "$(taken "$work/raw")"
}
test_block_device() { each_engine block_device; }

description() {
  boot "$1" 1 <<'END' || return 1
say serial cat /sys/block/vdb/serial
say sectors cat /sys/block/vdb/size
say logical cat /sys/block/vdb/queue/logical_block_size
say physical cat /sys/block/vdb/queue/physical_block_size
say least cat /sys/block/vdb/queue/minimum_io_size
say discard cat /sys/block/vdb/queue/discard_max_bytes
say zeroes cat /sys/block/vdb/queue/write_zeroes_max_bytes
say segments cat /sys/block/vdb/queue/max_segments
say segment cat /sys/block/vdb/queue/max_segment_size
say data_cache cat /sys/block/vdb/queue/write_cache
say raw_cache cat /sys/block/vdc/queue/write_cache
END
  local block
  block=$(stat -c %o "$work/data")
  expect "serial" data "$(said serial)" && expect "sectors" 131072 "$(said sectors)" &&
    expect "logical block" 512 "$(said logical)" && expect "physical block" "$block" "$(said physical)" &&
    expect "least I/O" "$block" "$(said least)" && expect "discard" $((1 << 30)) "$(said discard)" &&
    expect "write zeroes" $((32 << 20)) "$(said zeroes)" && expect "segments" 254 "$(said segments)" &&
    expect "segment size" $((1 << 20)) "$(said segment)" && expect "cache of data" "write back" "$(said data_cache)" &&
    expect "cache of raw" "write through" "$(said raw_cache)"
}
test_description() { each_engine description; }

two_cpus() {
  boot "$1" 2 <<'END' || return 1
say cpus nproc
echo queues=$(ls /sys/block/vdb/mq | wc -l)
# Each CPU writes and reads a half of its own, at the same time.
for cpu in 0 1; do
  dd if=/dev/urandom of=/tmp/bytes$cpu bs=64k count=100
  echo bytes$cpu=$(sum </tmp/bytes$cpu)
done
for cpu in 0 1; do
  taskset $((cpu + 1)) dd if=/tmp/bytes$cpu of=/dev/vdc bs=64k seek=$((cpu * 128)) oflag=direct &
done
wait
for cpu in 0 1; do
  (echo again$cpu=$(taskset $((cpu + 1)) dd if=/dev/vdc bs=4k count=1600 skip=$((cpu * 2048)) iflag=direct | sum) >/tmp/again$cpu) &
done
wait
cat /tmp/again0 /tmp/again1
END
  local cpu
  expect "CPUs" 2 "$(said cpus)" && expect "queues" 2 "$(said queues)" || return 1
  for cpu in 0 1; do
    expect "read back by CPU $cpu" "$(said bytes$cpu)" "$(said again$cpu)" &&
      expect "written by CPU $cpu" "$(said bytes$cpu)" \
        "$(tail -c +$((cpu * 128 * 65536 + 1)) "$work/raw" | head -c $((100 * 65536)) | sha256sum | cut -c1-64)" || return 1
  done
}
test_two_cpus() { each_engine two_cpus; }

passed=0 failed=0
for name in $(declare -F | sed -n 's/^declare -f test_//p'); do
  [ $# -eq 0 ] || [[ " $* " == *" $name "* ]] || continue
  began=$SECONDS
  if "test_$name"; then
    passed=$((passed + 1))
    printf 'ok      %s (%d s)\n' "$name" $((SECONDS - began))
  else
    failed=$((failed + 1))
    printf 'FAILED  %s (%d s)\n' "$name" $((SECONDS - began))
  fi
done
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
