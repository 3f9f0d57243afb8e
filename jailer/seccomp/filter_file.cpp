#include "jailer/seccomp/filter_file.h"

#include <linux/seccomp.h>

#include <algorithm>
#include <cstring>

#include "base/endian.h"

namespace mayfly::jailer::seccomp {

using base::fail;
using base::Le16;
using base::Le32;
using base::Result;
using base::Status;

namespace {

constexpr std::array<std::string_view, kThreads> kNames = {"vmm", "api", "vcpu"};
constexpr std::string_view kMagic = "MFSECCMP";
constexpr std::uint32_t kVersion = 1;

struct Head {
  std::array<char, 8> magic;
  Le32 version;
  Le32 programs;
};
static_assert(sizeof(Head) == 16 && base::Wire<Head>);

struct ProgramHead {
  Le32 thread;
  Le32 instructions;
};
static_assert(sizeof(ProgramHead) == 8 && base::Wire<ProgramHead>);

struct Instruction {
  Le16 code;
  std::uint8_t jump_true;
  std::uint8_t jump_false;
  Le32 k;
};
static_assert(sizeof(Instruction) == sizeof(sock_filter) && base::Wire<Instruction>);

template <base::Wire T>
void append(std::vector<std::byte>& out, const T& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  out.insert(out.end(), bytes.begin(), bytes.end());
}

template <base::Wire T>
Result<T> take(std::span<const std::byte>& bytes) {
  T value{};
  if (bytes.size() < sizeof(value)) return fail("it ends in the middle");
  std::memcpy(&value, bytes.data(), sizeof(value));
  bytes = bytes.subspan(sizeof(value));
  return value;
}

// As bpf_check_classic() and seccomp_check_filter() of the kernel do it, but for fewer instructions.
Status check(const sock_filter& instruction, std::size_t left) {
  switch (instruction.code) {
    case BPF_LD | BPF_W | BPF_ABS:
      if (instruction.k % 4 != 0 || instruction.k >= sizeof(seccomp_data))
        return fail("loads from {}", instruction.k);
      break;
    case BPF_JMP | BPF_JA:
      if (instruction.k >= left) return fail("jumps past the end");
      return {};
    case BPF_JMP | BPF_JEQ | BPF_K:
    case BPF_JMP | BPF_JGT | BPF_K:
    case BPF_JMP | BPF_JGE | BPF_K:
    case BPF_JMP | BPF_JSET | BPF_K:
      if (std::max(instruction.jt, instruction.jf) >= left) return fail("jumps past the end");
      return {};
    case BPF_ALU | BPF_AND | BPF_K:
      break;
    case BPF_RET | BPF_K:
      return {};
    default:
      return fail("is no instruction of a filter (code {:#x})", instruction.code);
  }
  if (left == 0) return fail("is the last, and no return");
  return {};
}

Result<Program> decode_program(std::span<const std::byte>& bytes, std::size_t thread) {
  const auto head = TRY(take<ProgramHead>(bytes));
  if (head.thread != thread) return fail("it is of the thread {}", std::uint32_t{head.thread});
  if (head.instructions < 1U || head.instructions > std::uint32_t{BPF_MAXINSNS}) {
    return fail("it has {} instructions, not 1-{}", std::uint32_t{head.instructions}, BPF_MAXINSNS);
  }
  Program program;
  program.reserve(head.instructions);
  for (std::uint32_t i = 0; i < head.instructions; ++i) {
    const auto raw = TRY(take<Instruction>(bytes));
    program.push_back({.code = raw.code, .jt = raw.jump_true, .jf = raw.jump_false, .k = raw.k});
    if (auto checked = check(program.back(), head.instructions - i - 1); !checked) {
      return fail("instruction {} {}", i, checked.error().message);
    }
  }
  return program;
}

}  // namespace

std::string_view name_of(Thread thread) {
  return kNames[static_cast<std::size_t>(thread)];
}

std::optional<Thread> thread_of(std::string_view name) {
  const auto found = std::ranges::find(kNames, name);
  if (found == kNames.end()) return std::nullopt;
  return static_cast<Thread>(found - kNames.begin());
}

std::vector<std::byte> encode(const Programs& programs) {
  std::vector<std::byte> out;
  Head head{.magic = {}, .version = kVersion, .programs = static_cast<std::uint32_t>(kThreads)};
  std::ranges::copy(kMagic, head.magic.begin());
  append(out, head);
  for (std::size_t i = 0; i < kThreads; ++i) {
    append(out, ProgramHead{.thread = static_cast<std::uint32_t>(i),
                            .instructions = static_cast<std::uint32_t>(programs[i].size())});
    for (const sock_filter& each : programs[i]) {
      append(out, Instruction{.code = each.code, .jump_true = each.jt, .jump_false = each.jf, .k = each.k});
    }
  }
  return out;
}

Result<Programs> decode(std::span<const std::byte> bytes) {
  const auto head = take<Head>(bytes);
  if (!head || !std::ranges::equal(head->magic, kMagic)) {
    return fail("these are no filters of mayfly-filter's");
  }
  if (head->version != kVersion)
    return fail("it has version {} of the format, not {}", std::uint32_t{head->version}, kVersion);
  if (head->programs != kThreads)
    return fail("it has {} programs, not {}", std::uint32_t{head->programs}, kThreads);
  Programs programs;
  for (std::size_t i = 0; i < kThreads; ++i) {
    auto program = decode_program(bytes, i);
    if (!program)
      return base::fail_because(std::move(program).error(), "the program of the thread {}", kNames[i]);
    programs[i] = std::move(*program);
  }
  if (!bytes.empty()) return fail("{} bytes follow the last program", bytes.size());
  return programs;
}

}  // namespace mayfly::jailer::seccomp
