// One guest breaks every device in turn, on a KVM as everything else is: registers, rings and doorbells are
// touched by code that runs in the guest. Another guest in the same process reads its disk all the while.
#include <algorithm>
#include <catch2/catch.hpp>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "base/file.h"
#include "base/log.h"
#include "tests/kvm/hostile_guest.h"
#include "tests/support/require_kvm.h"
#include "tests/support/tap.h"
#include "tests/support/tiny_machine.h"

using namespace mayfly;
using namespace mayfly::test;

namespace {

std::string disk_content() {
  std::string content;
  for (std::uint32_t sector = 0; sector < kDiskSectors; ++sector) {
    const base::Le32 word = kDiskPattern + sector;
    for (int i = 0; i < 128; ++i) content.append(reinterpret_cast<const char*>(&word), sizeof(word));
  }
  return content;
}

void add_disk(vmm::VmConfig& config, const TemporaryFolder& folder) {
  vmm::DriveConfig& drive = config.drives.emplace_back();
  drive.block.id = "disk";
  drive.block.path = folder.file("disk", disk_content());
}

// Reads sector after sector, for ever, and says '.' for each that is right, 'X' for the first that is not.
Code honest_work() {
  constexpr GuestQueue kQueue = {
      .index = 0, .size = 8, .table = 0x180000, .available = 0x181000, .used = 0x182000};
  constexpr std::uint32_t kHeader = 0x183000;
  constexpr std::uint32_t kData = 0x184000;
  constexpr std::uint32_t kStatus = 0x185000;
  Code code;
  code.map_devices();
  GuestDriver driver(code, kFirstDevice);
  driver.negotiate(0);
  driver.set_queue(kQueue);
  driver.go();
  driver.descriptor(kQueue.table, 0, kHeader, 16, kNext, 1);
  driver.descriptor(kQueue.table, 1, kData, 512, kNext | kWrite, 2);
  driver.descriptor(kQueue.table, 2, kStatus, 1, kWrite);
  code.mov_esi(0);               // the sector
  code.raw({0xbb, 0, 0, 0, 0});  // mov ebx, 0: the index
  const auto next = code.here();
  driver.poke8(kStatus, 0xee);
  code.mov_edi(kHeader);
  code.raw({0x89, 0x77, 0x08});  // mov [rdi + 8], esi
  code.raw({0xff, 0xc3});        // inc ebx
  code.mov_edi(kQueue.available);
  code.raw({0x66, 0x89, 0x5f, 0x02});  // mov [rdi + 2], bx
  driver.kick(kQueue);
  code.mov_edi(kQueue.used);
  const auto wait = code.here();
  code.load_ax(2);
  code.raw({0x66, 0x39, 0xd8});  // cmp ax, bx
  code.jne(wait);
  code.mov_edi(kStatus);
  code.load_al(0);
  code.cmp_al(0);
  const auto failed = code.jne_ahead();
  code.mov_edi(kData);
  code.mov_ecx(128);
  code.mov_eax(kDiskPattern);
  code.raw({0x01, 0xf0});  // add eax, esi
  const auto compare = code.here();
  code.raw({0x39, 0x07});  // cmp [rdi], eax
  const auto differs = code.jne_ahead();
  code.raw({0x83, 0xc7, 0x04});  // add edi, 4
  code.raw({0xff, 0xc9});        // dec ecx
  code.jne(compare);
  code.say(".");
  code.raw({0xff, 0xc6});                    // inc esi
  code.raw({0x83, 0xe6, kDiskSectors - 1});  // and esi, 63
  code.jmp(next);
  code.land(failed);
  code.land(differs);
  code.say("X");
  code.stop();
  return code;
}

// The machine beside, with a thread and an event loop of its own.
class Neighbour {
 public:
  struct Look {
    std::size_t rounds = 0;
    bool right = false;
  };
  Neighbour() : machine_(honest_work(), [this](vmm::VmConfig& config) { add_disk(config, folder_); }) {
    machine_.start();
    thread_ = std::jthread([this] { static_cast<void>(machine_.loop().run()); });
  }
  ~Neighbour() { machine_.loop().stop(); }
  Neighbour(const Neighbour&) = delete;
  Neighbour& operator=(const Neighbour&) = delete;

  Look look() {
    auto answer = std::make_shared<std::promise<Look>>();
    auto future = answer->get_future();
    machine_.loop().post([this, answer] {
      const std::string& output = machine_.output();
      const bool right = output.find_first_not_of('.') == std::string::npos && !machine_.exit();
      answer->set_value({.rounds = output.size(), .right = right});
    });
    REQUIRE(future.wait_for(std::chrono::seconds(120)) == std::future_status::ready);
    return future.get();
  }

 private:
  TemporaryFolder folder_;
  TinyMachine machine_;
  std::jthread thread_;
};

struct Plan {
  Target target;
  Attack attack;
};

// Every attack on every device that there is, in the order of their slots.
std::vector<Plan> all_attacks(bool with_net) {
  std::vector<Plan> plans;
  std::uint32_t slot = 0;
  const auto add = [&](Target target, const std::vector<std::vector<Attack>>& lists) {
    target.slot = slot++;
    for (const auto& list : lists) {
      for (Attack attack : list) {
        attack.name = std::string(target.name) + ": " + attack.name;
        plans.push_back({target, std::move(attack)});
      }
    }
  };
  const auto queues = queue_attacks();
  const auto layouts = layout_attacks();
  const auto transport = transport_attacks();
  add(kBlockTarget, {queues, layouts, transport, block_attacks(), {change_attack()}});
  if (with_net) add(kNetTarget, {queues, layouts, transport, net_attacks()});
  add(kVsockTarget, {queues, layouts, transport, vsock_attacks()});
  return plans;
}

Code hostile_code(const std::vector<Plan>& plans) {
  Code code;
  code.out(0x3fa, 0x01);  // FIFO on
  code.out(0x3fc, 0x03);  // DTR, RTS
  code.map_devices();
  for (const Plan& plan : plans) HostileGuest(code, plan.target).perform(plan.attack);
  code.reset();
  code.stop();
  return code;
}

// The log of errors (ours, not the guest's) goes to a file while this lives.
class ErrorLog {
 public:
  explicit ErrorLog(const std::string& path) : path_(path) { configure(path, base::log::Level::kError); }
  ~ErrorLog() { configure("", base::log::Level::kWarning); }
  ErrorLog(const ErrorLog&) = delete;
  ErrorLog& operator=(const ErrorLog&) = delete;
  [[nodiscard]] std::string text() const { return base::read_file(path_).value(); }

 private:
  static void configure(const std::string& path, base::log::Level level) {
    base::log::Options options;
    options.path = path;
    options.level = level;
    static_cast<void>(base::log::configure(options));
  }
  std::string path_;
};

// Whether the guest has said what failed, whole.
bool has_failed(const TinyMachine& machine) {
  const std::size_t word = machine.output().find("FAILED: ");
  return word != std::string::npos && machine.output().find('\n', word) != std::string::npos;
}

// Runs the hostile machine until `done`, or it says that something failed, or ends.
void run_until(TinyMachine& machine, const std::string& name, const std::function<bool()>& done) {
  INFO(name);
  machine.run_until([&] { return machine.exit() || has_failed(machine) || done(); });
  INFO(machine.output());
  REQUIRE_FALSE(machine.exit());
  REQUIRE_FALSE(has_failed(machine));
}

// Until the machine beside has done some more, which must be right.
void neighbour_works_on(TinyMachine& machine, Neighbour& neighbour, const std::string& name,
                        std::size_t rounds) {
  auto look = neighbour.look();
  const std::size_t before = look.rounds;
  run_until(machine, name, [&] {
    look = neighbour.look();
    return !look.right || look.rounds >= before + rounds;
  });
  INFO(name);
  REQUIRE(look.right);
}

}  // namespace

TEST_CASE("a guest that breaks every device in turn, and one beside it that works on") {
  if (!have_kvm()) return;
  const bool with_net = in_own_network();
  std::optional<Tap> tap;
  std::optional<Host> host;
  if (with_net) {
    tap.emplace("mfhostile");
    set_up("mfhostile", true);
    host.emplace("mfhostile");
  }
  const auto plans = all_attacks(with_net);
  TemporaryFolder folder;
  const ErrorLog errors(folder.path("errors"));
  Neighbour neighbour;
  TinyMachine machine(hostile_code(plans), [&](vmm::VmConfig& config) {
    config.machine.vcpu_count = 2;
    config.machine.mem_size_mib = kHostileMemoryMib;
    add_disk(config, folder);
    if (with_net) {
      config.network_interfaces.push_back(
          {.id = "eth0", .tap = "mfhostile", .mac = {0x02, 0xfe, 1, 2, 3, 4}});
    }
    config.vsock = {.guest_cid = 3, .uds_path = folder.path("vsock")};
  });
  machine.start();
  for (const Plan& plan : plans) {
    const std::string& name = plan.attack.name;
    if (plan.attack.until_told) {
      const std::size_t before = machine.output().size();
      run_until(machine, name, [&] { return machine.output().size() >= before + 16; });
      neighbour_works_on(machine, neighbour, name, 32);
      machine.type("g");
    }
    run_until(machine, name, [&] { return machine.output().find(name + "\n") != std::string::npos; });
    neighbour_works_on(machine, neighbour, name, 2);
    machine.type("g");
  }
  CHECK(machine.run_to_end().reason == vmm::ExitReason::kReset);
  CHECK(neighbour.look().right);
  CHECK(errors.text().empty());
  if (!with_net) return;
  // What left the guest is what it may send, and nothing else.
  std::size_t frames = 0;
  for (; !host->nothing(); ++frames) {
    const auto frame = host->take();
    REQUIRE(frame.size() == 60);
    CHECK(frame[11] == std::byte{4});
    CHECK(frame.back() == std::byte{'g'});
  }
  const auto attempts =
      std::ranges::count_if(plans, [](const Plan& plan) { return plan.target.name == kNetTarget.name; });
  CHECK(frames >= static_cast<std::size_t>(attempts));
}
