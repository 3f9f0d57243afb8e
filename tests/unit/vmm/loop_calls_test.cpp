#include "vmm/loop_calls.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <thread>
#include <vector>

using namespace mayfly;
using vmm::LoopCalls;

TEST_CASE("loop calls: what another thread wants is done on the loop's, and waited for") {
  const auto loop = base::EventLoop::create().value();
  LoopCalls calls(*loop);
  const auto here = std::this_thread::get_id();
  int done = 0;
  std::atomic<int> wrong = 0;
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 200; ++j) {
        bool mine = false;
        calls.run([&] {
          mine = std::this_thread::get_id() == here;
          if (++done == 800) loop->stop();
        });
        if (!mine) ++wrong;
      }
    });
  }
  REQUIRE(loop->run());
  threads.clear();
  CHECK(done == 800);
  CHECK(wrong == 0);
}

TEST_CASE("loop calls: a thread that waits for others does what they want meanwhile") {
  const auto loop = base::EventLoop::create().value();
  LoopCalls calls(*loop);
  std::atomic<bool> finished = false;
  int done = 0;
  std::jthread other([&] {
    for (int i = 0; i < 100; ++i) calls.run([&] { ++done; });
    finished = true;
    calls.wake();
  });
  calls.serve_until([&] { return finished.load(); });
  CHECK(done == 100);
  // What was posted finds nothing left to do.
  loop->stop();
  REQUIRE(loop->run());
  CHECK(done == 100);
}

TEST_CASE("loop calls: after the end nobody waits") {
  const auto loop = base::EventLoop::create().value();
  bool done = false;
  {
    LoopCalls calls(*loop);
    std::jthread waiting([&] { calls.run([&] { done = true; }); });
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    calls.close();
    waiting.join();
    calls.run([&] { done = true; });
  }
  loop->stop();
  REQUIRE(loop->run());
  CHECK_FALSE(done);
}
