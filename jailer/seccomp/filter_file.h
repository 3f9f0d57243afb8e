// Compiled filters, as mayfly-filter writes them and mayfly-vmm --seccomp-filter reads them.
//
// All numbers are little-endian. The file: 8 bytes "MFSECCMP", u32 version (1), u32 number of programs (3);
// then for each thread, in the order vmm, api, vcpu: u32 0, 1 or 2, u32 number of instructions (1-4096), and
// the instructions as struct sock_filter has them: u16 code, u8 jt, u8 jf, u32 k. Nothing follows. A program
// is of the instructions that libseccomp writes: load a word of seccomp_data, mask it, compare it, jump,
// return. A comparison with kOwnProcess is one with the id of the process that installs the program.
#pragma once

#include <linux/filter.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace mayfly::jailer::seccomp {

// The kinds of threads that mayfly-vmm has.
enum class Thread : std::uint8_t { kVmm, kApi, kVcpu };
inline constexpr std::size_t kThreads = 3;
std::string_view name_of(Thread thread);  // "vmm", "api", "vcpu"
std::optional<Thread> thread_of(std::string_view name);

// Above any process id (PID_MAX_LIMIT is 2^22), and no flag, command or descriptor that a policy compares
// with.
inline constexpr std::uint32_t kOwnProcess = 0x7f5e1f01;

using Program = std::vector<sock_filter>;
using Programs = std::array<Program, kThreads>;  // by Thread

std::vector<std::byte> encode(const Programs& programs);
// Checked: what it returns the kernel takes. The error says what is wrong with the bytes.
base::Result<Programs> decode(std::span<const std::byte> bytes);
// The larger ones are no filters.
inline constexpr std::size_t kLargestFilterFile = 16 + kThreads * (8 + sizeof(sock_filter) * BPF_MAXINSNS);

}  // namespace mayfly::jailer::seccomp
