#include "vmm/x86_64/cpuid.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <optional>

namespace mayfly::vmm::x86_64 {
namespace {

using Entry = kvm_cpuid_entry2;
using Entries = std::vector<Entry>;

constexpr std::uint32_t kAll = 0xffffffff;

constexpr std::uint32_t bit(unsigned n) {
  return 1U << n;
}

Entry leaf(std::uint32_t function, std::uint32_t eax, std::uint32_t ebx, std::uint32_t ecx,
           std::uint32_t edx) {
  Entry entry{};
  entry.function = function;
  entry.eax = eax;
  entry.ebx = ebx;
  entry.ecx = ecx;
  entry.edx = edx;
  return entry;
}

Entry subleaf(std::uint32_t function, std::uint32_t index, std::uint32_t eax, std::uint32_t ebx,
              std::uint32_t ecx, std::uint32_t edx) {
  Entry entry = leaf(function, eax, ebx, ecx, edx);
  entry.index = index;
  entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
  return entry;
}

// Leaves that both vendors have, with every feature there could be.
Entries common() {
  Entries entries = {leaf(1, 0x000806f8, 0x07100800, kAll & ~bit(24), kAll),
                     leaf(5, kAll, kAll, kAll, kAll),
                     leaf(6, kAll, kAll, kAll, kAll),
                     subleaf(7, 0, 2, kAll, kAll, kAll),
                     subleaf(7, 1, kAll, kAll, kAll, kAll),
                     leaf(0xa, kAll, kAll, kAll, kAll),
                     subleaf(0xb, 0, 1, 2, 0x100, 7),
                     subleaf(0xb, 1, 7, 112, 0x201, 7),
                     subleaf(0xd, 0, 0x602ff, 0x2b00, 0x2b00, 0),
                     subleaf(0xd, 1, 0x1f, 0x2b00, 0x1800, 0),
                     subleaf(0xd, 2, 0x100, 0x240, 0, 0),
                     subleaf(0xd, 17, 0x40, 0xac0, 2, 0),
                     subleaf(0xd, 18, 0x2000, 0xb00, 6, 0),
                     leaf(0x40000000, 0x40000001, 0x4d4d4d4d, 0, 0),
                     leaf(0x40000001, 0x01007efb, 0, 0, 1),
                     leaf(0x40000003, kAll, kAll, kAll, kAll),
                     leaf(0x80000001, kAll, kAll, kAll, kAll),
                     leaf(0x80000007, kAll, kAll, kAll, kAll),
                     leaf(0x80000008, 0x3034, 0x1234, 0x706f, 0x5)};
  return entries;
}

Entries intel() {
  Entries entries = common();
  entries.insert(entries.begin(), leaf(0, 0x1f, 0x756e6547, 0x6c65746e, 0x49656e69));
  entries.push_back(subleaf(4, 0, 0xfc004121, 0x02c0003f, 0x3f, 0));
  entries.push_back(subleaf(4, 1, 0xfc004122, 0x01c0003f, 0x3f, 0));
  entries.push_back(subleaf(4, 2, 0xfc01c143, 0x03c0003f, 0x7ff, 0));
  entries.push_back(subleaf(4, 3, 0xfc1fc163, 0x03c0003f, 0x1bfff, 4));
  entries.push_back(subleaf(4, 4, 0, 0, 0, 0));
  entries.push_back(leaf(0x12, kAll, kAll, kAll, kAll));
  entries.push_back(subleaf(0x14, 0, kAll, kAll, kAll, kAll));
  entries.push_back(leaf(0x15, 2, 168, 25000000, 0));
  entries.push_back(subleaf(0x1d, 0, 1, 0, 0, 0));
  entries.push_back(subleaf(0x1e, 0, 1, kAll, 0, 0));
  entries.push_back(subleaf(0x1f, 0, 1, 2, 0x100, 7));
  return entries;
}

Entries amd() {
  Entries entries = common();
  entries.insert(entries.begin(), leaf(0, 0x10, 0x68747541, 0x444d4163, 0x69746e65));
  entries.push_back(leaf(0x8000000a, kAll, kAll, kAll, kAll));
  entries.push_back(subleaf(0x8000001d, 0, 0x4121, 0x01c0003f, 0x3f, 0));
  entries.push_back(subleaf(0x8000001d, 3, 0x3c163, 0x03c0003f, 0x7fff, 1));
  entries.push_back(subleaf(0x8000001d, 4, 0, 0, 0, 0));
  entries.push_back(leaf(0x8000001e, 7, 0x0103, 0x0101, 0));
  entries.push_back(leaf(0x8000001f, kAll, kAll, kAll, kAll));
  entries.push_back(subleaf(0x80000026, 0, kAll, kAll, kAll, kAll));
  return entries;
}

CpuidParameters parameters(std::uint32_t index, std::uint32_t count) {
  return {.vcpu_index = index, .vcpu_count = count, .tsc_khz = 2'499'998, .tsc_deadline = true};
}

std::optional<Entry> find(const Entries& entries, std::uint32_t function, std::uint32_t index = 0) {
  const auto found = std::ranges::find_if(
      entries, [&](const Entry& entry) { return entry.function == function && entry.index == index; });
  if (found == entries.end()) return std::nullopt;
  return *found;
}

Entry get(const Entries& entries, std::uint32_t function, std::uint32_t index = 0) {
  const auto entry = find(entries, function, index);
  INFO("leaf " << function << " index " << index);
  REQUIRE(entry.has_value());
  return *entry;
}

bool is_zero(const Entry& entry) {
  return (entry.eax | entry.ebx | entry.ecx | entry.edx) == 0;
}

}  // namespace

TEST_CASE("each leaf stands once") {
  for (const Entries& host : {intel(), amd()}) {
    const Entries guest = guest_cpuid(host, parameters(1, 4));
    for (const Entry& entry : guest) {
      CHECK(std::ranges::count_if(guest, [&](const Entry& other) {
              return other.function == entry.function && other.index == entry.index;
            }) == 1);
    }
  }
}

TEST_CASE("each vCPU has its own APIC id in one package") {
  for (const Entries& host : {intel(), amd()}) {
    for (const std::uint32_t count : {1U, 2U, 3U, 4U, 32U}) {
      for (std::uint32_t index = 0; index < count; ++index) {
        const Entries guest = guest_cpuid(host, parameters(index, count));
        const Entry one = get(guest, 1);
        CHECK(one.ebx >> 24U == index);
        CHECK(((one.ebx >> 16U) & 0xff) >= count);
        CHECK(((one.ebx >> 8U) & 0xff) == 8);  // CLFLUSH line size, the host's
        CHECK(((one.edx & bit(28)) != 0) == (count > 1));

        const Entry threads = get(guest, 0xb, 0);
        CHECK(threads.eax == 0);
        CHECK(threads.ebx == 1);
        CHECK(threads.ecx == 0x100);
        const Entry cores = get(guest, 0xb, 1);
        CHECK((1U << cores.eax) >= count);
        CHECK(cores.ebx == count);
        CHECK(cores.ecx == 0x201);
        CHECK(get(guest, 0xb, 2).ecx == 2);
        CHECK(get(guest, 0xb, 2).ebx == 0);
        for (std::uint32_t level = 0; level < 3; ++level) {
          CHECK(get(guest, 0xb, level).edx == index);
          CHECK(get(guest, 0xb, level).flags == KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
        }
        CHECK(find(guest, 0x1f).has_value() == find(host, 0x1f).has_value());
      }
    }
  }
}

TEST_CASE("Intel: cache leaves count cores of the guest, not the host") {
  const Entries guest = guest_cpuid(intel(), parameters(0, 4));
  const auto sharing = [&](std::uint32_t index) { return (get(guest, 4, index).eax >> 14U) & 0xfff; };
  CHECK(sharing(0) == 0);
  CHECK(sharing(1) == 0);
  CHECK(sharing(2) == 0);
  CHECK(sharing(3) == 3);
  for (std::uint32_t index = 0; index < 4; ++index) CHECK(get(guest, 4, index).eax >> 26U == 3);
  CHECK((get(guest, 4, 3).eax & 0x3fff) == 0x163);
  CHECK(get(guest, 4, 3).ebx == 0x03c0003f);
  CHECK(is_zero(get(guest, 4, 4)));
  CHECK(get(guest, 0x80000008).ecx == 0);
}

TEST_CASE("AMD: topology leaves count cores of the guest, not the host") {
  const Entries guest = guest_cpuid(amd(), parameters(2, 4));
  CHECK((get(guest, 0x80000008).ecx & 0xff) == 3);
  CHECK(((get(guest, 0x80000008).ecx >> 12U) & 0xf) == 2);
  CHECK(get(guest, 0x80000008).eax == 0x3034);
  CHECK((get(guest, 0x8000001d, 0).eax >> 14U) == 0);
  CHECK((get(guest, 0x8000001d, 3).eax >> 14U) == 3);
  CHECK(get(guest, 0x8000001e).eax == 2);
  CHECK(get(guest, 0x8000001e).ebx == 2);
  CHECK(get(guest, 0x8000001e).ecx == 0);
  CHECK((get(guest, 0x80000001).ecx & bit(1)) != 0);
  CHECK(is_zero(get(guest, 0x80000026)));
  CHECK((get(guest_cpuid(amd(), parameters(0, 1)), 0x80000001).ecx & bit(1)) == 0);
}

TEST_CASE("a guest knows that it is one, and finds KVM") {
  for (const Entries& host : {intel(), amd(), Entries{leaf(0, 0xd, 0, 0, 0), leaf(1, 0, 0, 0, 0)}}) {
    const Entries guest = guest_cpuid(host, parameters(0, 1));
    CHECK((get(guest, 1).ecx & bit(31)) != 0);
    const Entry base = get(guest, 0x40000000);
    CHECK(base.eax == 0x40000010);
    CHECK(base.ebx == 0x4b4d564b);
    CHECK(base.ecx == 0x564b4d56);
    CHECK(base.edx == 0x0000004d);
    CHECK(get(guest, 0x40000001).edx == 0);
    CHECK(get(guest, 0x40000010).eax == 2'499'998);
    CHECK(get(guest, 0x40000010).ebx == 1'000'000);
    CHECK_FALSE(find(guest, 0x40000003).has_value());
  }
  CHECK(get(guest_cpuid(intel(), parameters(0, 1)), 0x40000001).eax == 0x01007efb);
}

TEST_CASE("the TSC deadline is offered where KVM has it") {
  CpuidParameters with = parameters(0, 1);
  CHECK((get(guest_cpuid(intel(), with), 1).ecx & bit(24)) != 0);
  with.tsc_deadline = false;
  CHECK((get(guest_cpuid(intel(), with), 1).ecx & bit(24)) == 0);
}

TEST_CASE("Intel: the TSC's frequency needs no calibration") {
  CpuidParameters known = parameters(0, 1);
  const Entries guest = guest_cpuid(intel(), known);
  const Entry crystal = get(guest, 0x15);
  REQUIRE(crystal.eax != 0);
  CHECK(std::uint64_t{crystal.ecx} * crystal.ebx / crystal.eax == 2'499'998'000U);
  CHECK(get(guest, 0x16).eax == 2499);
  CHECK(get(guest, 0).eax == 0x1f);

  SECTION("a processor without those leaves gets them") {
    const Entries old = guest_cpuid(Entries{leaf(0, 0xd, 0x756e6547, 0x6c65746e, 0x49656e69)}, known);
    CHECK(get(old, 0).eax == 0x16);
    CHECK(get(old, 0x15).ecx == 2'499'998'000U);
  }
  SECTION("an unknown frequency stays unknown") {
    known.tsc_khz = 0;
    CHECK(is_zero(get(guest_cpuid(intel(), known), 0x15)));
    CHECK(is_zero(get(guest_cpuid(intel(), known), 0x16)));
  }
  SECTION("a frequency that the leaf cannot hold stays unknown") {
    known.tsc_khz = 5'000'000;
    CHECK(is_zero(get(guest_cpuid(intel(), known), 0x15)));
  }
  SECTION("without the TSC deadline the APIC timer would be taken to run as fast as the TSC") {
    known.tsc_deadline = false;
    CHECK(is_zero(get(guest_cpuid(intel(), known), 0x15)));
  }
}

TEST_CASE("AMD gets no leaves of Intel's") {
  const Entries guest = guest_cpuid(amd(), parameters(0, 1));
  CHECK_FALSE(find(guest, 0x15).has_value());
  CHECK_FALSE(find(guest, 0x16).has_value());
  CHECK(get(guest, 0).eax == 0x10);
}

TEST_CASE("what a microVM must not have is gone, and nothing else") {
  for (const Entries& host : {intel(), amd()}) {
    const Entries guest = guest_cpuid(host, parameters(0, 2));
    const Entry one = get(guest, 1);
    CHECK((one.ecx & (bit(2) | bit(3) | bit(4) | bit(5) | bit(7) | bit(8) | bit(15) | bit(27))) == 0);
    CHECK((one.ecx | bit(2) | bit(3) | bit(4) | bit(5) | bit(7) | bit(8) | bit(15) | bit(27)) == kAll);
    CHECK((one.edx & (bit(21) | bit(22) | bit(29))) == 0);
    CHECK((one.edx | bit(21) | bit(22) | bit(29)) == kAll);

    const Entry seven = get(guest, 7, 0);
    CHECK(seven.eax == 2);
    CHECK(~seven.ebx == (bit(2) | bit(4) | bit(11) | bit(12) | bit(14) | bit(15) | bit(25)));
    CHECK(~seven.ecx == (bit(5) | bit(16) | bit(23) | bit(24) | bit(29) | bit(30)));
    CHECK(~seven.edx == (bit(22) | bit(24) | bit(25)));
    CHECK(~get(guest, 7, 1).eax == bit(21));
    CHECK(~get(guest, 7, 1).edx == bit(8));

    CHECK(get(guest, 6).eax == bit(2));
    CHECK((get(guest, 6).ebx | get(guest, 6).ecx | get(guest, 6).edx) == 0);
    CHECK(is_zero(get(guest, 5)));
    CHECK(is_zero(get(guest, 0xa)));
    CHECK(get(guest, 0xd, 0).eax == 0x2e7);
    CHECK(get(guest, 0xd, 1).eax == 0x1f);
    CHECK(get(guest, 0xd, 2).eax == 0x100);
    CHECK(is_zero(get(guest, 0xd, 17)));
    CHECK(is_zero(get(guest, 0xd, 18)));
    CHECK(get(guest, 0x80000007).edx == bit(8));
    CHECK((get(guest, 0x80000001).ecx & (bit(2) | bit(10) | bit(12) | bit(23) | bit(24) | bit(29))) == 0);
    CHECK((get(guest, 0x80000001).ecx & bit(22)) != 0);
    CHECK(get(guest, 0x80000001).edx == kAll);
  }
  const Entries guest = guest_cpuid(intel(), parameters(0, 2));
  for (const std::uint32_t function : {0x12U, 0x14U, 0x1dU, 0x1eU}) CHECK(is_zero(get(guest, function)));
  const Entries amd_guest = guest_cpuid(amd(), parameters(0, 2));
  for (const std::uint32_t function : {0x8000000aU, 0x8000001fU}) CHECK(is_zero(get(amd_guest, function)));
}

TEST_CASE("nothing in, hardly anything out") {
  const Entries guest = guest_cpuid({}, parameters(0, 1));
  CHECK(guest.size() == 3);  // the hypervisor's leaves
}

}  // namespace mayfly::vmm::x86_64
