#include "tests/security/vmm_under_test.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <array>
#include <catch2/catch.hpp>
#include <csignal>

#include "base/file.h"
#include "tests/support/eventually.h"

namespace mayfly::test {

namespace {

// In the child: what becomes of standard input and the rest.
[[noreturn]] void become(const TemporaryFolder& folder, int input, std::vector<std::string> words) {
  const int out = ::open(folder.path("out").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  const int err = ::open(folder.path("err").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  ::dup2(input, 0);
  ::dup2(out, 1);
  ::dup2(err, 2);
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  ::execv(arguments[0], arguments.data());
  ::_exit(127);
}

}  // namespace

VmmUnderTest::VmmUnderTest(const TemporaryFolder& folder, const std::vector<std::string>& arguments)
    : folder_(folder) {
  std::array<int, 2> ends{};
  REQUIRE(::pipe2(ends.data(), O_CLOEXEC) == 0);
  const base::UniqueFd input(ends[0]);
  input_.reset(ends[1]);
  std::vector<std::string> words = {MAYFLY_VMM};
  words.insert(words.end(), arguments.begin(), arguments.end());
  pid_ = ::fork();
  REQUIRE(pid_ >= 0);
  if (pid_ == 0) become(folder, input.get(), std::move(words));
}

VmmUnderTest::~VmmUnderTest() {
  if (reaped_) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

std::string VmmUnderTest::read(const std::string& name) const {
  return base::read_file(folder_.path(name)).value_or("");
}

void VmmUnderTest::type(std::string_view text) const {
  REQUIRE(base::write_all(input_.get(), text));
}

void VmmUnderTest::signal(int number) const {
  REQUIRE(::kill(pid_, number) == 0);
}

bool VmmUnderTest::ended() {
  if (!reaped_) reaped_ = ::waitpid(pid_, &status_, WNOHANG) == pid_;
  return reaped_;
}

void VmmUnderTest::wait_for(const std::function<bool()>& holds) {
  const bool came = eventually([&] { return holds() || ended(); });
  INFO("output: " << output() << ", errors: " << errors() << ", ended: " << reaped_ << " " << status_);
  REQUIRE(came);
  REQUIRE(holds());
}

int VmmUnderTest::wait() {
  const bool came = eventually([&] { return ended(); });
  INFO("output: " << output() << ", errors: " << errors());
  REQUIRE(came);
  return WIFEXITED(status_) ? WEXITSTATUS(status_) : 1000 + WTERMSIG(status_);
}

std::string VmmUnderTest::ask(const std::string& method, const std::string& path, const std::string& body) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  folder_.path("api.sock").copy(address.sun_path, sizeof(address.sun_path) - 1);
  base::UniqueFd fd;
  wait_for([&] {
    fd.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    return ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  });
  const std::string request =
      method + " " + path +
      " HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: " + std::to_string(body.size()) +
      "\r\n\r\n" + body;
  REQUIRE(base::write_all(fd.get(), request));
  std::string answer;
  std::array<char, 4096> buffer;
  for (ssize_t n = 0; (n = ::read(fd.get(), buffer.data(), buffer.size())) > 0;) {
    answer.append(buffer.data(), static_cast<std::size_t>(n));
  }
  const std::size_t head = answer.find("\r\n\r\n");
  if (head == std::string::npos) return "no answer: " + errors();
  const std::string content = answer.substr(head + 4);
  return answer.substr(9, 3) + (content.empty() ? "" : " " + content);
}

}  // namespace mayfly::test
