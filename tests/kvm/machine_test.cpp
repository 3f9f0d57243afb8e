// Whole machines around a few instructions each.
#include <catch2/catch.hpp>

#include "base/file.h"
#include "base/log.h"
#include "tests/support/require_kvm.h"
#include "tests/support/tiny_machine.h"
#include "vmm/x86_64/layout.h"

using namespace mayfly;
using namespace mayfly::test;
using vmm::ExitReason;
namespace layout = vmm::x86_64;

namespace {

// Says 'y' when AL is `expected`, else 'n'.
void verdict(Code& code, std::uint8_t expected) {
  code.cmp_al(expected);
  const auto no = code.jne_ahead();
  code.say("y");
  code.raw({0xeb, 0x07});  // jmp +7, over the other answer
  code.land(no);
  code.say("n");  // seven bytes
}

}  // namespace

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

TEST_CASE("a guest echoes its input, polling") {
  if (!have_kvm()) return;
  Code code;
  code.out(0x3fa, 0x01);  // FIFO on
  code.out(0x3fc, 0x03);  // DTR, RTS
  const auto wait = code.here();
  code.in_al(0x3fd);
  code.test_al(0x01);
  code.je(wait);
  code.in_al(0x3f8);
  code.say_al();
  code.cmp_al('.');
  code.jne(wait);
  code.reset();
  code.stop();
  TinyMachine machine(code);
  machine.start();
  machine.type("some text, longer than the sixteen bytes of a FIFO.");
  CHECK(machine.run_to_end().reason == ExitReason::kReset);
  CHECK(machine.output() == "some text, longer than the sixteen bytes of a FIFO.");
}

TEST_CASE("unmapped memory and ports read as all ones and swallow writes") {
  if (!have_kvm()) return;
  Code code;
  code.map_devices();
  code.mov_edi(0xd0000000);
  code.load_al(0);
  verdict(code, 0xff);
  code.store32(0, 1);
  code.in_al(0x1234);
  verdict(code, 0xff);
  code.out(0x1234, 7);
  code.say(".");
  code.reset();
  code.stop();
  TinyMachine machine(code);
  machine.start();
  CHECK(machine.run_to_end().reason == ExitReason::kReset);
  CHECK(machine.output() == "yy.");
}

TEST_CASE("a reset with the warm-reset flag is a panic") {
  if (!have_kvm()) return;
  Code code;
  code.mov_edi(0x472);
  code.store16(0, layout::kBiosWarmReset);
  code.reset();
  code.stop();
  TinyMachine machine(code);
  machine.start();
  CHECK(machine.run_to_end().reason == ExitReason::kGuestPanic);
}

TEST_CASE("a triple fault ends the machine") {
  if (!have_kvm()) return;
  Code code;
  code.ud2();  // there is no IDT
  TinyMachine machine(code);
  machine.start();
  CHECK(machine.run_to_end().reason == ExitReason::kTripleFault);
  CHECK(machine->state() == vmm::State::kEnded);
}

TEST_CASE("an end is told once, and nothing can be done after it") {
  if (!have_kvm()) return;
  Code code;
  const auto again = code.here();
  code.reset();
  code.jmp(again);
  TinyMachine machine(code);
  CHECK_FALSE(machine->pause().has_value());
  CHECK_FALSE(machine->resume().has_value());
  CHECK_FALSE(machine->send_ctrl_alt_del().has_value());
  machine.start();
  CHECK_FALSE(machine->start().has_value());
  machine.run_to_end();
  CHECK_FALSE(machine->pause().has_value());
  CHECK_FALSE(machine->resume().has_value());
  CHECK_FALSE(machine->send_ctrl_alt_del().has_value());
}

TEST_CASE("a machine that runs, waits, halts or never started can be destroyed") {
  if (!have_kvm()) return;
  Code busy;
  busy.say("!");
  const auto again = busy.here();
  busy.jmp(again);
  Code halted;
  halted.say("!");
  halted.stop();
  for (const Code* code : {&busy, &halted}) {
    TinyMachine machine(*code, [](vmm::VmConfig& config) { config.machine.vcpu_count = 2; });
    machine.start();
    machine.run_until_output("!");
    machine.destroy();
    CHECK_FALSE(machine.exit());
  }
  TinyMachine paused(busy);
  paused.start();
  paused.run_until_output("!");
  REQUIRE(paused->pause().has_value());
  paused.destroy();
  TinyMachine never(busy);
  never.destroy();
}

TEST_CASE("a machine destroyed between its guest's end and the news of it tells nobody") {
  if (!have_kvm()) return;
  Code code;
  code.reset();
  code.stop();
  TinyMachine machine(code);
  machine.start();
  // No event loop runs; pausing waits until the guest has ended or is parked.
  while (machine->pause().has_value()) REQUIRE(machine->resume().has_value());
  machine.destroy();
  machine.run_for(std::chrono::milliseconds(10));
  CHECK_FALSE(machine.exit());
}

TEST_CASE("a paused guest stands still and then goes on where it was") {
  if (!have_kvm()) return;
  Code code;
  // The bytes 0, 1, 2, … to the serial port, for ever, whenever it takes them.
  code.mov_ecx(0);
  const auto wait = code.here();
  code.in_al(0x3fd);
  code.test_al(0x20);
  code.je(wait);
  code.raw({0x88, 0xc8});  // mov al, cl
  code.say_al();
  code.raw({0xff, 0xc1});  // inc ecx
  code.jmp(wait);
  TinyMachine machine(code);
  machine.start();
  std::size_t before = 0;
  for (int i = 0; i < 20; ++i) {
    machine.run_until([&] { return machine.output().size() > before; });
    REQUIRE(machine->pause().has_value());
    CHECK(machine->state() == vmm::State::kPaused);
    CHECK_FALSE(machine->pause().has_value());
    machine.run_for(std::chrono::milliseconds(2));
    before = machine.output().size();
    machine.run_for(std::chrono::milliseconds(5));
    CHECK(machine.output().size() == before);
    REQUIRE(machine->resume().has_value());
  }
  bool in_order = true;
  for (std::size_t i = 0; i < machine.output().size(); ++i) {
    in_order = in_order && static_cast<std::uint8_t>(machine.output()[i]) == i % 256;
  }
  CHECK(in_order);
}

TEST_CASE("Ctrl-Alt-Del reaches the guest as scan codes") {
  if (!have_kvm()) return;
  Code code;
  code.say("!");
  const auto wait = code.here();
  code.in_al(0x64);
  code.test_al(0x01);
  code.je(wait);
  code.in_al(0x60);
  code.cmp_al(0x53);  // Del
  code.jne(wait);
  code.reset();
  code.stop();
  TinyMachine machine(code);
  machine.start();
  machine.run_until_output("!");
  REQUIRE(machine->send_ctrl_alt_del().has_value());
  CHECK(machine.run_to_end().reason == ExitReason::kReset);
}

TEST_CASE("the boot timer's page is there when asked for") {
  if (!have_kvm()) return;
  Code code;
  code.map_devices();
  code.mov_edi(0xc0000000);
  code.load_al(0);
  verdict(code, 0);
  code.store8(0, 123);
  code.reset();
  code.stop();
  for (const bool asked : {true, false}) {
    TinyMachine machine(code, [&](vmm::VmConfig& config) { config.boot_timer = asked; });
    const std::string log = machine.folder().path("log");
    base::log::Options options;
    options.path = log;
    REQUIRE(base::log::configure(options).has_value());
    machine.start();
    CHECK(machine.run_to_end().reason == ExitReason::kReset);
    options.path.clear();
    options.level = base::log::Level::kWarning;
    REQUIRE(base::log::configure(options).has_value());
    CHECK(machine.output() == (asked ? "y" : "n"));
    const auto text = base::read_file(log);
    REQUIRE(text.has_value());
    CHECK((text->find("Guest-boot-time = ") != std::string::npos) == asked);
  }
}

TEST_CASE("64 GiB of memory, used on both sides of the gap") {
  if (!have_kvm()) return;
  Code code;
  // The last of them is at 64 GiB, since the gap takes one.
  code.map(0x1'4000'0000ULL, 0x10'3fe0'0000ULL);
  code.mov_rdi(0x1'4000'0000ULL + 0x1f'fffcULL);
  code.store32(0, 0x12345678);
  code.load_al(3);
  verdict(code, 0x12);
  code.map(0x8000'0000ULL, 0xbfe0'0000ULL);
  code.mov_edi(0x801ffffc);
  code.store32(0, 0x9abcdef0);
  code.load_al(3);
  verdict(code, 0x9a);
  code.reset();
  code.stop();
  TinyMachine machine(code, [](vmm::VmConfig& config) { config.machine.mem_size_mib = 64 * 1024; });
  machine.start();
  const auto exit = machine.run_to_end();
  INFO(exit.detail);
  CHECK(exit.reason == ExitReason::kReset);
  CHECK(machine.output() == "yy");
}

TEST_CASE("a second vCPU starts by INIT and SIPI, and either may end the machine") {
  if (!have_kvm()) return;
  const std::vector<std::uint8_t> second = {
      0xba, 0xf8, 0x03,  // mov dx, 0x3f8 (16-bit code at 0x8000)
      0xb0, '2',         // mov al, '2'
      0xee,              // out dx, al
      0xba, 0x64, 0x00,  // mov dx, 0x64
      0xb0, 0xfe,        // mov al, 0xfe
      0xee,              // out dx, al: reset
      0xf4,              // hlt
      0xeb, 0xfd,        // jmp to the hlt
  };
  Code code;
  code.say("1");
  code.place(0x8000, second);
  code.map_devices();
  code.mov_edi(0xfee00000);
  code.store32(0xf0, 0x1ff);       // spurious interrupt vector: the APIC is on
  code.store32(0x310, 1U << 24U);  // to APIC 1:
  code.store32(0x300, 0x4500);     // INIT
  code.store32(0x310, 1U << 24U);
  code.store32(0x300, 0x4608);  // start-up at 0x8000
  code.stop();
  TinyMachine machine(code, [](vmm::VmConfig& config) { config.machine.vcpu_count = 4; });
  machine.start();
  CHECK(machine.run_to_end().reason == ExitReason::kReset);
  CHECK(machine.output() == "12");
}

TEST_CASE("what no machine can be made from is refused in one line") {
  if (!have_kvm()) return;
  Code code;
  code.reset();
  auto loop = base::EventLoop::create();
  REQUIRE(loop.has_value());
  TemporaryFolder folder;
  vmm::VmConfig config;
  config.boot.kernel_image_path = folder.file("kernel", elf_of(code));
  std::string expected;
  SECTION("no kernel") {
    config.boot.kernel_image_path = folder.path("missing");
    expected = "No such file or directory";
  }
  SECTION("a broken kernel") {
    config.boot.kernel_image_path = folder.file("broken", "not a kernel");
    expected = "broken";
  }
  SECTION("no initrd") {
    config.boot.initrd_path = folder.path("missing");
    expected = "missing";
  }
  SECTION("no drive") {
    config.drives.emplace_back().block.path = folder.path("missing");
    expected = "missing";
  }
  SECTION("no vCPU") {
    config.machine.vcpu_count = 0;
    expected = "1-32";
  }
  SECTION("too little memory for the kernel") {
    config.machine.mem_size_mib = 1;
    expected = "memory";
  }
  const auto machine = vmm::Machine::create(config, **loop, [](const vmm::Exit&) {});
  REQUIRE_FALSE(machine.has_value());
  INFO(machine.error().message);
  CHECK(machine.error().message.find(expected) != std::string::npos);
  CHECK(machine.error().message.find('\n') == std::string::npos);
}
