#include "tests/support/tiny_machine.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <csignal>
#include <cstring>
#include <utility>

#include "base/file.h"

namespace mayfly::test {

namespace {
// Only a hang gets here.
constexpr auto kDeadline = std::chrono::seconds(120);

std::pair<base::UniqueFd, base::UniqueFd> make_pipe() {
  std::array<int, 2> ends{};
  REQUIRE(::pipe2(ends.data(), O_CLOEXEC) == 0);
  return {base::UniqueFd(ends[0]), base::UniqueFd(ends[1])};
}
}  // namespace

std::string elf_of(const Code& code) {
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = ET_EXEC;
  header.e_machine = EM_X86_64;
  header.e_version = EV_CURRENT;
  header.e_entry = kCodeAddress;
  header.e_phoff = sizeof(Elf64_Ehdr);
  header.e_ehsize = sizeof(Elf64_Ehdr);
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = 1;
  Elf64_Phdr segment{};
  segment.p_type = PT_LOAD;
  segment.p_flags = PF_R | PF_X;
  segment.p_offset = sizeof(header) + sizeof(segment);
  segment.p_vaddr = kCodeAddress;
  segment.p_paddr = kCodeAddress;
  segment.p_filesz = code.bytes().size();
  segment.p_memsz = code.bytes().size();
  segment.p_align = 1;
  std::string elf(sizeof(header) + sizeof(segment), '\0');
  std::memcpy(elf.data(), &header, sizeof(header));
  std::memcpy(elf.data() + sizeof(header), &segment, sizeof(segment));
  elf.append(code.bytes().begin(), code.bytes().end());
  return elf;
}

TinyMachine::TinyMachine(const Code& code, const std::function<void(vmm::VmConfig&)>& change) {
  ::signal(SIGPIPE, SIG_IGN);
  auto loop = base::EventLoop::create();
  REQUIRE(loop.has_value());
  loop_ = std::move(*loop);
  std::tie(output_read_, output_write_) = make_pipe();
  std::tie(input_read_, input_write_) = make_pipe();
  REQUIRE(::fcntl(output_read_.get(), F_SETFL, O_NONBLOCK) == 0);
  REQUIRE(loop_->add(output_read_.get(), EPOLLIN, [this](std::uint32_t) { read_output(); }).has_value());

  vmm::VmConfig config;
  config.boot.kernel_image_path = folder_.file("kernel", elf_of(code));
  config.boot.boot_args = "";
  config.machine.mem_size_mib = 4;
  config.console = {.input = input_read_.get(), .output = output_write_.get()};
  if (change) change(config);
  auto machine = vmm::Machine::create(config, *loop_, [this](const vmm::Exit& exit) { exit_ = exit; });
  INFO((machine ? std::string("created") : machine.error().message));
  REQUIRE(machine.has_value());
  machine_ = std::move(*machine);
}

void TinyMachine::read_output() {
  std::array<char, 4096> buffer{};
  for (;;) {
    const ssize_t n = ::read(output_read_.get(), buffer.data(), buffer.size());
    if (n <= 0) return;
    output_.append(buffer.data(), static_cast<std::size_t>(n));
  }
}

void TinyMachine::start() {
  REQUIRE(machine_->start().has_value());
}

void TinyMachine::run_until(std::function<bool()> done) {
  bool late = false;
  auto deadline = base::Timer::create(*loop_, [&] { late = true; });
  REQUIRE(deadline.has_value());
  (*deadline)->set(kDeadline);
  // Looked at every now and then: what is waited for need not be an event of this loop.
  std::unique_ptr<base::Timer> look;
  auto timer = base::Timer::create(*loop_, [&] {
    if (done() || late) {
      loop_->stop();
    } else {
      look->set(std::chrono::milliseconds(2));
    }
  });
  REQUIRE(timer.has_value());
  look = std::move(*timer);
  look->set({});
  REQUIRE(loop_->run().has_value());
  read_output();
  INFO("output so far: " << output_);
  REQUIRE_FALSE(late);
}

vmm::Exit TinyMachine::run_to_end() {
  run_until([this] { return exit_.has_value(); });
  return *exit_;
}

void TinyMachine::run_until_output(std::string_view text) {
  run_until([this, text] {
    INFO("output so far: " << output_ << ", exit: " << (exit_ ? exit_->detail : "none"));
    if (output_.find(text) != std::string::npos) return true;
    REQUIRE_FALSE(exit_.has_value());
    return false;
  });
}

void TinyMachine::run_for(std::chrono::milliseconds time) {
  const auto end = std::chrono::steady_clock::now() + time;
  run_until([end] { return std::chrono::steady_clock::now() >= end; });
}

void TinyMachine::type(std::string_view text) {
  REQUIRE(base::write_all(input_write_.get(), text).has_value());
}

}  // namespace mayfly::test
