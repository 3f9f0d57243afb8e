// epoll, timers, signals and calls from other threads, on one thread.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace mayfly::base {

// run() dispatches on the thread that calls it. add(), modify(), remove(), post() and stop() may be called
// from any thread, and from within a callback.
//
// A handler may name a mutex, which is then held around its callback. A handler that was removed by someone
// who holds that mutex is never called again; without a mutex that is true on the loop's own thread only.
class EventLoop {
 public:
  // `events`: the EPOLL* bits that happened.
  using Callback = std::function<void(std::uint32_t events)>;

  static Result<std::unique_ptr<EventLoop>> create();
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Watches `fd` (which the caller keeps open until remove()) for `events` (EPOLLIN, EPOLLOUT, EPOLLET, …).
  Status add(int fd, std::uint32_t events, Callback callback, std::mutex* mutex = nullptr);
  Status modify(int fd, std::uint32_t events);
  // Does nothing when `fd` is not watched.
  void remove(int fd);

  // From now until release(), handlers that name `mutex` are not called, nor are timers of theirs; their fds
  // are not watched, so that what happens meanwhile is seen afterwards and costs nothing until then. On the
  // loop's thread, which is thereby in no such callback.
  void hold(std::mutex* mutex);
  void release(std::mutex* mutex);

  // Runs `task` on the loop's thread, soon. Tasks posted after stop() may never run.
  void post(std::function<void()> task);

  // Delivers these signals to `callback` on the loop's thread by way of a signalfd. Blocks them in the
  // calling thread, so call it before any other thread is started.
  Status add_signals(std::span<const int> signals, std::function<void(int signal)> callback);

  // Until stop().
  Status run();
  void stop();

 private:
  struct Handler {
    int fd;
    std::uint32_t events;  // guarded by the loop's mutex_
    Callback callback;
    std::mutex* mutex;
    std::atomic<bool> live = true;
  };
  EventLoop(UniqueFd epoll, UniqueFd wakeup) : epoll_(std::move(epoll)), wakeup_(std::move(wakeup)) {}
  void dispatch(std::uint64_t id, std::uint32_t events);
  void run_tasks();

  UniqueFd epoll_;
  UniqueFd wakeup_;  // eventfd
  UniqueFd signals_;
  std::mutex mutex_;  // guards what follows
  std::uint64_t next_id_ = 1;
  std::map<std::uint64_t, std::shared_ptr<Handler>> handlers_;
  std::map<int, std::uint64_t> id_of_fd_;
  std::set<std::mutex*> held_;
  std::vector<std::function<void()>> tasks_;
  bool stopping_ = false;
};

// A one-shot timer on a loop, CLOCK_MONOTONIC. Owned by whoever sets it; destroying it cancels it.
class Timer {
 public:
  // `mutex` as in EventLoop::add.
  static Result<std::unique_ptr<Timer>> create(EventLoop& loop, std::function<void()> callback,
                                               std::mutex* mutex = nullptr);
  ~Timer();
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  // Fires once, `delay` from now (at once when zero or less); replaces what was set before.
  void set(std::chrono::nanoseconds delay);
  void cancel();

 private:
  Timer(EventLoop& loop, UniqueFd fd) : loop_(loop), fd_(std::move(fd)) {}
  EventLoop& loop_;
  UniqueFd fd_;
};

}  // namespace mayfly::base
