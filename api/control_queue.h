// From the control socket's thread to the machine's.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>

#include "api/controller.h"
#include "api/router.h"
#include "base/event_loop.h"

namespace mayfly::api {

class ControlQueue {
 public:
  // Both outlive every call().
  ControlQueue(base::EventLoop& loop, Controller& controller) : loop_(loop), controller_(controller) {}

  // Has the task done on the loop's thread and waits for what comes of it. Any other thread.
  base::Result<Answer> call(Task task);

  // The loop runs no more: who waits, or calls from now on, gets an error.
  void close();

 private:
  base::EventLoop& loop_;
  Controller& controller_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool closed_ = false;
};

}  // namespace mayfly::api
