// Whole machines around a few instructions each.
#include <catch2/catch.hpp>

#include "tests/support/require_kvm.h"
#include "tests/support/tiny_machine.h"

using namespace mayfly;
using namespace mayfly::test;
using vmm::ExitReason;

TEST_CASE("a guest writes to the serial port and resets") {
  if (!have_kvm()) return;
  Code code;
  code.say("hello");
  code.reset();
  code.stop();
  TinyMachine machine(code);
  CHECK(machine->state() == vmm::State::kNotStarted);
  machine.start();
  CHECK(machine.run_to_end().reason == ExitReason::kReset);
  CHECK(machine.output() == "hello");
  CHECK(machine->state() == vmm::State::kEnded);
}
