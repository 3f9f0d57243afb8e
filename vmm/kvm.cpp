#include "vmm/kvm.h"

#include <cpuid.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <string_view>

#include "base/file.h"

namespace mayfly::vmm {

using base::fail;
using base::fail_errno;
using base::Result;
using base::Status;

namespace {

template <typename Argument>
Result<int> call(const base::UniqueFd& fd, unsigned long request, Argument argument, std::string_view name) {
  const int result = ::ioctl(fd.get(), request, argument);
  if (result < 0) return fail_errno(errno, "{}", name);
  return result;
}

template <typename Argument>
Status order(const base::UniqueFd& fd, unsigned long request, Argument argument, std::string_view name) {
  if (auto result = call(fd, request, argument, name); !result) return std::unexpected(result.error());
  return {};
}

template <typename T>
Result<T> get(const base::UniqueFd& fd, unsigned long request, std::string_view name) {
  T value{};
  TRY(order(fd, request, &value, name));
  return value;
}

// KVM's kvm_cpuid2 and kvm_msrs: a count and that many entries. These (and kvm_xsave) end in <linux/kvm.h> in
// a flexible array by way of an empty struct, which has a size in C++ but none in C: the array's offset and
// the ioctl numbers made from the size come out wrong. Hence this head, and the numbers below.
struct Head {
  std::uint32_t count;
  std::uint32_t padding;
};
static_assert(sizeof(Head) == 8);
static_assert(sizeof(kvm_cpuid_entry2) == 40 && sizeof(kvm_msr_entry) == 16);
using Xsave = std::array<std::byte, 4096>;

constexpr unsigned long kGetSupportedCpuid = _IOWR(KVMIO, 0x05, Head);
constexpr unsigned long kSetCpuid2 = _IOW(KVMIO, 0x90, Head);
constexpr unsigned long kGetMsrs = _IOWR(KVMIO, 0x88, Head);
constexpr unsigned long kSetMsrs = _IOW(KVMIO, 0x89, Head);
constexpr unsigned long kGetMsrIndexList = _IOWR(KVMIO, 0x02, std::uint32_t);
constexpr unsigned long kGetXsave = _IOR(KVMIO, 0xa4, Xsave);
constexpr unsigned long kSetXsave = _IOW(KVMIO, 0xa5, Xsave);
constexpr unsigned long kGetXsave2 = _IOR(KVMIO, 0xcf, Xsave);

template <typename Entry>
class List {
 public:
  explicit List(std::size_t count) : bytes_(sizeof(Head) + count * sizeof(Entry)) {
    head()->count = static_cast<std::uint32_t>(count);
  }
  explicit List(std::span<const Entry> entries) : List(entries.size()) {
    std::copy(entries.begin(), entries.end(), this->entries());
  }
  // Aligned: operator new aligns for every fundamental type, and the head is as long as the strictest of them
  // that occurs here.
  Head* head() { return reinterpret_cast<Head*>(bytes_.data()); }
  Entry* entries() { return reinterpret_cast<Entry*>(bytes_.data() + sizeof(Head)); }

 private:
  std::vector<std::byte> bytes_;
};

constexpr std::size_t kMostCpuidEntries = 256;  // KVM_MAX_CPUID_ENTRIES

}  // namespace

// --- Kvm

Result<Kvm> Kvm::open(const std::string& path) {
  auto opened = base::open_file(path, O_RDWR);
  if (!opened) {
    const int code = opened.error().code;
    switch (code) {
      case ENOENT:
      case ENODEV:
      case ENXIO:
        return fail_errno(code,
                          "{} is not there (load it with \"modprobe kvm_intel\" or \"modprobe kvm_amd\", and "
                          "enable virtualization in the firmware's set-up)",
                          path);
      case EACCES:
      case EPERM:
        return fail_errno(code,
                          "{} may not be used (add yourself to its group with \"usermod -aG kvm USER\", then "
                          "log in again)",
                          path);
      default:
        return fail_errno(code, "open {}", path);
    }
  }
  base::UniqueFd fd = std::move(*opened);
  const int version = TRY(call(fd, KVM_GET_API_VERSION, 0, "KVM_GET_API_VERSION (is it a KVM device?)"));
  if (version != KVM_API_VERSION) {
    return fail("{} speaks KVM API version {}, this program {}: use another host kernel", path, version,
                KVM_API_VERSION);
  }
  return Kvm(std::move(fd));
}

Result<Vm> Kvm::create_vm() const {
  for (;;) {
    const int fd = ::ioctl(fd_.get(), KVM_CREATE_VM, 0);
    if (fd >= 0) return Vm(base::UniqueFd(fd));
    // A signal that comes while KVM waits for other CPUs.
    if (errno != EINTR) return fail_errno(errno, "KVM_CREATE_VM");
  }
}

Result<std::size_t> Kvm::vcpu_mmap_size() const {
  return static_cast<std::size_t>(TRY(call(fd_, KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE")));
}

Result<std::vector<kvm_cpuid_entry2>> Kvm::supported_cpuid() const {
  List<kvm_cpuid_entry2> list(kMostCpuidEntries);
  TRY(order(fd_, kGetSupportedCpuid, list.head(), "KVM_GET_SUPPORTED_CPUID"));
  return std::vector(list.entries(), list.entries() + list.head()->count);
}

Result<std::vector<std::uint32_t>> Kvm::msr_indices() const {
  // A count and that many numbers; a count that is too small is corrected (E2BIG).
  std::vector<std::uint32_t> list(1);
  if (::ioctl(fd_.get(), kGetMsrIndexList, list.data()) < 0 && errno != E2BIG) {
    return fail_errno(errno, "KVM_GET_MSR_INDEX_LIST");
  }
  list.resize(std::size_t{list[0]} + 1);
  TRY(order(fd_, kGetMsrIndexList, list.data(), "KVM_GET_MSR_INDEX_LIST"));
  list.erase(list.begin());
  return list;
}

// --- Vm

int Vm::check_extension(int capability) const {
  return std::max(0, ::ioctl(fd_.get(), KVM_CHECK_EXTENSION, capability));
}

Status Vm::set_memory_region(std::uint32_t slot, base::GuestAddress start, std::span<std::byte> memory) {
  kvm_userspace_memory_region region{};
  region.slot = slot;
  region.guest_phys_addr = start.value();
  region.memory_size = memory.size();
  region.userspace_addr = reinterpret_cast<std::uintptr_t>(memory.data());
  return order(fd_, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
}

Status Vm::set_tss_address(base::GuestAddress address) {
  return order(fd_, KVM_SET_TSS_ADDR, static_cast<unsigned long>(address.value()), "KVM_SET_TSS_ADDR");
}

Status Vm::set_identity_map_address(base::GuestAddress address) {
  std::uint64_t value = address.value();
  return order(fd_, KVM_SET_IDENTITY_MAP_ADDR, &value, "KVM_SET_IDENTITY_MAP_ADDR");
}

Status Vm::create_irqchip() {
  return order(fd_, KVM_CREATE_IRQCHIP, 0, "KVM_CREATE_IRQCHIP");
}

Status Vm::create_pit() {
  kvm_pit_config config{};
  config.flags = KVM_PIT_SPEAKER_DUMMY;
  return order(fd_, KVM_CREATE_PIT2, &config, "KVM_CREATE_PIT2");
}

Status Vm::assign_ioeventfd(base::GuestAddress address, std::uint32_t length, std::uint64_t datamatch,
                            int eventfd) {
  kvm_ioeventfd request{};
  request.datamatch = datamatch;
  request.addr = address.value();
  request.len = length;
  request.fd = eventfd;
  request.flags = KVM_IOEVENTFD_FLAG_DATAMATCH;
  return order(fd_, KVM_IOEVENTFD, &request, "KVM_IOEVENTFD");
}

Status Vm::assign_irqfd(std::uint32_t gsi, int eventfd) {
  kvm_irqfd request{};
  request.fd = static_cast<std::uint32_t>(eventfd);
  request.gsi = gsi;
  return order(fd_, KVM_IRQFD, &request, "KVM_IRQFD");
}

Result<VcpuFd> Vm::create_vcpu(std::uint32_t id, std::size_t run_size) {
  base::UniqueFd fd(
      TRY(call(fd_, KVM_CREATE_VCPU, static_cast<unsigned long>(id), fmt::format("KVM_CREATE_VCPU {}", id))));
  base::Mapping run = TRY(base::Mapping::of_file(fd.get(), run_size, PROT_READ | PROT_WRITE, MAP_SHARED));
  return VcpuFd(std::move(fd), std::move(run));
}

std::size_t Vm::xsave_size() const {
  const int size = check_extension(KVM_CAP_XSAVE2);
  return std::max(sizeof(Xsave), static_cast<std::size_t>(size));
}

// --- VcpuFd

int VcpuFd::run() {
  return ::ioctl(fd_.get(), KVM_RUN, 0) < 0 ? errno : 0;
}

kvm_run& VcpuFd::run_page() const {
  return *reinterpret_cast<kvm_run*>(run_.data());
}

void VcpuFd::set_immediate_exit(bool on) const {
  std::atomic_ref(run_page().immediate_exit).store(on ? 1 : 0);
}

Result<kvm_regs> VcpuFd::get_regs() const {
  return get<kvm_regs>(fd_, KVM_GET_REGS, "KVM_GET_REGS");
}
Status VcpuFd::set_regs(const kvm_regs& regs) {
  return order(fd_, KVM_SET_REGS, &regs, "KVM_SET_REGS");
}
Result<kvm_sregs> VcpuFd::get_sregs() const {
  return get<kvm_sregs>(fd_, KVM_GET_SREGS, "KVM_GET_SREGS");
}
Status VcpuFd::set_sregs(const kvm_sregs& sregs) {
  return order(fd_, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
}
Status VcpuFd::set_fpu(const kvm_fpu& fpu) {
  return order(fd_, KVM_SET_FPU, &fpu, "KVM_SET_FPU");
}
Result<kvm_lapic_state> VcpuFd::get_lapic() const {
  return get<kvm_lapic_state>(fd_, KVM_GET_LAPIC, "KVM_GET_LAPIC");
}
Status VcpuFd::set_lapic(const kvm_lapic_state& lapic) {
  return order(fd_, KVM_SET_LAPIC, &lapic, "KVM_SET_LAPIC");
}
Result<kvm_mp_state> VcpuFd::get_mp_state() const {
  return get<kvm_mp_state>(fd_, KVM_GET_MP_STATE, "KVM_GET_MP_STATE");
}
Status VcpuFd::set_mp_state(const kvm_mp_state& state) {
  return order(fd_, KVM_SET_MP_STATE, &state, "KVM_SET_MP_STATE");
}
Result<kvm_vcpu_events> VcpuFd::get_vcpu_events() const {
  return get<kvm_vcpu_events>(fd_, KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS");
}
Status VcpuFd::set_vcpu_events(const kvm_vcpu_events& events) {
  return order(fd_, KVM_SET_VCPU_EVENTS, &events, "KVM_SET_VCPU_EVENTS");
}
Result<kvm_debugregs> VcpuFd::get_debugregs() const {
  return get<kvm_debugregs>(fd_, KVM_GET_DEBUGREGS, "KVM_GET_DEBUGREGS");
}
Status VcpuFd::set_debugregs(const kvm_debugregs& registers) {
  return order(fd_, KVM_SET_DEBUGREGS, &registers, "KVM_SET_DEBUGREGS");
}
Result<kvm_xcrs> VcpuFd::get_xcrs() const {
  return get<kvm_xcrs>(fd_, KVM_GET_XCRS, "KVM_GET_XCRS");
}
Status VcpuFd::set_xcrs(const kvm_xcrs& xcrs) {
  return order(fd_, KVM_SET_XCRS, &xcrs, "KVM_SET_XCRS");
}

Result<std::vector<std::byte>> VcpuFd::get_xsave(std::size_t size) const {
  std::vector<std::byte> xsave(std::max(size, sizeof(Xsave)));
  // Only the newer of the two knows sizes above one page.
  const bool large = size > sizeof(Xsave);
  TRY(order(fd_, large ? kGetXsave2 : kGetXsave, xsave.data(), "KVM_GET_XSAVE"));
  return xsave;
}

Status VcpuFd::set_xsave(std::span<const std::byte> xsave) {
  if (xsave.size() < sizeof(Xsave)) return fail("an XSAVE area of {} bytes is too small", xsave.size());
  return order(fd_, kSetXsave, xsave.data(), "KVM_SET_XSAVE");
}

Status VcpuFd::set_cpuid(std::span<const kvm_cpuid_entry2> entries) {
  List<kvm_cpuid_entry2> list(entries);
  return order(fd_, kSetCpuid2, list.head(), "KVM_SET_CPUID2");
}

Result<std::size_t> VcpuFd::set_msrs(std::span<const kvm_msr_entry> msrs) {
  List<kvm_msr_entry> list(msrs);
  return static_cast<std::size_t>(TRY(call(fd_, kSetMsrs, list.head(), "KVM_SET_MSRS")));
}

Result<std::size_t> VcpuFd::get_msrs(std::span<kvm_msr_entry> msrs) const {
  List<kvm_msr_entry> list{std::span<const kvm_msr_entry>(msrs)};
  const auto count = static_cast<std::size_t>(TRY(call(fd_, kGetMsrs, list.head(), "KVM_GET_MSRS")));
  std::copy_n(list.entries(), count, msrs.begin());
  return count;
}

Result<std::uint32_t> VcpuFd::get_tsc_khz() const {
  return static_cast<std::uint32_t>(TRY(call(fd_, KVM_GET_TSC_KHZ, 0, "KVM_GET_TSC_KHZ")));
}
Status VcpuFd::set_tsc_khz(std::uint32_t khz) {
  return order(fd_, KVM_SET_TSC_KHZ, static_cast<unsigned long>(khz), "KVM_SET_TSC_KHZ");
}
Status VcpuFd::kvmclock_ctrl() {
  return order(fd_, KVM_KVMCLOCK_CTRL, 0, "KVM_KVMCLOCK_CTRL");
}

// --- The processor

bool hardware_virtualization() {
  // The instruction, not /proc/cpuinfo: in a jail there is no /proc, and on a large host that file takes
  // milliseconds to read.
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  constexpr unsigned kVmx = 1U << 5U;
  constexpr unsigned kSvm = 1U << 2U;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & kVmx) != 0) return true;
  return __get_cpuid(0x80000001U, &eax, &ebx, &ecx, &edx) != 0 && (ecx & kSvm) != 0;
}

}  // namespace mayfly::vmm
