// A system call policy: what one kind of thread may ask of the kernel, as a text that people read.
//
//   # a comment
//   thread vcpu
//   at-most 15
//   ioctl  request == KVM_RUN                       : enters the guest
//   mmap   prot & PROT_EXEC == 0 and fd == -1       : memory for the heap
//   munmap                                          : gives it back
//
// A line is a system call, the conditions on its arguments that must all hold, and the reason after a colon
// with blanks around it. Several lines of one call: any of them allows it. Everything else is forbidden. A
// reason that starts with "rare:" says that a test run need not show the line in use.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace mayfly::jailer::seccomp {

// `argument & mask == value`.
struct Condition {
  unsigned argument = 0;            // its number, from 0
  std::uint64_t mask = UINT32_MAX;  // the kernel looks at 32 bits of nearly every argument, and so do we
  std::uint64_t value = 0;
  bool own_process = false;  // `value` is kOwnProcess, which stands for the process's id

  friend auto operator<=>(const Condition&, const Condition&) = default;
};

struct Rule {
  int line = 0;
  std::string call;
  std::vector<Condition> conditions = {};
  std::string reason = {};
  std::string text;  // as it was written, but for the reason
  bool rare = false;

  [[nodiscard]] bool allows(std::span<const std::uint64_t> arguments) const;
};

struct Policy {
  std::string file;  // for messages
  std::string thread = {};
  std::size_t at_most = 0;  // different calls
  std::vector<Rule> rules = {};

  [[nodiscard]] std::size_t calls() const;
};

// The file's name and the line's number are in front of each error: a word that is not known, a call without
// a reason, a rule that says what another says or has said already, more calls than the policy itself
// permits.
base::Result<Policy> parse_policy(std::string_view text, const std::string& file);

}  // namespace mayfly::jailer::seccomp
