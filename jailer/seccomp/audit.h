// Policies held against a record of the calls that threads made.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "jailer/seccomp/policy.h"

namespace mayfly::jailer::seccomp {

// The record is the kernel's, of the event raw_syscalls:sys_enter, with arguments in hexadecimal:
//   vcpu0-4711    [001] .....  1234.567890: sys_enter: NR 16 (d, ae80, 0, 0, 0, 0)
// A thread is known by its name (vmm, api, vcpuN), and its calls count once it has installed a filter: those
// of its set-up are nobody's affair. Lines that say anything else are passed over.
class Audit {
 public:
  explicit Audit(std::span<const Policy> policies);
  void add(std::string_view line);

  // For each thread, what was used how often, what was not, and what nothing allows.
  [[nodiscard]] std::string report() const;
  // Every rule that is not marked rare was used, nothing was forbidden, and nothing of the record was lost.
  [[nodiscard]] bool clean() const;

 private:
  struct OfThread {
    Policy policy;
    std::vector<std::uint64_t> used;               // by rule
    std::map<std::string, std::uint64_t> refused;  // the call with its arguments, and how often
  };
  void count(OfThread& thread, long call, std::span<const std::uint64_t> arguments);

  std::map<std::string, OfThread, std::less<>> threads_;  // by name
  std::set<std::string, std::less<>> confined_;           // "vcpu0-4711"
  std::uint64_t lost_ = 0;
};

}  // namespace mayfly::jailer::seccomp
