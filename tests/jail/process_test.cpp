// The child that becomes the VMM, and what its jailer and it wait for.
#include "jailer/process.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "tests/support/pipe.h"

using namespace mayfly;
using namespace mayfly::test;

namespace {

// A child that says "x" where it would execute the VMM. Its end closes its report, as execve(2) does.
base::Result<jailer::Child> start(const Pipe& said) {
  return jailer::start_child(false, -1, [&said](const jailer::Report& report) {
    if (const auto asked = report.about_to_execute(); !asked) ::_exit(9);
    ::_exit(::write(said.write.get(), "x", 1) == 1 ? 0 : 8);
  });
}

int end_of(const jailer::Child& child) {
  int status = 0;
  REQUIRE(::waitpid(child.pid, &status, 0) == child.pid);
  REQUIRE(WIFEXITED(status));
  return WEXITSTATUS(status);
}

bool has_said(const Pipe& said, int wait_ms) {
  pollfd ready{.fd = said.read.get(), .events = POLLIN, .revents = 0};
  return ::poll(&ready, 1, wait_ms) == 1;
}

}  // namespace

TEST_CASE("the child executes the VMM when its jailer says so, not before") {
  const Pipe said;
  const auto child = start(said);
  REQUIRE(child.has_value());
  CHECK_FALSE(has_said(said, 50));
  jailer::allow_to_execute(*child);
  CHECK(jailer::wait_until_executed(*child).has_value());
  CHECK(has_said(said, 0));
  CHECK(end_of(*child) == 0);
}

TEST_CASE("without its jailer the child does not become a VMM") {
  const Pipe said;
  auto child = start(said);
  REQUIRE(child.has_value());
  child->report.reset();
  CHECK(end_of(*child) == 9);
  CHECK_FALSE(has_said(said, 0));
}

TEST_CASE("a child that was killed on its way is an error, allowed or not") {
  const bool allowed = GENERATE(false, true);
  const auto child = jailer::start_child(false, -1, [](const jailer::Report&) { ::raise(SIGKILL); });
  REQUIRE(child.has_value());
  if (allowed) jailer::allow_to_execute(*child);
  const auto executed = jailer::wait_until_executed(*child);
  REQUIRE_FALSE(executed.has_value());
  CHECK(executed.error().message.find("was killed") != std::string::npos);
}
