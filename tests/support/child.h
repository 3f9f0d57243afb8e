// Something done in a process of its own, since it may end with it.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <string>

#include "base/unique_fd.h"

namespace mayfly::test {

struct Ended {
  int status = -1;        // of exit
  int signal = 0;         // killed by it instead
  std::string said = {};  // on standard error
};

// In a fork of this process, which must have one thread; 0 is the status where `act` returns.
template <typename Act>
Ended in_child(const Act& act) {
  std::array<int, 2> ends{};
  REQUIRE(::pipe(ends.data()) == 0);
  base::UniqueFd read(ends[0]);
  base::UniqueFd write(ends[1]);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::dup2(write.get(), STDERR_FILENO);
    act();
    ::_exit(0);
  }
  write.reset();
  Ended ended;
  std::array<char, 4096> buffer;
  for (ssize_t n = 0; (n = ::read(read.get(), buffer.data(), buffer.size())) > 0;) {
    ended.said.append(buffer.data(), static_cast<std::size_t>(n));
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  if (WIFEXITED(status)) ended.status = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) ended.signal = WTERMSIG(status);
  return ended;
}

}  // namespace mayfly::test
