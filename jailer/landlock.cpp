#include "jailer/landlock.h"

#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "base/file.h"

namespace mayfly::jailer {

using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;

namespace {

// What the headers of Debian 12 do not have yet; the kernel's Documentation/userspace-api/landlock.rst names
// the version that each came with.
constexpr std::uint64_t kTruncate = 1ULL << 14U;       // 3
constexpr std::uint64_t kBindTcp = 1ULL << 0U;         // 4
constexpr std::uint64_t kConnectTcp = 1ULL << 1U;      // 4
constexpr std::uint64_t kIoctlDevice = 1ULL << 15U;    // 5
constexpr std::uint64_t kAbstractSocket = 1ULL << 0U;  // 6
constexpr std::uint64_t kSignal = 1ULL << 1U;          // 6

// struct landlock_ruleset_attr as version 6 has it.
struct RulesetAttributes {
  std::uint64_t handled_access_fs = 0;
  std::uint64_t handled_access_net = 0;
  std::uint64_t scoped = 0;
};

// All rights of version 1, from execute to make_sym.
constexpr std::uint64_t kFirstRights = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1U) - 1U;

// What a VMM does to files: it reads kernels, writes disks, logs and snapshots, makes sockets, removes what
// it made.
constexpr std::uint64_t kVmmRights = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE |
                                     LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |
                                     LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_REMOVE_FILE |
                                     kTruncate | kIoctlDevice;

RulesetAttributes handled_by(int abi) {
  RulesetAttributes handled{.handled_access_fs = kFirstRights};
  if (abi >= 2) handled.handled_access_fs |= LANDLOCK_ACCESS_FS_REFER;
  if (abi >= 3) handled.handled_access_fs |= kTruncate;
  if (abi >= 4) handled.handled_access_net = kBindTcp | kConnectTcp;
  if (abi >= 5) handled.handled_access_fs |= kIoctlDevice;
  if (abi >= 6) handled.scoped = kAbstractSocket | kSignal;
  return handled;
}

// An older kernel knows a shorter structure.
std::size_t size_for(int abi) {
  if (abi >= 6) return sizeof(RulesetAttributes);
  return abi >= 4 ? 2 * sizeof(std::uint64_t) : sizeof(std::uint64_t);
}

Status allow(int ruleset, int beneath, std::uint64_t rights) {
  landlock_path_beneath_attr rule{};
  rule.allowed_access = rights;
  rule.parent_fd = beneath;
  if (::syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0) {
    return fail_errno(errno, "add a Landlock rule");
  }
  return {};
}

}  // namespace

int landlock_abi() {
  const long abi = ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  return abi > 0 ? static_cast<int>(abi) : 0;
}

Status restrict_by_landlock(int abi, const LandlockRules& rules) {
  const RulesetAttributes handled = handled_by(abi);
  const UniqueFd ruleset(
      static_cast<int>(::syscall(SYS_landlock_create_ruleset, &handled, size_for(abi), 0)));
  if (!ruleset.valid()) return fail_errno(errno, "create a Landlock ruleset");
  const UniqueFd root = TRY(base::open_file("/", O_PATH | O_DIRECTORY));
  TRY(allow(ruleset.get(), root.get(), kVmmRights & handled.handled_access_fs));
  if (rules.executable >= 0) TRY(allow(ruleset.get(), rules.executable, LANDLOCK_ACCESS_FS_EXECUTE));
  for (const int folder : rules.removal) {
    TRY(allow(ruleset.get(), folder, LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR));
  }
  if (::syscall(SYS_landlock_restrict_self, ruleset.get(), 0) < 0) {
    return fail_errno(errno, "restrict this process by Landlock");
  }
  return {};
}

}  // namespace mayfly::jailer
