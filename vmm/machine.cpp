#include "vmm/machine.h"

#include <fcntl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <map>
#include <optional>
#include <vector>

#include "base/file.h"
#include "base/log.h"
#include "base/timeline.h"
#include "mmds/service.h"
#include "vmm/boot_plan.h"
#include "vmm/bus.h"
#include "vmm/kvm.h"
#include "vmm/legacy_devices.h"
#include "vmm/loop_calls.h"
#include "vmm/vcpu.h"
#include "vmm/vcpu_setup.h"
#include "vmm/virtio_slot.h"
#include "vmm/x86_64/boot.h"
#include "vmm/x86_64/kernel_loader.h"
#include "vmm/x86_64/layout.h"

namespace mayfly::vmm {

using base::fail;
using base::Result;
using base::Status;

namespace {

// How long the end of a machine waits for a slow reader of its last output.
constexpr std::chrono::milliseconds kLastWords{1000};

std::string_view name_of(State state) {
  switch (state) {
    case State::kNotStarted:
      return "not started yet";
    case State::kRunning:
      return "running";
    case State::kPaused:
      return "paused";
    case State::kEnded:
      return "at its end";
  }
  return "";
}

base::Pages pages_of(const MachineConfig& machine) {
  switch (machine.huge_pages) {
    case HugePages::kNone:
      break;
    case HugePages::k2M:
      return base::Pages::kHuge;
    case HugePages::kTransparent:
      return base::Pages::kTransparentHuge;
  }
  return base::Pages::kNormal;
}

struct BootImages {
  x86_64::LoadedKernel kernel;
  std::optional<x86_64::Initrd> initrd;
};

Result<BootImages> load_images(const std::shared_ptr<base::GuestMemory>& owner, const BootSource& boot) {
  base::GuestMemory& memory = *owner;
  const base::UniqueFd file = TRY(base::open_file(boot.kernel_image_path, O_RDONLY));
  BootImages images{.kernel = TRY(x86_64::load_kernel(memory, file.get(), boot.kernel_image_path)),
                    .initrd = {}};
  if (images.kernel.is_linux && !hardware_virtualization()) {
    return fail(
        "this machine has no hardware virtualization (VT-x or AMD-V; check the firmware's set-up, or nested "
        "virtualization in a cloud), so Linux would hang: run the same command in the emulated host with "
        "\"lab/run COMMAND\"");
  }
  if (boot.initrd_path) {
    const base::UniqueFd initrd = TRY(base::open_file(*boot.initrd_path, O_RDONLY));
    images.initrd = TRY(x86_64::load_initrd(memory, initrd.get(), *boot.initrd_path, images.kernel));
  }
  return images;
}

// Built in the order of the members, torn down in reverse: the vCPU threads go first, guest memory last.
class KvmMachine final : public Machine {
 public:
  KvmMachine(Vm vm, std::shared_ptr<base::GuestMemory> memory, base::EventLoop& loop,
             std::function<void(const Exit&)> on_exit)
      : loop_(loop),
        calls_(loop),
        on_exit_(std::move(on_exit)),
        memory_owner_(std::move(memory)),
        vm_(std::move(vm)) {}
  ~KvmMachine() override;
  KvmMachine(const KvmMachine&) = delete;
  KvmMachine& operator=(const KvmMachine&) = delete;

  Status start() override;
  Status pause() override;
  Status resume() override;
  Status send_ctrl_alt_del() override;
  [[nodiscard]] State state() const override { return state_; }
  Status update_drive(const std::string& id, const std::optional<std::string>& path,
                      const std::optional<virtio::RateLimiterConfig>& limiter) override;
  Status update_network_interface(const std::string& id, const virtio::RateLimiterConfig& rx,
                                  const virtio::RateLimiterConfig& tx) override;
  [[nodiscard]] std::vector<base::MetricGroup> metric_groups() override;

  // The steps of create(), in their order.
  Status set_up_vm();
  Status create_vcpu_fds(const Kvm& kvm, std::uint32_t count);
  Status add_devices(const VmConfig& config);
  Status write_tables(const VmConfig& config, const BootImages& images);
  Status create_vcpus(const Kvm& kvm, const x86_64::LoadedKernel& kernel, const VmConfig& config);

 private:
  Buses buses() { return Buses{port_bus_, mmio_bus_}; }
  Status add_virtio(std::unique_ptr<virtio::VirtioDevice> device);
  void hold_devices();
  Status release_devices();
  void stop_vcpus();
  void wait_parked();
  // On a vCPU's thread.
  void guest_reset();
  void end(Exit exit);
  // On the loop's thread.
  void finish(const Exit& exit);

  base::EventLoop& loop_;
  LoopCalls calls_;
  std::function<void(const Exit&)> on_exit_;
  State state_ = State::kNotStarted;
  std::atomic<bool> ended_{false};  // by the guest; state_ follows when the loop gets to it
  std::shared_ptr<int> alive_ =
      std::make_shared<int>();  // what end() posts must not find a machine that is gone

  std::shared_ptr<base::GuestMemory> memory_owner_;
  base::GuestMemory& memory_ = *memory_owner_;
  Vm vm_;
  bool tsc_deadline_ = false;
  Bus port_bus_{"port"};
  Bus mmio_bus_{"mmio"};
  std::unique_ptr<LegacyDevices> legacy_;
  std::vector<std::unique_ptr<VirtioSlot>> slots_;
  std::map<std::string, virtio::block::Device*> drives_;            // by drive_id, in slots_
  std::map<std::string, virtio::net::Device*> network_interfaces_;  // by iface_id, in slots_
  std::vector<VcpuFd> vcpu_fds_;                                    // until they get their threads
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
};

// --- Building

Status KvmMachine::set_up_vm() {
  for (const auto& [capability, name] :
       {std::pair{KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
        std::pair{KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"}, std::pair{KVM_CAP_IRQFD, "KVM_CAP_IRQFD"}}) {
    if (vm_.check_extension(capability) == 0) {
      return fail("this host's KVM lacks {}: Linux 4.13 or later is needed", name);
    }
  }
  std::uint32_t slot = 0;
  for (const auto& region : memory_.regions()) {
    TRY(vm_.set_memory_region(slot++, region.start, region.mapping.bytes()));
  }
  TRY(vm_.set_identity_map_address(x86_64::kKvmIdentityMap));
  TRY(vm_.set_tss_address(x86_64::kKvmTss));
  TRY(vm_.create_irqchip());
  // The interval timer is there to measure the TSC and to tick until something better is found. A guest is
  // told its TSC frequency by CPUID and has the TSC-deadline timer, so it would only be set up and left
  // alone; for KVM it is a kernel thread a machine (0.1-6 ms to create, as measured).
  tsc_deadline_ = vm_.check_extension(KVM_CAP_TSC_DEADLINE_TIMER) != 0;
  if (!tsc_deadline_) TRY(vm_.create_pit());
  return {};
}

Status KvmMachine::create_vcpu_fds(const Kvm& kvm, std::uint32_t count) {
  const std::size_t run_size = TRY(kvm.vcpu_mmap_size());
  vcpu_fds_.reserve(count);
  for (std::uint32_t i = 0; i < count; ++i) vcpu_fds_.push_back(TRY(vm_.create_vcpu(i, run_size)));
  return {};
}

Status KvmMachine::add_virtio(std::unique_ptr<virtio::VirtioDevice> device) {
  const auto index = static_cast<std::uint32_t>(slots_.size());
  slots_.push_back(TRY(VirtioSlot::create(index, std::move(device), vm_, memory_, loop_, calls_)));
  return mmio_bus_.add(x86_64::virtio_mmio_address(index).value(), virtio::kMmioSize,
                       fmt::format("virtio device {}", index), *slots_.back());
}

Status KvmMachine::add_devices(const VmConfig& config) {
  legacy_ = TRY(LegacyDevices::create(config, vm_, loop_, buses(), [this] { guest_reset(); }));
  for (const DriveConfig* drive : drives_in_order(config)) {
    const auto queues = static_cast<std::uint16_t>(config.machine.vcpu_count);
    auto device = TRY(virtio::block::Device::create(drive->block, queues, loop_));
    drives_[drive->block.id] = device.get();
    TRY(add_virtio(std::move(device)));
  }
  std::shared_ptr<const mmds::Service> metadata;
  if (config.mmds) {
    auto store = config.metadata ? config.metadata : std::make_shared<mmds::Store>();
    metadata = TRY(mmds::Service::create(*config.mmds, std::move(store)));
  }
  for (virtio::net::Config interface : config.network_interfaces) {
    if (config.mmds && std::ranges::count(config.mmds->network_interfaces, interface.id) > 0) {
      interface.metadata = metadata;
    }
    auto device = TRY(virtio::net::Device::create(interface, loop_));
    network_interfaces_[interface.id] = device.get();
    TRY(add_virtio(std::move(device)));
  }
  if (config.vsock) {
    auto device = TRY(virtio::vsock::Device::create(*config.vsock, loop_));
    TRY(add_virtio(std::move(device)));
  }
  return {};
}

Status KvmMachine::write_tables(const VmConfig& config, const BootImages& images) {
  const auto devices = static_cast<std::uint32_t>(slots_.size());
  const auto line = TRY(command_line(config, devices));
  base::log::debug("kernel command line: {}", line.text());
  return x86_64::write_boot_tables(memory_, images.kernel, images.initrd, line,
                                   {.vcpu_count = config.machine.vcpu_count, .virtio_devices = devices});
}

Status KvmMachine::create_vcpus(const Kvm& kvm, const x86_64::LoadedKernel& kernel, const VmConfig& config) {
  const auto cpuid = TRY(kvm.supported_cpuid());
  const auto count = static_cast<std::uint32_t>(vcpu_fds_.size());
  // A KVM that cannot tell the frequency (a host whose TSC is not constant) leaves it to the guest to
  // measure.
  const auto khz = vcpu_fds_.front().get_tsc_khz();
  const VcpuParameters parameters{.supported_cpuid = cpuid,
                                  .vcpu_count = count,
                                  .tsc_khz = khz ? *khz : 0,
                                  .tsc_deadline = tsc_deadline_};
  for (std::uint32_t i = 0; i < count; ++i) {
    TRY(set_up_vcpu(vcpu_fds_[i], i, kernel, parameters));
    vcpus_.push_back(
        TRY(Vcpu::create(i, std::move(vcpu_fds_[i]), buses(), [this](Exit exit) { end(std::move(exit)); },
                         {.confine = config.confine_vcpu, .on_parked = [this] { calls_.wake(); }})));
  }
  vcpu_fds_.clear();
  for (const auto& vcpu : vcpus_) TRY(vcpu->wait_confined());
  return {};
}

// --- Control

KvmMachine::~KvmMachine() {
  stop_vcpus();
  calls_.close();
  vcpus_.clear();
  if (!legacy_) return;
  loop_.release(&legacy_->serial().mutex());
  legacy_->serial().flush(kLastWords);
}

Status KvmMachine::start() {
  if (state_ != State::kNotStarted) return fail("the machine is {}; it starts once", name_of(state_));
  state_ = State::kRunning;
  legacy_->boot_timer().start();
  for (const auto& vcpu : vcpus_) vcpu->resume();
  return {};
}

Status KvmMachine::pause() {
  if (state_ != State::kRunning) return fail("the machine is {}, not running", name_of(state_));
  for (const auto& vcpu : vcpus_) vcpu->request_pause();
  wait_parked();
  if (ended_) return fail("the guest has ended");
  hold_devices();
  state_ = State::kPaused;
  return {};
}

Status KvmMachine::resume() {
  if (state_ != State::kPaused) return fail("the machine is {}, not paused", name_of(state_));
  TRY(release_devices());
  // Refused when the guest has no use for it.
  for (const auto& vcpu : vcpus_) static_cast<void>(vcpu->fd().kvmclock_ctrl());
  for (const auto& vcpu : vcpus_) vcpu->resume();
  state_ = State::kRunning;
  return {};
}

Status KvmMachine::send_ctrl_alt_del() {
  if (state_ != State::kRunning) return fail("the machine is {}, not running", name_of(state_));
  if (!legacy_->keyboard().press_ctrl_alt_del()) {
    return fail("the guest has not read the keys that were pressed before");
  }
  return {};
}

Status KvmMachine::update_drive(const std::string& id, const std::optional<std::string>& path,
                                const std::optional<virtio::RateLimiterConfig>& limiter) {
  const auto drive = drives_.find(id);
  if (drive == drives_.end()) return fail("there is no drive \"{}\"", id);
  const std::lock_guard lock(drive->second->mutex());
  if (path) TRY(drive->second->update(*path));
  if (limiter) drive->second->update(*limiter);
  return {};
}

Status KvmMachine::update_network_interface(const std::string& id, const virtio::RateLimiterConfig& rx,
                                            const virtio::RateLimiterConfig& tx) {
  const auto interface = network_interfaces_.find(id);
  if (interface == network_interfaces_.end()) return fail("there is no network interface \"{}\"", id);
  const std::lock_guard lock(interface->second->mutex());
  interface->second->update(rx, tx);
  return {};
}

std::vector<base::MetricGroup> KvmMachine::metric_groups() {
  std::vector<base::MetricGroup> all;
  for (const auto& slot : slots_) {
    for (base::MetricGroup& group : slot->metric_groups()) all.push_back(std::move(group));
  }
  return all;
}

// Guest memory is touched by doorbells and by what devices watch on the host; both are handlers on the loop,
// on whose thread this runs, so that none is under way now, and none is called until release_devices().
void KvmMachine::hold_devices() {
  for (const auto& slot : slots_) slot->hold();
  loop_.hold(&legacy_->serial().mutex());
}

Status KvmMachine::release_devices() {
  loop_.release(&legacy_->serial().mutex());
  for (const auto& slot : slots_) TRY(slot->release());
  return {};
}

void KvmMachine::stop_vcpus() {
  for (const auto& vcpu : vcpus_) vcpu->request_stop();
}

// One of them may wait for this thread before it can park.
void KvmMachine::wait_parked() {
  calls_.serve_until(
      [this] { return std::ranges::all_of(vcpus_, [](const auto& vcpu) { return vcpu->parked(); }); });
}

// --- The end

void KvmMachine::guest_reset() {
  const auto flag = memory_.read<base::Le16>(x86_64::kBiosResetFlag);
  if (flag && *flag == x86_64::kBiosWarmReset) {
    return end({ExitReason::kGuestPanic, "the guest's kernel panicked"});
  }
  end({ExitReason::kReset, "the guest asked for a reset"});
}

void KvmMachine::end(Exit exit) {
  if (ended_.exchange(true)) return;
  for (const auto& vcpu : vcpus_) vcpu->request_stop_at_exit();
  loop_.post([this, alive = std::weak_ptr(alive_), exit = std::move(exit)] {
    if (!alive.expired()) finish(exit);
  });
}

void KvmMachine::finish(const Exit& exit) {
  stop_vcpus();
  wait_parked();
  state_ = State::kEnded;
  legacy_->serial().flush(kLastWords);
  // The callback may destroy this machine.
  const auto on_exit = std::move(on_exit_);
  on_exit(exit);
}

}  // namespace

Result<std::unique_ptr<Machine>> Machine::create(const VmConfig& config, base::EventLoop& loop,
                                                 std::function<void(const Exit&)> on_exit) {
  TRY(check(config));
  const auto ranges = TRY(x86_64::memory_ranges(config.machine.mem_size_mib * x86_64::kMib));
  auto memory =
      std::make_shared<base::GuestMemory>(TRY(base::GuestMemory::create(ranges, pages_of(config.machine))));
  // Clearing and filling pages is most of the start, and KVM has no part in it: it gets a thread of its own
  // while this one makes the machine. Every return from here waits for it.
  auto loading = std::async(std::launch::async, load_images, memory, std::cref(config.boot));
  const Kvm kvm = TRY(Kvm::open(config.kvm_path));
  auto machine =
      std::make_unique<KvmMachine>(TRY(kvm.create_vm()), std::move(memory), loop, std::move(on_exit));
  TRY(machine->set_up_vm());
  TRY(machine->create_vcpu_fds(kvm, config.machine.vcpu_count));
  TRY(machine->add_devices(config));
  base::timeline::mark("kvm");
  const BootImages images = TRY(loading.get());
  TRY(machine->write_tables(config, images));
  base::timeline::mark("kernel_loaded");
  TRY(machine->create_vcpus(kvm, images.kernel, config));
  return machine;
}

}  // namespace mayfly::vmm
