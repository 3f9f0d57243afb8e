#include "vmm/vm_exit.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace mayfly::vmm {

namespace {

VmExit decode_io(const kvm_run& run, std::span<std::byte> run_bytes) {
  const std::uint64_t size = std::uint64_t{run.io.size} * run.io.count;
  // KVM wrote these; the check is against mappings that are not KVM's.
  if (run.io.size == 0 || run.io.data_offset > run_bytes.size() ||
      size > run_bytes.size() - run.io.data_offset) {
    return UnknownExit{run.exit_reason};
  }
  const std::span<std::byte> data = run_bytes.subspan(run.io.data_offset, size);
  if (run.io.direction == KVM_EXIT_IO_OUT) return PioWrite{run.io.port, run.io.size, data};
  return PioRead{run.io.port, run.io.size, data};
}

VmExit decode_mmio(kvm_run& run) {
  const auto data = std::as_writable_bytes(std::span(run.mmio.data));
  const std::size_t length = std::min<std::size_t>(run.mmio.len, data.size());
  const base::GuestAddress address(run.mmio.phys_addr);
  if (run.mmio.is_write != 0) return MmioWrite{address, data.first(length)};
  return MmioRead{address, data.first(length)};
}

InternalError decode_internal_error(const kvm_run& run) {
  InternalError error{};
  error.suberror = run.internal.suberror;
  const bool with_instruction =
      run.internal.suberror == KVM_INTERNAL_ERROR_EMULATION && run.emulation_failure.ndata > 1 &&
      (run.emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0;
  if (with_instruction) {
    static_assert(sizeof(run.emulation_failure.insn_bytes) == sizeof(error.instruction));
    error.instruction_size =
        std::min<std::uint8_t>(run.emulation_failure.insn_size, sizeof(error.instruction));
    std::copy_n(run.emulation_failure.insn_bytes, error.instruction.size(), error.instruction.begin());
  }
  return error;
}

std::string describe(const InternalError& error) {
  std::string text = fmt::format("KVM internal error {}", error.suberror);
  if (error.suberror == KVM_INTERNAL_ERROR_EMULATION) text += " (an instruction that KVM cannot emulate)";
  if (error.instruction_size > 0) text += ", bytes";
  for (std::size_t i = 0; i < error.instruction_size; ++i) {
    text += fmt::format(" {:02x}", error.instruction[i]);
  }
  return text;
}

Exit kvm_error(std::string detail) {
  return Exit{ExitReason::kKvmError, std::move(detail)};
}

struct Handler {
  Buses buses;

  std::optional<Exit> operator()(const PioRead& exit) const {
    for (std::size_t at = 0; at < exit.data.size(); at += exit.width) {
      buses.port.read(exit.port, exit.data.subspan(at, exit.width));
    }
    return std::nullopt;
  }
  std::optional<Exit> operator()(const PioWrite& exit) const {
    for (std::size_t at = 0; at < exit.data.size(); at += exit.width) {
      buses.port.write(exit.port, exit.data.subspan(at, exit.width));
    }
    return std::nullopt;
  }
  std::optional<Exit> operator()(const MmioRead& exit) const {
    buses.mmio.read(exit.address.value(), exit.data);
    return std::nullopt;
  }
  std::optional<Exit> operator()(const MmioWrite& exit) const {
    buses.mmio.write(exit.address.value(), exit.data);
    return std::nullopt;
  }
  std::optional<Exit> operator()(const Halt&) const {
    // With the interrupt controller in the kernel, a halted vCPU waits there.
    return kvm_error("a vCPU halted with nothing that could wake it");
  }
  std::optional<Exit> operator()(const Shutdown&) const {
    return Exit{ExitReason::kTripleFault, "triple fault"};
  }
  std::optional<Exit> operator()(const SystemEvent& exit) const {
    switch (exit.type) {
      case KVM_SYSTEM_EVENT_SHUTDOWN:
        return Exit{ExitReason::kReset, "the guest shut down"};
      case KVM_SYSTEM_EVENT_RESET:
        return Exit{ExitReason::kReset, "the guest asked for a reset"};
      case KVM_SYSTEM_EVENT_CRASH:
        return Exit{ExitReason::kGuestPanic, "the guest reported a crash"};
      default:
        return kvm_error(fmt::format("unknown KVM system event {}", exit.type));
    }
  }
  std::optional<Exit> operator()(const InternalError& exit) const { return kvm_error(describe(exit)); }
  std::optional<Exit> operator()(const FailEntry& exit) const {
    return kvm_error(
        fmt::format("the processor refused to enter the guest, reason {:#x}", exit.hardware_reason));
  }
  std::optional<Exit> operator()(const Interrupted&) const { return std::nullopt; }
  std::optional<Exit> operator()(const RunError& exit) const {
    return kvm_error(base::fail_errno(exit.code, "KVM_RUN").error().message);
  }
  std::optional<Exit> operator()(const UnknownExit& exit) const {
    return kvm_error(fmt::format("KVM exit {} is not one that can be handled", exit.reason));
  }
};

}  // namespace

VmExit decode_exit(std::span<std::byte> run_bytes, int error) {
  if (error == EINTR || error == EAGAIN) return Interrupted{};
  if (error != 0) return RunError{error};
  kvm_run& run = *reinterpret_cast<kvm_run*>(run_bytes.data());
  switch (run.exit_reason) {
    case KVM_EXIT_IO:
      return decode_io(run, run_bytes);
    case KVM_EXIT_MMIO:
      return decode_mmio(run);
    case KVM_EXIT_HLT:
      return Halt{};
    case KVM_EXIT_SHUTDOWN:
      return Shutdown{};
    case KVM_EXIT_SYSTEM_EVENT:
      return SystemEvent{run.system_event.type};
    case KVM_EXIT_INTERNAL_ERROR:
      return decode_internal_error(run);
    case KVM_EXIT_FAIL_ENTRY:
      return FailEntry{run.fail_entry.hardware_entry_failure_reason};
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
      return Interrupted{};
    default:
      return UnknownExit{run.exit_reason};
  }
}

std::optional<Exit> handle_exit(const VmExit& exit, Buses buses) {
  return std::visit(Handler{buses}, exit);
}

}  // namespace mayfly::vmm
