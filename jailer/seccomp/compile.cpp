#include "jailer/seccomp/compile.h"

#include <seccomp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>

#include "base/unique_fd.h"

namespace mayfly::jailer::seccomp {

using base::fail;
using base::fail_errno;
using base::Result;
using base::Status;

namespace {

struct Release {
  void operator()(void* context) const { ::seccomp_release(context); }
};
using Context = std::unique_ptr<void, Release>;

std::uint32_t action_of(Otherwise otherwise) {
  switch (otherwise) {
    case Otherwise::kTrap:
      return SCMP_ACT_TRAP;
    case Otherwise::kKill:
      return SCMP_ACT_KILL_PROCESS;
    case Otherwise::kLog:
      return SCMP_ACT_LOG;
  }
  return SCMP_ACT_KILL_PROCESS;
}

Status add(const Context& context, const Rule& rule, std::uint8_t priority) {
  std::array<scmp_arg_cmp, 6> comparisons{};
  std::size_t count = 0;
  for (const Condition& condition : rule.conditions) {
    comparisons[count++] = {.arg = condition.argument,
                            .op = SCMP_CMP_MASKED_EQ,
                            .datum_a = condition.mask,
                            .datum_b = condition.value};
  }
  const int call = ::seccomp_syscall_resolve_name(rule.call.c_str());
  int result = ::seccomp_rule_add_exact_array(context.get(), SCMP_ACT_ALLOW, call,
                                              static_cast<unsigned>(count), comparisons.data());
  if (result == 0) result = ::seccomp_syscall_priority(context.get(), call, priority);
  if (result < 0) return fail_errno(-result, "libseccomp does not take this rule");
  return {};
}

Result<Program> exported(const Context& context) {
  // Not seccomp_export_bpf_mem(), which libseccomp has had since 2.6.
  const base::UniqueFd file(::memfd_create("filter", MFD_CLOEXEC));
  if (!file.valid()) return fail_errno(errno, "create a file in memory");
  if (const int result = ::seccomp_export_bpf(context.get(), file.get()); result < 0) {
    return fail_errno(-result, "export a filter");
  }
  const auto size = static_cast<std::size_t>(::lseek(file.get(), 0, SEEK_END));
  Program program(size / sizeof(sock_filter));
  if (::pread(file.get(), program.data(), size, 0) != static_cast<ssize_t>(size)) {
    return fail("a filter could not be read back");
  }
  return program;
}

}  // namespace

Result<Program> compile(const Policy& policy, Otherwise otherwise) {
  const Context context(::seccomp_init(action_of(otherwise)));
  if (!context) return fail("libseccomp cannot be used here");
  // A call by another table of numbers would pass by all rules.
  ::seccomp_attr_set(context.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
  std::uint8_t priority = UINT8_MAX;
  for (const Rule& rule : policy.rules) {
    if (auto added = add(context, rule, priority); !added) {
      return base::fail("{}:{}: {}", policy.file, rule.line, added.error().message);
    }
    priority = static_cast<std::uint8_t>(std::max(1, priority - 1));
  }
  return exported(context);
}

Result<Programs> compile_all(std::span<const Policy> policies, Otherwise otherwise) {
  Programs programs;
  for (const Policy& policy : policies) {
    Program& place = programs[static_cast<std::size_t>(*thread_of(policy.thread))];
    if (!place.empty())
      return fail("{}: another policy is for the thread {}, too", policy.file, policy.thread);
    place = TRY(compile(policy, otherwise));
  }
  for (std::size_t i = 0; i < kThreads; ++i) {
    if (programs[i].empty())
      return fail("there is no policy for the thread {}", name_of(static_cast<Thread>(i)));
  }
  return programs;
}

}  // namespace mayfly::jailer::seccomp
