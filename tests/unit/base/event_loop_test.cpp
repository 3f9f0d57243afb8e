#include "base/event_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <csignal>
#include <thread>

using namespace mayfly::base;
using namespace std::chrono_literals;

namespace {

std::unique_ptr<EventLoop> make_loop() {
  auto loop = EventLoop::create();
  REQUIRE(loop.has_value());
  return std::move(*loop);
}

UniqueFd ready_eventfd() {
  return UniqueFd(::eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK));
}

}  // namespace

TEST_CASE("a task posted before run() is run, and stop() ends it") {
  auto loop = make_loop();
  int calls = 0;
  loop->post([&] {
    ++calls;
    loop->stop();
  });
  REQUIRE(loop->run().has_value());
  CHECK(calls == 1);
}

TEST_CASE("a handler that an earlier handler of the same batch removed is not called") {
  auto loop = make_loop();
  const UniqueFd a = ready_eventfd();
  const UniqueFd b = ready_eventfd();
  int calls = 0;
  const auto remove_both = [&](std::uint32_t) {
    ++calls;
    loop->remove(a.get());
    loop->remove(b.get());
    loop->stop();
  };
  REQUIRE(loop->add(a.get(), EPOLLIN, remove_both).has_value());
  REQUIRE(loop->add(b.get(), EPOLLIN, remove_both).has_value());
  REQUIRE(loop->run().has_value());
  CHECK(calls == 1);
}

TEST_CASE("a number used again for another file gets the new handler only") {
  auto loop = make_loop();
  UniqueFd fd = ready_eventfd();
  int old_calls = 0;
  REQUIRE(loop->add(fd.get(), EPOLLIN, [&](std::uint32_t) { ++old_calls; }).has_value());
  loop->remove(fd.get());
  CHECK_FALSE(loop->modify(fd.get(), EPOLLOUT).has_value());
  REQUIRE(loop->add(fd.get(), EPOLLIN, [&](std::uint32_t) { loop->stop(); }).has_value());
  CHECK_FALSE(loop->add(fd.get(), EPOLLIN, [](std::uint32_t) {}).has_value());
  REQUIRE(loop->run().has_value());
  CHECK(old_calls == 0);
}

TEST_CASE("who holds a handler's mutex and removes it is not called back after") {
  auto loop = make_loop();
  std::thread runner([&] { CHECK(loop->run().has_value()); });
  for (int round = 0; round < 300; ++round) {
    std::mutex mutex;
    const UniqueFd fd = ready_eventfd();  // level-triggered: fires again and again
    bool removed = false;                 // guarded by mutex
    std::atomic<int> late = 0;
    REQUIRE(loop->add(
                    fd.get(), EPOLLIN, [&](std::uint32_t) { late += removed ? 1 : 0; }, &mutex)
                .has_value());
    std::this_thread::yield();
    {
      const std::lock_guard lock(mutex);
      loop->remove(fd.get());
      removed = true;
    }
    // What the loop is in the middle of ends before the next task does, so the fd and mutex may go.
    std::atomic<bool> passed = false;
    loop->post([&] { passed = true; });
    while (!passed) std::this_thread::yield();
    CHECK(late == 0);
  }
  loop->stop();
  runner.join();
}

TEST_CASE("a timer fires once, after it was set, and not when cancelled") {
  auto loop = make_loop();
  int fired = 0;
  int cancelled_fired = 0;
  auto timer = Timer::create(*loop, [&] { ++fired; });
  auto cancelled = Timer::create(*loop, [&] { ++cancelled_fired; });
  auto end = Timer::create(*loop, [&] { loop->stop(); });
  REQUIRE((timer.has_value() && cancelled.has_value() && end.has_value()));
  (*timer)->set(0ns);
  (*cancelled)->set(1ms);
  (*cancelled)->cancel();
  (*end)->set(50ms);
  REQUIRE(loop->run().has_value());
  CHECK(fired == 1);
  CHECK(cancelled_fired == 0);
}

TEST_CASE("a signal is delivered on the loop's thread") {
  auto loop = make_loop();
  int seen = 0;
  const std::array signals = {SIGUSR1, SIGUSR2};
  REQUIRE(loop->add_signals(signals,
                            [&](int signal) {
                              seen = signal;
                              loop->stop();
                            })
              .has_value());
  ::kill(::getpid(), SIGUSR2);
  REQUIRE(loop->run().has_value());
  CHECK(seen == SIGUSR2);
}
