// Policies held against a record of calls.
#include "jailer/seccomp/audit.h"

#include <catch2/catch.hpp>

using namespace mayfly::jailer::seccomp;
using Catch::Contains;

namespace {

const std::vector<Policy>& policies() {
  static const std::vector<Policy> two = {
      parse_policy("thread vcpu\nat-most 9\nioctl request == KVM_RUN : a\nwrite : b\nexit : rare: c\n", "v")
          .value(),
      parse_policy("thread vmm\nat-most 9\nread : a\n", "m").value()};
  return two;
}

std::string entered(const std::string& task, const std::string& call, const std::string& arguments) {
  return "           " + task + "    [001] .....    12.345678: sys_enter: NR " + call + " (" + arguments +
         ")\n";
}
const std::string kInstall = "317";

}  // namespace

TEST_CASE("audit: all is used and nothing else") {
  Audit audit(policies());
  audit.add("# tracer: nop\n");
  audit.add(entered("vcpu0-12", "59", "1, 2, 3, 4, 5, 6"));  // before the filter: nobody's affair
  audit.add(entered("vcpu0-12", kInstall, "1, 0, 7f00, 0, 0, 0"));
  audit.add(entered("vcpu0-12", "16", "d, ae80, 0, 0, 0, 0"));
  audit.add(entered("vcpu31-13", kInstall, "1, 0, 7f00, 0, 0, 0"));
  audit.add(entered("vcpu31-13", "1", "d, ae80, 0, 0, 0, 0"));
  audit.add(entered("mayfly-9", "59", "1, 2, 3, 4, 5, 6"));
  CHECK_FALSE(audit.clean());
  audit.add(entered("vmm-11", kInstall, "1, 0, 7f00, 0, 0, 0"));
  audit.add(entered("vmm-11", "0", "1, 0, 7f00, 0, 0, 0"));
  CHECK(audit.clean());
  CHECK_THAT(audit.report(), Contains("every rule is of use, and nothing was refused") &&
                                 Contains("v:3: ioctl request == KVM_RUN") && Contains("rare") &&
                                 !Contains("UNUSED") && !Contains("REFUSED"));
}

TEST_CASE("audit: findings") {
  Audit audit(policies());
  audit.add(entered("vcpu0-12", kInstall, "1, 0, 7f00, 0, 0, 0"));
  audit.add(entered("vcpu0-12", "16", "d, 5412, 0, 0, 0, 0"));
  audit.add(entered("vcpu0-12", "1", "d, 5412, 0, 0, 0, 0"));
  CHECK_FALSE(audit.clean());
  CHECK_THAT(audit.report(), Contains("REFUSED        1  ioctl(0xd, 0x5412, 0x0, 0x0, 0x0, 0x0)") &&
                                 Contains("UNUSED         0  v:3: ioctl request == KVM_RUN") &&
                                 Contains("used           1  v:4: write") && Contains("there are findings"));
}

TEST_CASE("audit: a thread's number may be another's later") {
  Audit audit(policies());
  audit.add(entered("vcpu0-12", kInstall, "1, 0, 7f00, 0, 0, 0"));
  audit.add(entered("vcpu0-12", "60", "0, 0, 0, 0, 0, 0"));  // exit
  audit.add(entered("vcpu0-12", "59", "1, 2, 3, 4, 5, 6"));
  CHECK_THAT(audit.report(), !Contains("REFUSED"));
}

TEST_CASE("audit: a record with gaps proves nothing") {
  Audit audit(std::span<const Policy>{});
  CHECK(audit.clean());
  audit.add("CPU:0 [LOST 4711 EVENTS]\n");
  CHECK_FALSE(audit.clean());
}
