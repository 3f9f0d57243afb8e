#include "vmm/vm_exit.h"

#include <array>
#include <catch2/catch.hpp>
#include <cerrno>
#include <cstring>
#include <vector>

using namespace mayfly::vmm;
using mayfly::base::GuestAddress;

namespace {

class Counter final : public BusDevice {
 public:
  void read(std::uint64_t /*offset*/, std::span<std::byte> out) override {
    out[0] = static_cast<std::byte>(++reads);
  }
  void write(std::uint64_t /*offset*/, std::span<const std::byte> in) override { written.push_back(in[0]); }
  int reads = 0;
  std::vector<std::byte> written;
};

struct Exits {
  Bus port{"port"};
  Bus mmio{"mmio"};
  Counter device;
  Exits() {
    REQUIRE(port.add(0x10, 4, "device", device));
    REQUIRE(mmio.add(0xc0000000, 0x1000, "device", device));
  }
  std::optional<Exit> handle(const VmExit& exit) { return handle_exit(exit, {port, mmio}); }
};

// A run page of KVM's, made by hand.
struct RunPage {
  alignas(kvm_run) std::array<std::byte, 8192> bytes{};
  kvm_run& run() { return *reinterpret_cast<kvm_run*>(bytes.data()); }
  VmExit decode(int error = 0) { return decode_exit(bytes, error); }
};

}  // namespace

TEST_CASE_METHOD(Exits, "port and MMIO accesses go to the buses") {
  std::array<std::byte, 4> data{};
  CHECK_FALSE(handle(PioRead{0x10, 4, data}));
  CHECK(data[0] == std::byte{1});
  CHECK_FALSE(handle(MmioRead{GuestAddress(0xc0000010), data}));
  CHECK(data[0] == std::byte{2});
  data[0] = std::byte{9};
  CHECK_FALSE(handle(PioWrite{0x10, 4, data}));
  CHECK_FALSE(handle(MmioWrite{GuestAddress(0xc0000010), data}));
  CHECK(device.written.size() == 2);
}

TEST_CASE_METHOD(Exits, "a string instruction is that many accesses to one port") {
  std::array<std::byte, 6> data{};
  CHECK_FALSE(handle(PioRead{0x10, 2, data}));
  CHECK(device.reads == 3);
  CHECK(data[4] == std::byte{3});
  CHECK_FALSE(handle(PioWrite{0x10, 1, data}));
  CHECK(device.written.size() == 6);
}

TEST_CASE_METHOD(Exits, "how a machine ends") {
  CHECK(handle(Shutdown{})->reason == ExitReason::kTripleFault);
  CHECK(handle(SystemEvent{KVM_SYSTEM_EVENT_SHUTDOWN})->reason == ExitReason::kReset);
  CHECK(handle(SystemEvent{KVM_SYSTEM_EVENT_RESET})->reason == ExitReason::kReset);
  CHECK(handle(SystemEvent{KVM_SYSTEM_EVENT_CRASH})->reason == ExitReason::kGuestPanic);
  CHECK(handle(SystemEvent{99})->reason == ExitReason::kKvmError);
  CHECK(handle(Halt{})->reason == ExitReason::kKvmError);
  CHECK(handle(FailEntry{0x80000021})->reason == ExitReason::kKvmError);
  CHECK(handle(FailEntry{0x80000021})->detail.find("0x80000021") != std::string::npos);
  CHECK(handle(RunError{EFAULT})->reason == ExitReason::kKvmError);
  CHECK(handle(RunError{EFAULT})->detail.find("Bad address") != std::string::npos);
  CHECK(handle(UnknownExit{77})->detail.find("77") != std::string::npos);
  CHECK(handle(InternalError{1, {0x0f, 0x0b}, 2})->detail.find("0f 0b") != std::string::npos);
  CHECK_FALSE(handle(Interrupted{}));
}

TEST_CASE("an exit is decoded from the run page") {
  RunPage page;
  SECTION("port write") {
    page.run().exit_reason = KVM_EXIT_IO;
    page.run().io.direction = KVM_EXIT_IO_OUT;
    page.run().io.size = 2;
    page.run().io.count = 3;
    page.run().io.port = 0x3f8;
    page.run().io.data_offset = 4096;
    const auto exit = std::get<PioWrite>(page.decode());
    CHECK(exit.port == 0x3f8);
    CHECK(exit.width == 2);
    CHECK(exit.data.size() == 6);
    CHECK(exit.data.data() == page.bytes.data() + 4096);
  }
  SECTION("port data outside the page is no access") {
    page.run().exit_reason = KVM_EXIT_IO;
    page.run().io.size = 4;
    page.run().io.count = 4096;
    page.run().io.data_offset = 4096;
    CHECK(std::holds_alternative<UnknownExit>(page.decode()));
  }
  SECTION("mmio, at most its eight bytes") {
    page.run().exit_reason = KVM_EXIT_MMIO;
    page.run().mmio.phys_addr = 0xc0001050;
    page.run().mmio.len = 200;
    CHECK(std::get<MmioRead>(page.decode()).data.size() == 8);
    page.run().mmio.is_write = 1;
    page.run().mmio.len = 4;
    CHECK(std::get<MmioWrite>(page.decode()).data.size() == 4);
    CHECK(std::get<MmioWrite>(page.decode()).address == GuestAddress(0xc0001050));
  }
  SECTION("errors of KVM_RUN come first") {
    page.run().exit_reason = KVM_EXIT_SHUTDOWN;
    CHECK(std::holds_alternative<Interrupted>(page.decode(EINTR)));
    CHECK(std::holds_alternative<Interrupted>(page.decode(EAGAIN)));
    CHECK(std::get<RunError>(page.decode(EFAULT)).code == EFAULT);
    CHECK(std::holds_alternative<Shutdown>(page.decode()));
  }
  SECTION("an instruction that was not emulated") {
    page.run().exit_reason = KVM_EXIT_INTERNAL_ERROR;
    page.run().internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
    CHECK(std::get<InternalError>(page.decode()).instruction_size == 0);
    page.run().emulation_failure.ndata = 3;
    page.run().emulation_failure.flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
    page.run().emulation_failure.insn_size = 255;
    CHECK(std::get<InternalError>(page.decode()).instruction_size == 15);
  }
  SECTION("anything else is kept by number") {
    page.run().exit_reason = KVM_EXIT_HYPERV;
    CHECK(std::get<UnknownExit>(page.decode()).reason == KVM_EXIT_HYPERV);
  }
}
