#include "cli/byte_end.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <climits>
#include <csignal>
#include <cstdlib>

#include "tests/support/pipe.h"

using namespace mayfly;
using cli::ByteEnd;
using test::Pipe;
using Direction = ByteEnd::Direction;
using State = ByteEnd::State;

namespace {

std::array<std::byte, 65536> block;

ByteEnd standard(const base::UniqueFd& fd, Direction direction) {
  auto end = ByteEnd::standard(fd.get(), direction, true);
  REQUIRE(end.has_value());
  return std::move(*end);
}

}  // namespace

TEST_CASE("a shared pipe does not wait, and stays as others know it") {
  Pipe pipe;
  const ByteEnd end = standard(pipe.read, Direction::kRead);
  CHECK(end.read(block).state == State::kWait);
  CHECK((::fcntl(pipe.read.get(), F_GETFL) & O_NONBLOCK) == 0);
  REQUIRE(::write(pipe.write.get(), "abc", 3) == 3);
  CHECK(end.read(block).count == 3);
  pipe.write.reset();
  CHECK(end.read(block).state == State::kEnd);
}

TEST_CASE("a full pipe says wait, one without a reader says end") {
  Pipe pipe;
  const ByteEnd end = standard(pipe.write, Direction::kWrite);
  ByteEnd::Outcome outcome{State::kBytes};
  while (outcome.state == State::kBytes) outcome = end.write(block);
  CHECK(outcome.state == State::kWait);
  ::signal(SIGPIPE, SIG_IGN);
  pipe.read.reset();
  CHECK(end.write(block).state == State::kEnd);
}

TEST_CASE("a shared socket does not wait, and stays as others know it") {
  std::array<int, 2> fds{};
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()) == 0);
  const base::UniqueFd ours(fds[0]);
  base::UniqueFd theirs(fds[1]);
  const ByteEnd end = standard(ours, Direction::kRead);
  CHECK(end.read(block).state == State::kWait);
  CHECK((::fcntl(ours.get(), F_GETFL) & O_NONBLOCK) == 0);
  theirs.reset();
  CHECK(end.read(block).state == State::kEnd);
  CHECK(end.write(block).state == State::kEnd);
}

TEST_CASE("devices that are always ready") {
  const base::UniqueFd zero(::open("/dev/zero", O_RDWR | O_CLOEXEC));
  const ByteEnd end = standard(zero, Direction::kRead);
  CHECK(end.read(block).count == block.size());
  CHECK(end.write(block).state == State::kBytes);
  const base::UniqueFd full(::open("/dev/full", O_WRONLY | O_CLOEXEC));
  const ByteEnd::Outcome outcome = standard(full, Direction::kWrite).write(block);
  CHECK(outcome.state == State::kFailed);
  CHECK(outcome.error == ENOSPC);
}

TEST_CASE("a folder is no input") {
  const base::UniqueFd folder(::open("/", O_RDONLY | O_CLOEXEC));
  const ByteEnd::Outcome outcome = standard(folder, Direction::kRead).read(block);
  CHECK(outcome.state == State::kFailed);
  CHECK(outcome.error == EISDIR);
}

TEST_CASE("what is let go of is held no longer") {
  Pipe pipe;
  {
    auto end = ByteEnd::standard(pipe.write.get(), Direction::kWrite, false);
    REQUIRE(end.has_value());
    CHECK(end->write(std::span(block).first(1)).count == 1);
  }
  CHECK(::read(pipe.read.get(), block.data(), block.size()) == 1);
  CHECK(::read(pipe.read.get(), block.data(), block.size()) == 0);
}

TEST_CASE("a terminal whose foreground is another's is not read") {
  const base::UniqueFd master(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  REQUIRE(::grantpt(master.get()) == 0);
  REQUIRE(::unlockpt(master.get()) == 0);
  const std::string slave = ::ptsname(master.get());
  REQUIRE(::write(master.get(), "typed\n", 6) == 6);
  const pid_t leader = ::fork();
  if (leader == 0) {
    // A shell with this terminal, and a job of it in the background.
    ::setsid();
    const base::UniqueFd tty(::open(slave.c_str(), O_RDWR));
    ::ioctl(tty.get(), TIOCSCTTY, 0);
    const auto ours = ByteEnd::standard(tty.get(), Direction::kRead, true);
    if (!ours) ::_exit(2);
    const pid_t job = ::fork();
    if (job == 0) {
      ::setpgid(0, 0);
      ::_exit(ours->read(block).state == State::kLater ? 0 : 3);
    }
    int status = 0;
    ::waitpid(job, &status, WUNTRACED);
    if (!WIFEXITED(status)) ::_exit(4);
    // To the foreground it is there.
    ::_exit(WEXITSTATUS(status) != 0 ? WEXITSTATUS(status) : ours->read(block).count == 6 ? 0 : 5);
  }
  int status = 0;
  REQUIRE(::waitpid(leader, &status, 0) == leader);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}
