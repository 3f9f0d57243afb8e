// For tests that need /dev/kvm.
#pragma once

#include <catch2/catch.hpp>
#include <cstdlib>
#include <iostream>

#include "vmm/kvm.h"

namespace mayfly::test {

// Whether the test can go on. Without KVM it is skipped with the reason, except in continuous integration
// (CI is set), where it fails: a suite that tests nothing must not look green.
inline bool have_kvm() {
  static const base::Status status = [] {
    auto kvm = vmm::Kvm::open();
    return kvm ? base::Status{} : base::Status(std::unexpected(kvm.error()));
  }();
  if (status) return true;
  if (std::getenv("CI") != nullptr) FAIL("CI is set and there is no KVM: " << status.error().message);
  std::cerr << "SKIPPED: " << status.error().message << '\n';
  return false;
}

}  // namespace mayfly::test
