// A whole Machine around a few instructions.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/event_loop.h"
#include "base/unique_fd.h"
#include "tests/support/guest_code.h"
#include "tests/support/temporary_folder.h"
#include "vmm/machine.h"

namespace mayfly::test {

// An ELF64 executable with one segment, `code`, loaded and entered at 1 MiB in 64-bit mode with the low
// memory mapped one to one.
inline constexpr std::uint64_t kCodeAddress = 0x100000;
std::string elf_of(const Code& code);

// The machine, its event loop, and both ends of its console. Everything happens in the run functions, on the
// calling thread.
class TinyMachine {
 public:
  // Fails the test where the machine cannot be made. `change` may alter the configuration before.
  explicit TinyMachine(const Code& code, const std::function<void(vmm::VmConfig&)>& change = {});

  vmm::Machine& operator*() { return *machine_; }
  vmm::Machine* operator->() { return machine_.get(); }
  base::EventLoop& loop() { return *loop_; }
  TemporaryFolder& folder() { return folder_; }

  void start();
  // Until the guest ends the machine.
  vmm::Exit run_to_end();
  // Until the output contains `text`.
  void run_until_output(std::string_view text);
  void run_until(std::function<bool()> done);
  void run_for(std::chrono::milliseconds time);
  void type(std::string_view text);
  void destroy() { machine_.reset(); }

  [[nodiscard]] const std::string& output() const { return output_; }
  [[nodiscard]] const std::optional<vmm::Exit>& exit() const { return exit_; }

 private:
  void read_output();

  TemporaryFolder folder_;
  std::unique_ptr<base::EventLoop> loop_;
  base::UniqueFd output_read_, output_write_, input_read_, input_write_;
  std::string output_;
  std::optional<vmm::Exit> exit_;
  std::unique_ptr<vmm::Machine> machine_;
};

}  // namespace mayfly::test
