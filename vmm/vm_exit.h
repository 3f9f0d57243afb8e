// Why a vCPU came back from the guest, and what is done about it.
#pragma once

#include <linux/kvm.h>

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <variant>

#include "base/guest_memory.h"
#include "vmm/bus.h"
#include "vmm/machine.h"

namespace mayfly::vmm {

// `data` is one access or, for a string instruction, several in a row to the same port, `width` bytes each;
// its size is a multiple of `width`. Spans are into the run page and hold until the next KVM_RUN.
struct PioRead {
  std::uint16_t port;
  std::uint8_t width;
  std::span<std::byte> data;
};
struct PioWrite {
  std::uint16_t port;
  std::uint8_t width;
  std::span<const std::byte> data;
};
struct MmioRead {
  base::GuestAddress address;
  std::span<std::byte> data;  // 1–8 bytes
};
struct MmioWrite {
  base::GuestAddress address;
  std::span<const std::byte> data;
};
struct Halt {};
struct Shutdown {};  // a triple fault
struct SystemEvent {
  std::uint32_t type;  // KVM_SYSTEM_EVENT_*
};
struct InternalError {
  std::uint32_t suberror;  // KVM_INTERNAL_ERROR_*
  std::array<std::uint8_t, 15> instruction;
  std::uint8_t instruction_size;  // 0: not known
};
struct FailEntry {
  std::uint64_t hardware_reason;
};
struct Interrupted {};  // a signal, immediate_exit, or a vCPU that waits to be started
struct RunError {
  int code;  // errno of KVM_RUN
};
struct UnknownExit {
  std::uint32_t reason;
};

using VmExit = std::variant<PioRead, PioWrite, MmioRead, MmioWrite, Halt, Shutdown, SystemEvent,
                            InternalError, FailEntry, Interrupted, RunError, UnknownExit>;

// `run_bytes`: the mapping shared with KVM, which starts with a kvm_run; `error`: what KVM_RUN returned.
VmExit decode_exit(std::span<std::byte> run_bytes, int error);

struct Buses {
  Bus& port;
  Bus& mmio;
};

// Does what the exit asks for. Nothing: go on. Otherwise the machine has ended. Any vCPU thread.
std::optional<Exit> handle_exit(const VmExit& exit, Buses buses);

}  // namespace mayfly::vmm
