// Policies as texts: what is one, and that ours keep to the limits.
#include "jailer/seccomp/policy.h"

#include <sys/mman.h>

#include <array>
#include <catch2/catch.hpp>

#include "base/file.h"
#include "jailer/seccomp/filter_file.h"

using namespace mayfly;
using namespace mayfly::jailer::seccomp;

namespace {

std::string fault(const std::string& text) {
  const auto policy = parse_policy(text, "x.policy");
  return policy ? "none" : policy.error().message;
}

std::string fault_of_rules(const std::string& rules) {
  return fault("thread vcpu\nat-most 3\n" + rules);
}

}  // namespace

TEST_CASE("policy: a text becomes rules, in its order") {
  const auto policy = parse_policy(
      "# what a thread may\n\nthread  api\n\tat-most 3\n"
      "read : reads\r\n"
      "mmap prot == PROT_READ|PROT_WRITE and fd == -1 : memory\n"
      "mmap  prot & PROT_EXEC == 0 and flags == 0x22 :  rare: other memory : and more",
      "some.policy");
  REQUIRE(policy);
  CHECK(policy->thread == "api");
  CHECK(policy->at_most == 3);
  REQUIRE(policy->rules.size() == 3);
  CHECK(policy->calls() == 2);
  CHECK(policy->rules[0].call == "read");
  CHECK(policy->rules[0].conditions.empty());
  CHECK(policy->rules[0].reason == "reads");
  CHECK_FALSE(policy->rules[0].rare);
  const Rule& exact = policy->rules[1];
  CHECK(exact.line == 6);
  CHECK(exact.text == "mmap prot == PROT_READ|PROT_WRITE and fd == -1");
  REQUIRE(exact.conditions.size() == 2);
  CHECK(exact.conditions[0].argument == 2);
  CHECK(exact.conditions[0].mask == UINT64_MAX);
  CHECK(exact.conditions[0].value == (PROT_READ | PROT_WRITE));
  CHECK(exact.conditions[1].argument == 4);
  CHECK(exact.conditions[1].mask == UINT32_MAX);
  CHECK(exact.conditions[1].value == UINT32_MAX);
  const Rule& masked = policy->rules[2];
  CHECK(masked.rare);
  CHECK(masked.reason == "rare: other memory : and more");
  CHECK(masked.conditions[0].mask == PROT_EXEC);
  CHECK(masked.conditions[0].value == 0);
}

TEST_CASE("policy: a rule allows what meets all its conditions") {
  const auto policy = parse_policy(
      "thread vmm\nat-most 9\nmmap prot & PROT_EXEC == 0 and fd == -1 : a\ntgkill tgid == OWN-PROCESS : b\n",
      "p");
  REQUIRE(policy);
  const Rule& rule = policy->rules[0];
  // A descriptor is an int, whatever the upper half of the register holds.
  CHECK(rule.allows(std::array<std::uint64_t, 6>{0, 4096, PROT_READ, 0, UINT32_MAX, 0}));
  CHECK(rule.allows(std::array<std::uint64_t, 6>{0, 4096, PROT_READ, 0, UINT64_MAX, 0}));
  CHECK_FALSE(rule.allows(std::array<std::uint64_t, 6>{0, 4096, PROT_READ, 0, 3, 0}));
  CHECK_FALSE(rule.allows(std::array<std::uint64_t, 6>{0, 4096, PROT_READ | PROT_EXEC, 0, UINT32_MAX, 0}));
  CHECK(policy->rules[1].conditions[0].own_process);
}

TEST_CASE("policy: an error names file and line") {
  CHECK(fault_of_rules("read : a reason\nreed : a reason\n") ==
        "x.policy:4: there is no system call \"reed\"");
  CHECK(fault_of_rules("\n# nothing\nread\n") ==
        "x.policy:5: a rule has a reason, after a colon with blanks around it");
  CHECK(fault_of_rules("read :\n") == "x.policy:3: a rule has a reason, after a colon with blanks around it");
  CHECK(fault_of_rules("read :  \t\n") ==
        "x.policy:3: a rule has a reason, after a colon with blanks around it");
  CHECK(fault_of_rules("ioctl request == KVM_RUM : x") ==
        "x.policy:3: \"KVM_RUM\" is neither a number nor a constant that is known here");
  CHECK(fault_of_rules("ioctl request == KVM_RUN| : x") ==
        "x.policy:3: \"\" is neither a number nor a constant that is known here");
  CHECK(fault_of_rules("ioctl request == 0x : x") ==
        "x.policy:3: \"0x\" is neither a number nor a constant that is known here");
  CHECK(fault_of_rules("ioctl command == KVM_RUN : x") ==
        "x.policy:3: ioctl has no argument \"command\" that is known here");
  CHECK(fault_of_rules("ioctl request = KVM_RUN : x") ==
        "x.policy:3: a condition is \"ARGUMENT == VALUE\" or \"ARGUMENT & MASK == VALUE\"");
  CHECK(fault_of_rules("ioctl request == : x") ==
        "x.policy:3: a condition is \"ARGUMENT == VALUE\" or \"ARGUMENT & MASK == VALUE\"");
  CHECK(fault_of_rules("ioctl request == KVM_RUN and : x") == "x.policy:3: nothing follows the last \"and\"");
  CHECK(fault_of_rules("mmap prot & PROT_EXEC == PROT_READ : x") ==
        "x.policy:3: no value can be PROT_READ there");
  CHECK(fault_of_rules("mmap prot == 1 and prot == 2 : x") ==
        "x.policy:3: two conditions on one argument: put them into one mask");
}

TEST_CASE("policy: what another line says already is refused") {
  CHECK(fault_of_rules("read : a\nwrite : b\nread : c\n") == "x.policy:5: line 3 says the same");
  CHECK(fault_of_rules("mmap prot == 1 and flags == 2 : a\nmmap flags == 2 and prot == PROT_READ : b\n") ==
        "x.policy:4: line 3 says the same");
  CHECK(fault_of_rules("ioctl request == KVM_RUN : a\nioctl : b\n") ==
        "x.policy:4: ioctl is allowed without any condition as well, in line 4: one of the two is of no use");
  CHECK(fault_of_rules("ioctl : b\nioctl request == KVM_RUN : a\n") ==
        "x.policy:4: ioctl is allowed without any condition as well, in line 3: one of the two is of no use");
}

TEST_CASE("policy: it says for which thread it is, and keeps to its limit") {
  CHECK(fault("at-most 3\nread : x\n") == "x.policy: no line says for which thread it is");
  CHECK(fault("thread vmm\nread : x\n") == "x.policy: no line says how many calls there may be (at-most)");
  CHECK(fault("thread vmm\nat-most 3\n") == "x.policy: it allows nothing");
  CHECK(fault("") == "x.policy: no line says for which thread it is");
  CHECK(fault("thread main\n") == "x.policy:1: no thread is called \"main\"; there are vmm, api and vcpu");
  CHECK(fault("thread vmm\nthread api\n") == "x.policy:2: the thread was named already");
  CHECK(fault("thread\n") == "x.policy:1: thread is followed by one word");
  CHECK(fault("at-most 0\n") == "x.policy:1: at-most is followed by a number from 1 to 500");
  CHECK(fault("at-most many\n") == "x.policy:1: at-most is followed by a number from 1 to 500");
  CHECK(fault("at-most 3\nat-most 3\n") == "x.policy:2: the number of calls was limited already");
  CHECK(fault_of_rules("read : a\nwrite : a\nclose : a\nioctl request == 1 : a\nioctl request == 2 : a\n") ==
        "x.policy: it allows 4 system calls, and 3 at most are wanted");
}

// The promise in numbers; a policy's own at-most can only be lower.
TEST_CASE("policy: mayfly's allow at most 15, 24 and 32 system calls") {
  for (const auto& [thread, most] : {std::pair{"vcpu", 15U}, std::pair{"api", 24U}, std::pair{"vmm", 32U}}) {
    const std::string path = std::string(MAYFLY_POLICIES "/") + thread + ".policy";
    const auto policy = parse_policy(base::read_file(path).value(), path);
    INFO((policy ? "" : policy.error().message));
    REQUIRE(policy);
    CHECK(policy->thread == thread);
    CHECK(policy->calls() <= most);
    CHECK(policy->at_most <= most);
    // None that could be used for another end than the reason's by choosing its arguments.
    for (const Rule& rule : policy->rules) {
      CHECK(rule.reason.size() > 3);
      for (const char* call : {"ioctl", "mmap", "socket", "openat", "fcntl", "tgkill", "futex", "madvise",
                               "io_uring_register", "accept4"}) {
        if (rule.call == call) CHECK_FALSE(rule.conditions.empty());
      }
      for (const char* call : {"mprotect", "clone", "clone3", "fork", "vfork", "execve", "execveat", "ptrace",
                               "prctl", "seccomp", "io_uring_setup", "rt_sigaction", "kill", "open", "rename",
                               "bind", "listen", "unshare", "setns"}) {
        CHECK(rule.call != call);
      }
    }
  }
}
