// The names that policies are written with, and what the kernel calls them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace mayfly::jailer::seccomp {

// Of this architecture.
bool is_system_call(const std::string& name);

struct Argument {
  unsigned number;    // from 0
  bool wide = false;  // the kernel looks at 64 bits of it
};
// The argument of that name in the system call's manual page; only those that a policy has had a use for.
std::optional<Argument> argument_of(std::string_view call, std::string_view name);

// A constant of the system's headers.
std::optional<std::uint64_t> constant(std::string_view name);

}  // namespace mayfly::jailer::seccomp
