// What vCPU threads have done on the event loop's thread.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

#include "base/event_loop.h"

namespace mayfly::vmm {

// A vCPU's thread may make few system calls. Where a guest's access needs more than a register (a device is
// started or reset), the thread that has the devices' files does it, and the vCPU waits.
class LoopCalls {
 public:
  // `loop` outlives the object.
  explicit LoopCalls(base::EventLoop& loop) : loop_(loop), state_(std::make_shared<State>()) {}

  // Returns when `call` was done, or after close() without it. Any thread but the loop's.
  void run(const std::function<void()>& call);

  // The rest is for the loop's thread, but for wake().

  // Does what is asked for until `done`, which may take other locks than those held around run() or wake().
  // For a thread that waits for vCPUs which may wait for it.
  void serve_until(const std::function<bool()>& done);
  // `done` of serve_until() may have changed its answer. Any thread.
  void wake();
  // Nothing is done any more: who waits, or comes, returns.
  void close();

 private:
  struct Request {
    const std::function<void()>& call;
    bool taken = false;
    bool finished = false;
  };
  struct State {
    std::mutex mutex;  // guards all of it
    std::condition_variable changed;
    std::deque<Request*> waiting;
    bool closed = false;
  };
  static void serve(State& state, std::unique_lock<std::mutex>& lock);

  base::EventLoop& loop_;
  std::shared_ptr<State> state_;  // shared with what was posted to the loop
};

}  // namespace mayfly::vmm
