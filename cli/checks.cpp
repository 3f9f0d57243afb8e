#include "cli/checks.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/file.h"
#include "cli/host_facts.h"

namespace mayfly::cli {

using base::fail;
using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;

namespace {

constexpr std::size_t kHeadBytes = (64U << 10U) + 512;

struct Magic {
  std::size_t offset;
  std::string_view bytes;
  const char* kind;
};
using namespace std::string_view_literals;
constexpr std::array kImageMagics = {
    Magic{0x438, "\x53\xef"sv, "ext4"},          // ext4 super block, s_magic
    Magic{0, "hsqs"sv, "squashfs"},              // squashfs super block, s_magic
    Magic{1024, "\xe2\xe1\xf5\xe0"sv, "erofs"},  // erofs super block, magic
    Magic{0, "XFSB"sv, "xfs"},                   // xfs super block, sb_magicnum
    Magic{0x10040, "_BHRfS_M"sv, "btrfs"},       // btrfs super block, magic
};

// The first bytes of a regular file or a block device.
Result<std::vector<std::byte>> read_head(const std::string& path, int access) {
  const UniqueFd fd = TRY(base::open_file(path, access | O_NONBLOCK));
  struct stat status {};
  if (::fstat(fd.get(), &status) < 0) return fail_errno(errno, "look at {}", path);
  if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode)) return fail("{} is not a file", path);
  std::vector<std::byte> head(kHeadBytes);
  const ssize_t n = ::pread(fd.get(), head.data(), head.size(), 0);
  if (n < 0) return fail_errno(errno, "read {}", path);
  head.resize(static_cast<std::size_t>(n));
  return head;
}

bool has_magic(std::span<const std::byte> head, std::size_t offset, std::string_view bytes) {
  return head.size() >= offset + bytes.size() &&
         std::memcmp(head.data() + offset, bytes.data(), bytes.size()) == 0;
}

Status check_kernel(const std::string& path) {
  const auto head = read_head(path, O_RDONLY);
  if (!head) {
    return fail_because(head.error(), "kernel {}", path);
  }
  // ELF, or the boot sector's "HdrS" of a bzImage (Documentation/x86/boot.rst). The VMM looks closer.
  if (has_magic(*head, 0,
                "\x7f"
                "ELF"sv) ||
      has_magic(*head, 0x202, "HdrS"sv))
    return {};
  return fail("kernel {}: neither a vmlinux (ELF) nor a bzImage; {}", path, kQuickstart);
}

Status check_rootfs(const std::string& path, RootMode mode) {
  const auto head = read_head(path, mode == RootMode::kWritable ? O_RDWR : O_RDONLY);
  if (!head) return fail_because(head.error(), "root file system {}", path);
  if (image_kind(*head)) return {};
  return fail("root file system {}: no file system image; mayfly image build DIR -o FILE makes one", path);
}

}  // namespace

std::optional<std::string> hardware_virtualization(std::string_view cpuinfo) {
  const std::size_t flags = cpuinfo.find("\nflags");
  if (flags == std::string_view::npos) return std::nullopt;
  std::string_view line = cpuinfo.substr(flags + 1);
  line = line.substr(0, line.find('\n'));
  for (const std::string_view flag : {"vmx", "svm"}) {
    const std::size_t at = line.find(fmt::format(" {}", flag));
    if (at == std::string_view::npos) continue;
    const std::size_t end = at + 1 + flag.size();
    if (end == line.size() || line[end] == ' ') return std::string(flag);
  }
  return std::nullopt;
}

std::optional<std::string> image_kind(std::span<const std::byte> head) {
  for (const Magic& magic : kImageMagics) {
    if (has_magic(head, magic.offset, magic.bytes)) return magic.kind;
  }
  return std::nullopt;
}

Status check_host() {
  return check_host_at("/dev/kvm", "/proc/cpuinfo");
}

Status check_host_at(const std::string& kvm, const std::string& cpuinfo) {
  const UniqueFd device(::open(kvm.c_str(), O_RDWR | O_CLOEXEC));
  if (!device.valid() && (errno == ENOENT || errno == ENODEV || errno == ENXIO)) {
    return fail(
        "no {} on this machine: switch virtualization on in its firmware and modprobe kvm_intel or "
        "kvm_amd, or run the command in the lab: lab/run build/release/bin/mayfly run ...",
        kvm);
  }
  if (!device.valid() && (errno == EACCES || errno == EPERM)) {
    return fail("you may not open {}: join its group (sudo usermod -aG kvm $USER, then log in again)", kvm);
  }
  if (!device.valid()) return fail_errno(errno, "open {}", kvm);

  const std::string text = first_processor(cpuinfo);
  if (text.empty() || hardware_virtualization(text)) return {};  // nothing is known against it
  return fail(
      "{} has no hardware virtualization behind it (no vmx or svm in {}), and a Linux guest would hang: "
      "use another machine, or the lab: lab/run build/release/bin/mayfly run ...",
      kvm, cpuinfo);
}

Status check_files(const RunFiles& files, const RunOptions& options) {
  TRY(check_kernel(files.kernel));
  return check_rootfs(files.rootfs, options.root_mode);
}

}  // namespace mayfly::cli
