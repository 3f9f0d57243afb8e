"""What the programs of this folder share: where things are, guests under Mayfly and under QEMU's microvm machine, figures."""

import json
import mmap
import os
import select
import statistics
import sys
import time

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.realpath(__file__)), ".."))
BIN = os.path.join(ROOT, "build/release/bin")
KERNEL = os.path.join(ROOT, "artifacts/vmlinux")
BOOT_ARGS = ("console=ttyS0 quiet loglevel=1 reboot=k,panic_warm panic=-1 8250.nr_uarts=1 tsc=reliable "
             "no_timer_check init=/init")


def fail(message):
    sys.exit(f"perf/{os.path.basename(sys.argv[0])}: {message}")


def mayfly_command(folder, memory, boot_args=BOOT_ARGS, initrd=None, name="config", **devices):
    """`devices` are more keys of the configuration file; where one has a dash, it has an underscore here."""
    config = {"boot-source": {"kernel_image_path": KERNEL, "boot_args": boot_args},
              "machine-config": {"vcpu_count": 1, "mem_size_mib": memory}}
    if initrd:
        config["boot-source"]["initrd_path"] = initrd
    config.update({key.replace("_", "-"): value for key, value in devices.items()})
    path = os.path.join(folder, name + ".json")
    with open(path, "w") as f:
        json.dump(config, f)
    return [os.path.join(BIN, "mayfly-vmm"), "--no-api", "--config-file", path]


def qemu_command(memory, boot_args, *more):
    return ["qemu-system-x86_64", "-M", "microvm,acpi=off,pit=off,pic=off,rtc=off,isa-serial=on", "-accel", "kvm",
            "-cpu", "host", "-smp", "1", "-m", str(memory), "-nodefaults", "-no-user-config", "-nographic", "-no-reboot",
            "-serial", "stdio", "-kernel", KERNEL, "-append", boot_args, *more]


def qemu_drive(image, drive_options="", device_options=""):
    return ["-drive", f"id=drive0,file={image},format=raw,if=none{drive_options}",
            "-device", f"virtio-blk-device,drive=drive0{device_options}"]


class Console:
    """What a guest says on its serial port, as the VMM's standard output."""

    def __init__(self, process, name):
        self.process, self.name, self.text = process, name, b""

    def wait_for(self, marker, seconds):
        """Everything up to the marker and with it; fails when it is not said in time."""
        end = time.monotonic() + seconds
        while marker not in self.text:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, end - time.monotonic()))
            chunk = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not chunk:
                why = "ended" if ready else f"was silent for {seconds:.0f} s"
                said = self.text.decode(errors="replace")
                fail(f"{self.name} {why} and did not say \"{marker.decode().strip()}\", but:\n{said}")
            self.text += chunk
        before, self.text = self.text.split(marker, 1)
        return before + marker


def sweep_memory(mib):
    """Has the kernel clear the memory that the boot before gave back. An emulated host is ten times slower at clearing
    pages that held a guest's code, which would hide what a VMM does; on hardware this changes nothing."""
    with mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for page in range(0, mib << 20, mmap.PAGESIZE):
            memory[page] = 1


def spread(values):
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def write_whole(path, text):
    """No reader ever sees a half of it."""
    with open(path + ".new", "w") as f:
        f.write(text)
    os.rename(path + ".new", path)
