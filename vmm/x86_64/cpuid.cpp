#include "vmm/x86_64/cpuid.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <string_view>

namespace mayfly::vmm::x86_64 {
namespace {

using Entry = kvm_cpuid_entry2;

constexpr std::uint32_t bit(unsigned n) {
  return 1U << n;
}

// Puts `value` into the `width` bits from `shift`.
constexpr void set_field(std::uint32_t& reg, unsigned shift, unsigned width, std::uint32_t value) {
  const std::uint32_t mask = ((width < 32 ? bit(width) : 0U) - 1U) << shift;
  reg = (reg & ~mask) | ((value << shift) & mask);
}

enum class Vendor : std::uint8_t { kIntel, kAmd, kOther };

Vendor vendor_of(std::span<const Entry> entries) {
  const auto leaf = std::ranges::find(entries, 0U, &Entry::function);
  if (leaf == entries.end()) return Vendor::kOther;
  const std::array<std::uint32_t, 3> words = {leaf->ebx, leaf->edx, leaf->ecx};
  std::array<char, 12> name{};
  std::memcpy(name.data(), words.data(), name.size());
  const std::string_view text(name.data(), name.size());
  if (text == "GenuineIntel") return Vendor::kIntel;
  if (text == "AuthenticAMD" || text == "HygonGenuine") return Vendor::kAmd;
  return Vendor::kOther;
}

struct Context {
  CpuidParameters parameters;
  Vendor vendor = Vendor::kOther;

  // Bits of an APIC id that number the processors of the one package.
  [[nodiscard]] std::uint32_t id_bits() const {
    return static_cast<std::uint32_t>(std::bit_width(parameters.vcpu_count - 1));
  }
};

// How one leaf, or one subleaf of it, differs from what KVM supports.
struct Rule {
  std::uint32_t function;
  std::optional<std::uint32_t> index;  // absent: every subleaf
  std::string_view reason;
  void (*apply)(Entry& entry, const Context& context);
};

void zero(Entry& entry, const Context&) {
  entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
}

void leaf_1_identity(Entry& entry, const Context& context) {
  set_field(entry.ebx, 24, 8, context.parameters.vcpu_index);
  set_field(entry.ebx, 16, 8, bit(context.id_bits()));
  if (context.parameters.vcpu_count > 1) {
    entry.edx |= bit(28);  // HTT
  } else {
    entry.edx &= ~bit(28);
  }
}

// Deterministic cache parameters; AMD's leaf 0x8000001d has the same fields.
void cache_sharing(Entry& entry, const Context& context) {
  if ((entry.eax & 0x1f) == 0) return;  // no more caches
  const std::uint32_t level = (entry.eax >> 5U) & 7U;
  const std::uint32_t sharers = level >= 3 ? bit(context.id_bits()) : 1;
  set_field(entry.eax, 14, 12, sharers - 1);
  if (context.vendor == Vendor::kIntel) set_field(entry.eax, 26, 6, bit(context.id_bits()) - 1);
}

void tsc_crystal(Entry& entry, const Context& context) {
  const CpuidParameters& parameters = context.parameters;
  zero(entry, context);
  const std::uint64_t hertz = std::uint64_t{parameters.tsc_khz} * 1000;
  if (!parameters.tsc_deadline || hertz == 0 || hertz > UINT32_MAX) return;
  entry.eax = 1;
  entry.ebx = 1;
  entry.ecx = static_cast<std::uint32_t>(hertz);
}

void frequencies(Entry& entry, const Context& context) {
  zero(entry, context);
  const std::uint32_t mhz = context.parameters.tsc_khz / 1000;
  if (mhz == 0) return;
  entry.eax = mhz;  // base
  entry.ebx = mhz;  // highest
  entry.ecx = 100;  // bus
}

constexpr std::uint32_t kKvmBase = 0x40000000;
constexpr std::uint32_t kKvmFeatures = 0x40000001;
constexpr std::uint32_t kTimingLeaf = 0x40000010;
constexpr std::uint32_t kLapicKhz = 1'000'000;  // KVM's local APIC timer counts nanoseconds

void kvm_signature(Entry& entry, const Context&) {
  entry.eax = kTimingLeaf;
  entry.ebx = 0x4b4d564b;  // "KVMK"
  entry.ecx = 0x564b4d56;  // "VMKV"
  entry.edx = 0x4d;        // "M"
}

void timing(Entry& entry, const Context& context) {
  zero(entry, context);
  entry.eax = context.parameters.tsc_khz;
  entry.ebx = kLapicKhz;
}

// Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E; Linux's Documentation/virt/kvm/x86/cpuid.rst.
// Rules apply in this order, to the leaves that KVM supports and those that add_missing_leaves() adds.
constexpr std::array kRules = {
    Rule{0x1, {}, "each vCPU has its own APIC id, and all are one package", leaf_1_identity},
    Rule{0x1,
         {},
         "HYPERVISOR: a guest looks for the KVM leaves only where it is set",
         [](Entry& e, const Context&) { e.ecx |= bit(31); }},
    Rule{0x1,
         {},
         "TSC_DEADLINE: the cheapest timer; KVM offers it by a capability of its own",
         [](Entry& e, const Context& c) { set_field(e.ecx, 24, 1, c.parameters.tsc_deadline ? 1 : 0); }},
    Rule{0x1, {}, "VMX: no nested guests", [](Entry& e, const Context&) { e.ecx &= ~bit(5); }},
    Rule{0x1,
         {},
         "MONITOR: a guest must not put a host processor to sleep by itself",
         [](Entry& e, const Context&) { e.ecx &= ~bit(3); }},
    Rule{0x1,
         {},
         "PDCM, DTES64, DS-CPL, DS: belong to the performance monitoring that is left out below",
         [](Entry& e, const Context&) {
           e.ecx &= ~(bit(15) | bit(2) | bit(4));
           e.edx &= ~bit(21);
         }},
    Rule{0x1,
         {},
         "EIST, TM2, TM: power and thermal control is the host's",
         [](Entry& e, const Context&) {
           e.ecx &= ~(bit(7) | bit(8));
           e.edx &= ~(bit(22) | bit(29));
         }},
    Rule{0x1,
         {},
         "OSXSAVE mirrors the guest's own CR4: KVM keeps it",
         [](Entry& e, const Context&) { e.ecx &= ~bit(27); }},
    Rule{0x3, {}, "a serial number would tell one host from another", zero},
    Rule{0x4, {}, "caches of the one package: the third level shared, the others not", cache_sharing},
    Rule{0x5, {}, "MONITOR is not offered", zero},
    Rule{0x6,
         {},
         "thermal and power are the host's; ARAT stays: the APIC timer never stops",
         [](Entry& e, const Context&) {
           e.eax &= bit(2);
           e.ebx = e.ecx = e.edx = 0;
         }},
    Rule{0x7, 0, "HLE, RTM: transactions leak data on the processors that still have them (TAA)",
         [](Entry& e, const Context&) { e.ebx &= ~(bit(4) | bit(11)); }},
    Rule{0x7, 0, "SGX, SGX_LC: no enclaves are set up for guests",
         [](Entry& e, const Context&) {
           e.ebx &= ~bit(2);
           e.ecx &= ~bit(30);
         }},
    Rule{0x7, 0, "RDT-M, RDT-A: the host's means to share its caches out",
         [](Entry& e, const Context&) { e.ebx &= ~(bit(12) | bit(15)); }},
    Rule{0x7, 0, "MPX: withdrawn by Intel and by Linux; its state would only make switches slower",
         [](Entry& e, const Context&) { e.ebx &= ~bit(14); }},
    Rule{0x7, 0, "PT: tracing shares a buffer design with the host that needs more than CPUID",
         [](Entry& e, const Context&) { e.ebx &= ~bit(25); }},
    Rule{0x7, 0, "WAITPKG: a guest must not put a host processor to sleep by itself",
         [](Entry& e, const Context&) { e.ecx &= ~bit(5); }},
    Rule{0x7, 0, "LA57: five-level tables slow each walk down, for memory that no machine here has",
         [](Entry& e, const Context&) { e.ecx &= ~bit(16); }},
    Rule{0x7, 0, "Key Locker, bus lock detection, ENQCMD: not virtualised here",
         [](Entry& e, const Context&) { e.ecx &= ~(bit(23) | bit(24) | bit(29)); }},
    Rule{0x7, 0, "AMX: 8 KiB of state a thread, which the process would have to ask the host for",
         [](Entry& e, const Context&) { e.edx &= ~(bit(22) | bit(24) | bit(25)); }},
    Rule{0x7, 1, "AMX again: FP16 and COMPLEX",
         [](Entry& e, const Context&) {
           e.eax &= ~bit(21);
           e.edx &= ~bit(8);
         }},
    Rule{0xa, {}, "no performance counters: they tell guests about each other, and cost an exit each", zero},
    Rule{0xd, 0, "no state of MPX (3, 4) and AMX (17, 18), which are not offered",
         [](Entry& e, const Context&) { e.eax &= ~(bit(3) | bit(4) | bit(17) | bit(18)); }},
    Rule{0xd, 3, "MPX state is not offered", zero},
    Rule{0xd, 4, "MPX state is not offered", zero},
    Rule{0xd, 17, "AMX state is not offered", zero},
    Rule{0xd, 18, "AMX state is not offered", zero},
    Rule{0xf, {}, "RDT-M is not offered", zero},
    Rule{0x10, {}, "RDT-A is not offered", zero},
    Rule{0x12, {}, "SGX is not offered", zero},
    Rule{0x14, {}, "PT is not offered", zero},
    Rule{0x15,
         {},
         "the TSC's frequency, so that nobody calibrates. It is exact as a crystal with ratio 1; the APIC "
         "timer, "
         "which runs off that crystal too, disagrees, hence only where the TSC deadline takes its place",
         tsc_crystal},
    Rule{0x16, {}, "frequencies as the TSC's; the host's own would be wrong after a migration", frequencies},
    Rule{0x19, {}, "Key Locker is not offered", zero},
    Rule{0x1d, {}, "AMX is not offered", zero},
    Rule{0x1e, {}, "AMX is not offered", zero},
    Rule{0x23, {}, "no performance counters", zero},
    Rule{kKvmBase, {}, "\"KVMKVMKVM\", whatever else the host may call itself", kvm_signature},
    Rule{kKvmFeatures,
         {},
         "all paravirtual features of KVM, no hint that vCPUs have host processors to themselves",
         [](Entry& e, const Context&) { e.edx &= ~bit(0); }},
    Rule{kTimingLeaf,
         {},
         "frequencies of TSC and APIC timer, where guests of other hypervisors look, too",
         timing},
    Rule{0x80000001,
         {},
         "SVM, SKINIT: no nested guests",
         [](Entry& e, const Context&) { e.ecx &= ~(bit(2) | bit(12)); }},
    Rule{0x80000001,
         {},
         "IBS, WDT, PerfCtrExtCore, PerfCtrExtNB, PerfTsc, PerfCtrExtLLC: no performance counters",
         [](Entry& e, const Context&) {
           e.ecx &= ~(bit(10) | bit(13) | bit(23) | bit(24) | bit(27) | bit(28));
         }},
    Rule{0x80000001, {}, "LWP: withdrawn by AMD", [](Entry& e, const Context&) { e.ecx &= ~bit(15); }},
    Rule{0x80000001,
         {},
         "MONITORX: a guest must not put a host processor to sleep by itself",
         [](Entry& e, const Context&) { e.ecx &= ~bit(29); }},
    Rule{0x80000001,
         {},
         "CmpLegacy: the logical processors of leaf 1 are cores",
         [](Entry& e, const Context& c) {
           if (c.vendor == Vendor::kAmd) set_field(e.ecx, 1, 1, c.parameters.vcpu_count > 1 ? 1 : 0);
         }},
    Rule{0x80000007,
         {},
         "of power management only that the TSC is invariant",
         [](Entry& e, const Context&) {
           e.eax = e.ebx = e.ecx = 0;
           e.edx &= bit(8);
         }},
    Rule{0x80000008,
         {},
         "AMD's count of cores and width of their numbers; Intel keeps ECX zero",
         [](Entry& e, const Context& c) {
           e.ecx = 0;
           if (c.vendor != Vendor::kAmd) return;
           set_field(e.ecx, 0, 8, c.parameters.vcpu_count - 1);
           set_field(e.ecx, 12, 4, c.id_bits());
         }},
    Rule{0x8000000a, {}, "SVM is not offered", zero},
    Rule{0x8000001b, {}, "IBS is not offered", zero},
    Rule{0x8000001c, {}, "LWP is not offered", zero},
    Rule{0x8000001d, {}, "AMD's caches, as in leaf 4", cache_sharing},
    Rule{0x8000001e,
         {},
         "AMD's topology: one thread a core, one node",
         [](Entry& e, const Context& c) {
           zero(e, c);
           e.eax = c.parameters.vcpu_index;
           set_field(e.ebx, 0, 8, c.parameters.vcpu_index);
         }},
    Rule{0x8000001f, {}, "memory encryption is not set up for guests", zero},
    Rule{0x80000020, {}, "the host's means to share its memory bandwidth out", zero},
    Rule{0x80000022, {}, "no performance counters", zero},
    Rule{0x80000023, {}, "memory encryption is not set up for guests", zero},
    Rule{0x80000026, {}, "the host's topology; leaf 0xb has the guest's", zero},
};

bool has_extended_topology(std::span<const Entry> entries, std::uint32_t function) {
  return std::ranges::find(entries, function, &Entry::function) != entries.end();
}

// Extended topology, leaves 0xb and 0x1f: a level of threads, one of cores, and the end.
void add_topology(std::vector<Entry>& entries, std::uint32_t function, const Context& context) {
  constexpr std::uint32_t kThreads = 1;
  constexpr std::uint32_t kCores = 2;
  struct Level {
    std::uint32_t shift, processors, type;
  };
  const std::array levels = {Level{0, 1, kThreads},
                             Level{context.id_bits(), context.parameters.vcpu_count, kCores}, Level{0, 0, 0}};
  for (std::uint32_t index = 0; index < levels.size(); ++index) {
    Entry entry{};
    entry.function = function;
    entry.index = index;
    entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    entry.eax = levels.at(index).shift;
    entry.ebx = levels.at(index).processors;
    entry.ecx = index | (levels.at(index).type << 8U);
    entry.edx = context.parameters.vcpu_index;
    entries.push_back(entry);
  }
}

bool is_topology(std::uint32_t function) {
  return function == 0xb || function == 0x1f;
}
bool is_hypervisor(std::uint32_t function) {
  return function >= kKvmBase && function <= 0x4fffffff;
}

void add_leaf_unless_present(std::vector<Entry>& entries, std::uint32_t function) {
  if (std::ranges::find(entries, function, &Entry::function) != entries.end()) return;
  Entry entry{};
  entry.function = function;
  entries.push_back(entry);
}

// Raises the highest basic leaf to 0x16 on Intel, so that the frequencies have a place.
void add_missing_leaves(std::vector<Entry>& entries, const Context& context) {
  add_leaf_unless_present(entries, kKvmBase);
  add_leaf_unless_present(entries, kKvmFeatures);
  add_leaf_unless_present(entries, kTimingLeaf);
  if (context.vendor != Vendor::kIntel) return;
  const auto first = std::ranges::find(entries, 0U, &Entry::function);
  first->eax = std::max(first->eax, 0x16U);
  add_leaf_unless_present(entries, 0x15);
  add_leaf_unless_present(entries, 0x16);
}

}  // namespace

std::vector<kvm_cpuid_entry2> guest_cpuid(std::span<const kvm_cpuid_entry2> supported,
                                          const CpuidParameters& parameters) {
  const Context context{parameters, vendor_of(supported)};
  std::vector<Entry> entries;
  entries.reserve(supported.size() + 16);
  for (const Entry& entry : supported) {
    const bool other_hypervisor =
        is_hypervisor(entry.function) && entry.function != kKvmBase && entry.function != kKvmFeatures;
    if (!is_topology(entry.function) && !other_hypervisor) entries.push_back(entry);
  }
  add_missing_leaves(entries, context);
  for (const Rule& rule : kRules) {
    for (Entry& entry : entries) {
      if (entry.function == rule.function && (!rule.index || *rule.index == entry.index)) {
        rule.apply(entry, context);
      }
    }
  }
  for (const std::uint32_t function : {0xbU, 0x1fU}) {
    if (has_extended_topology(supported, function)) add_topology(entries, function, context);
  }
  return entries;
}

}  // namespace mayfly::vmm::x86_64
