// mayfly-vmm as a process, its standard streams, and a client of its control socket.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/unique_fd.h"
#include "tests/support/temporary_folder.h"

namespace mayfly::test {

class VmmUnderTest {
 public:
  // With these arguments, in `folder`, where its output, errors and socket are ("out", "err", "api.sock").
  VmmUnderTest(const TemporaryFolder& folder, const std::vector<std::string>& arguments);
  ~VmmUnderTest();  // kills it
  VmmUnderTest(const VmmUnderTest&) = delete;
  VmmUnderTest& operator=(const VmmUnderTest&) = delete;

  // One request on a connection of its own: the status, and the body behind a blank where there is one.
  std::string ask(const std::string& method, const std::string& path, const std::string& body = "");
  void type(std::string_view text) const;
  [[nodiscard]] std::string output() const { return read("out"); }
  [[nodiscard]] std::string errors() const { return read("err"); }
  [[nodiscard]] std::string read(const std::string& name) const;
  // Fails the test after the deadline, or where the process ends meanwhile.
  void wait_for(const std::function<bool()>& holds);
  // Its exit status, or 1000 + the signal that killed it.
  int wait();
  void signal(int number) const;
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  bool ended();

  const TemporaryFolder& folder_;
  base::UniqueFd input_;
  pid_t pid_ = -1;
  int status_ = -1;  // of waitpid, once it has ended
  bool reaped_ = false;
};

}  // namespace mayfly::test
