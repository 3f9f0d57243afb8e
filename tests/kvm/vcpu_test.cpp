// vCPUs and their threads, with nothing else around them.
#include "vmm/vcpu.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <semaphore>
#include <string>
#include <thread>

#include "tests/support/require_kvm.h"
#include "tests/support/tiny_vm.h"
#include "vmm/vcpu_state.h"

using namespace mayfly;
using namespace mayfly::test;
using namespace mayfly::vmm;

namespace {

constexpr std::uint64_t kCounter = 0x2000;
constexpr std::uint16_t kPort = 0x500;

// 32-bit operations in real mode.
const std::vector<std::uint8_t> kCount = {
    0x66, 0xff, 0x06, 0x00, 0x20,  // inc dword [0x2000]
    0xeb, 0xf9,                    // jmp to the start
};
const std::vector<std::uint8_t> kReadPort = {
    0xba, 0x00, 0x05,        // mov dx, 0x500
    0x66, 0xed,              // in eax, dx
    0x66, 0xa3, 0x00, 0x20,  // mov [0x2000], eax
    0xeb, 0xf8,              // jmp to the in
};
const std::vector<std::uint8_t> kHalt = {0xf4, 0xeb, 0xfd};  // hlt; jmp to it

// Answers 1, 2, 3, …
class Sequence final : public BusDevice {
 public:
  void read(std::uint64_t /*offset*/, std::span<std::byte> out) override {
    const base::Le32 value = ++count;
    std::memcpy(out.data(), &value, std::min(out.size(), sizeof(value)));
  }
  void write(std::uint64_t /*offset*/, std::span<const std::byte> /*in*/) override {}
  std::atomic<std::uint32_t> count = 0;
};

struct Fixture {
  // Tests that find no KVM leave before they touch it.
  std::optional<TinyVm> vm;
  std::counting_semaphore<64> ended{0};
  std::vector<Exit> exits;
  std::mutex mutex;

  bool ready() {
    if (!have_kvm()) return false;
    vm.emplace();
    return true;
  }
  std::unique_ptr<Vcpu> vcpu(VcpuFd fd, std::uint32_t index = 0) {
    auto made = Vcpu::create(index, std::move(fd), {vm->port, vm->mmio}, [this](Exit exit) {
      const std::lock_guard lock(mutex);
      exits.push_back(std::move(exit));
      ended.release();
    });
    REQUIRE(made.has_value());
    return std::move(*made);
  }
  Exit wait_end() {
    REQUIRE(ended.try_acquire_for(std::chrono::seconds(120)));
    const std::lock_guard lock(mutex);
    return exits.back();
  }
  void wait_count(std::uint32_t more_than) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(120);
    while (vm->read32(kCounter) <= more_than) {
      REQUIRE(std::chrono::steady_clock::now() < deadline);
      std::this_thread::yield();
    }
  }
};

void pause(Vcpu& vcpu) {
  vcpu.request_pause();
  vcpu.wait_parked();
}

}  // namespace

TEST_CASE_METHOD(Fixture, "a paused vCPU stands still, again and again, and goes on") {
  if (!ready()) return;
  vm->place(TinyVm::kRealModeCode, kCount);
  const auto cpu = vcpu(vm->vcpu_fd(0));
  std::uint32_t last = 0;
  for (int i = 0; i < 200; ++i) {
    cpu->resume();
    // Every other time it must move; in between, pausing comes as early as it can.
    if (i % 2 == 0) wait_count(last);
    pause(*cpu);
    last = vm->read32(kCounter);
    const auto rip = cpu->fd().get_regs()->rip;
    std::this_thread::yield();
    CHECK(vm->read32(kCounter) == last);
    CHECK(cpu->fd().get_regs()->rip == rip);
  }
}

TEST_CASE_METHOD(Fixture, "a vCPU that was paused in the middle of a port read has its value") {
  if (!ready()) return;
  Sequence sequence;
  REQUIRE(vm->port.add(kPort, 4, "sequence", sequence).has_value());
  vm->place(TinyVm::kRealModeCode, kReadPort);
  const auto cpu = vcpu(vm->vcpu_fd(0));
  for (int i = 0; i < 300; ++i) {
    cpu->resume();
    const std::uint32_t before = sequence.count;
    while (sequence.count == before) std::this_thread::yield();
    pause(*cpu);
    // Nothing else writes EAX, so it holds the last value that was handed out, or one read is missing.
    CHECK(static_cast<std::uint32_t>(cpu->fd().get_regs()->rax) == sequence.count);
  }
}

TEST_CASE_METHOD(Fixture, "a halted vCPU can be paused, resumed and stopped") {
  if (!ready()) return;
  vm->place(TinyVm::kRealModeCode, kHalt);
  for (int i = 0; i < 20; ++i) {
    const auto cpu = vcpu(vm->vcpu_fd(static_cast<std::uint32_t>(i)), static_cast<std::uint32_t>(i));
    cpu->resume();
    pause(*cpu);
    cpu->resume();
  }
}

TEST_CASE_METHOD(Fixture, "a vCPU that waits to be started can be paused and stopped") {
  if (!ready()) return;
  auto first = vm->vcpu_fd(0);
  auto fd = vm->vm->create_vcpu(1, *vm->kvm.vcpu_mmap_size());
  REQUIRE(fd.has_value());
  const auto cpu = vcpu(std::move(*fd), 1);
  cpu->resume();
  pause(*cpu);
  CHECK(cpu->fd().get_mp_state()->mp_state == KVM_MP_STATE_UNINITIALIZED);
  cpu->resume();
}

TEST_CASE_METHOD(Fixture, "pausing and resuming without a moment in between") {
  if (!ready()) return;
  vm->place(TinyVm::kRealModeCode, kCount);
  const auto cpu = vcpu(vm->vcpu_fd(0));
  for (int i = 0; i < 1000; ++i) {
    cpu->resume();
    cpu->request_pause();
    if (i % 3 == 0) cpu->wait_parked();
  }
  cpu->wait_parked();
  cpu->resume();
  wait_count(vm->read32(kCounter));
}

TEST_CASE_METHOD(Fixture, "several vCPUs run at once, each with its own registers") {
  if (!ready()) return;
  // inc dword [bx]; jmp
  vm->place(TinyVm::kRealModeCode, {0x66, 0xff, 0x07, 0xeb, 0xfb});
  std::vector<std::unique_ptr<Vcpu>> cpus;
  constexpr std::uint32_t kCount4 = 4;
  for (std::uint32_t i = 0; i < kCount4; ++i) {
    VcpuFd fd = vm->vcpu_fd(i);
    auto regs = *fd.get_regs();
    regs.rbx = kCounter + i * 0x100;
    REQUIRE(fd.set_regs(regs).has_value());
    cpus.push_back(vcpu(std::move(fd), i));
  }
  for (const auto& cpu : cpus) cpu->resume();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(120);
  for (std::uint32_t i = 0; i < kCount4; ++i) {
    while (vm->read32(kCounter + i * 0x100) == 0) {
      REQUIRE(std::chrono::steady_clock::now() < deadline);
      std::this_thread::yield();
    }
  }
}

TEST_CASE_METHOD(Fixture, "a string of port writes arrives whole and in order") {
  if (!ready()) return;
  class Collector final : public BusDevice {
   public:
    void read(std::uint64_t /*offset*/, std::span<std::byte> out) override {
      for (std::byte& byte : out) byte = std::byte{0};
    }
    void write(std::uint64_t /*offset*/, std::span<const std::byte> in) override {
      text.append(reinterpret_cast<const char*>(in.data()), in.size());
    }
    std::string text;
  } collector;
  REQUIRE(vm->port.add(kPort, 4, "collector", collector).has_value());
  vm->place(0x3000, {'s', 't', 'r', 'i', 'n', 'g'});
  vm->place(TinyVm::kRealModeCode, {
                                       0xba, 0x00, 0x05,              // mov dx, 0x500
                                       0xbe, 0x00, 0x30,              // mov si, 0x3000
                                       0xb9, 0x06, 0x00,              // mov cx, 6
                                       0xf3, 0x6e,                    // rep outsb
                                       0x66, 0xff, 0x06, 0x00, 0x20,  // inc dword [0x2000]
                                       0xf4, 0xeb, 0xfd,              // hlt; jmp to it
                                   });
  const auto cpu = vcpu(vm->vcpu_fd(0));
  cpu->resume();
  wait_count(0);
  pause(*cpu);
  CHECK(collector.text == "string");
}

TEST_CASE_METHOD(Fixture, "an instruction fetch outside memory is an error with its place, told once") {
  if (!ready()) return;
  const auto cpu = vcpu(vm->vcpu_fd(0, 0xfff0));
  // jmp far 0xf000:0x0000 is outside of 64 KiB: there is no memory at 0xf0000.
  vm->place(0xfff0, {0xea, 0x00, 0x00, 0x00, 0xf0});
  cpu->resume();
  const Exit exit = wait_end();
  INFO(exit.detail);
  CHECK(exit.reason == ExitReason::kKvmError);
  CHECK(exit.detail.find("rip 0x") != std::string::npos);
  cpu->wait_parked();
  cpu->resume();
  pause(*cpu);
  const std::lock_guard lock(mutex);
  CHECK(exits.size() == 1);
}

TEST_CASE_METHOD(Fixture, "vCPU threads have names and take no signal but their own") {
  if (!ready()) return;
  vm->place(TinyVm::kRealModeCode, kHalt);
  const auto cpu = vcpu(vm->vcpu_fd(0), 7);
  pause(*cpu);
  bool found = false;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(120);
  while (!found) {
    REQUIRE(std::chrono::steady_clock::now() < deadline);
    for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
      std::ifstream comm(task.path() / "comm");
      std::string name;
      std::getline(comm, name);
      if (name != "vcpu7") continue;
      std::ifstream status(task.path() / "status");
      for (std::string line; std::getline(status, line);) {
        if (!line.starts_with("SigBlk:")) continue;
        const auto blocked = std::stoull(line.substr(8), nullptr, 16);
        const auto bit = [](int signal) { return 1ULL << static_cast<unsigned>(signal - 1); };
        found = (blocked & bit(SIGTERM)) != 0 && (blocked & bit(SIGINT)) != 0 &&
                (blocked & bit(SIGCHLD)) != 0 && (blocked & bit(SIGRTMIN)) == 0;
      }
    }
  }
}

TEST_CASE_METHOD(Fixture, "a saved vCPU goes on in another VM") {
  if (!ready()) return;
  // inc eax; mov [0x2000], eax; jmp
  const std::vector<std::uint8_t> code = {0x66, 0x40, 0x66, 0xa3, 0x00, 0x20, 0xeb, 0xf8};
  vm->place(TinyVm::kRealModeCode, code);
  const auto cpuid = vm->kvm.supported_cpuid();
  const auto indices = vm->kvm.msr_indices();
  REQUIRE(cpuid.has_value());
  REQUIRE(indices.has_value());
  CHECK(indices->size() > 10);
  VcpuFd fd = vm->vcpu_fd(0);
  REQUIRE(fd.set_cpuid(*cpuid).has_value());
  const auto first = vcpu(std::move(fd));
  first->resume();
  wait_count(1000);
  pause(*first);
  const auto state = save_vcpu(first->fd(), *cpuid, *indices, vm->vm->xsave_size());
  INFO((state ? std::string() : state.error().message));
  REQUIRE(state.has_value());
  CHECK(state->msrs.size() > 10);

  TinyVm other;
  other.place(TinyVm::kRealModeCode, code);
  auto twin = other.vm->create_vcpu(0, *other.kvm.vcpu_mmap_size());
  REQUIRE(twin.has_value());
  const auto restored = restore_vcpu(*twin, *state);
  INFO((restored ? std::string() : restored.error().message));
  REQUIRE(restored.has_value());
  const auto second = vcpu(std::move(*twin));
  second->resume();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(120);
  while (other.read32(kCounter) == 0) {
    REQUIRE(std::chrono::steady_clock::now() < deadline);
    std::this_thread::yield();
  }
  pause(*second);
  CHECK(other.read32(kCounter) > static_cast<std::uint32_t>(state->regs.rax));
}

TEST_CASE("what is wrong with /dev/kvm is said with the remedy") {
  const auto missing = Kvm::open("/dev/no-such-kvm");
  REQUIRE_FALSE(missing.has_value());
  CHECK(missing.error().message.find("modprobe") != std::string::npos);
  const auto other = Kvm::open("/dev/null");
  CHECK_FALSE(other.has_value());
}
