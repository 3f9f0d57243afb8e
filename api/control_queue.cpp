#include "api/control_queue.h"

#include <optional>
#include <utility>

namespace mayfly::api {

base::Result<Answer> ControlQueue::call(Task task) {
  // Shared with the task, which may be left over in a loop that has stopped.
  auto outcome = std::make_shared<std::optional<base::Result<Answer>>>();
  loop_.post([this, outcome, task = std::move(task)] {
    base::Result<Answer> done = task(controller_);
    const std::lock_guard lock(mutex_);
    *outcome = std::move(done);
    changed_.notify_all();
  });
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return outcome->has_value() || closed_; });
  if (!outcome->has_value()) return base::fail("the machine has ended");
  return std::move(**outcome);
}

void ControlQueue::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

}  // namespace mayfly::api
