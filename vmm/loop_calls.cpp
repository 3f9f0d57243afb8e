#include "vmm/loop_calls.h"

namespace mayfly::vmm {

void LoopCalls::run(const std::function<void()>& call) {
  const std::shared_ptr<State> state = state_;
  Request request{.call = call};
  {
    const std::lock_guard lock(state->mutex);
    if (state->closed) return;
    state->waiting.push_back(&request);
    state->changed.notify_all();
  }
  loop_.post([state] {
    std::unique_lock lock(state->mutex);
    serve(*state, lock);
  });
  std::unique_lock lock(state->mutex);
  // One that was taken is waited for, closed or not: it refers to this stack.
  state->changed.wait(lock, [&] { return request.finished || (state->closed && !request.taken); });
}

void LoopCalls::serve(State& state, std::unique_lock<std::mutex>& lock) {
  while (!state.waiting.empty() && !state.closed) {
    Request& request = *state.waiting.front();
    state.waiting.pop_front();
    request.taken = true;
    lock.unlock();
    request.call();
    lock.lock();
    request.finished = true;
    state.changed.notify_all();
  }
}

void LoopCalls::serve_until(const std::function<bool()>& done) {
  std::unique_lock lock(state_->mutex);
  for (;;) {
    serve(*state_, lock);
    if (done()) return;
    state_->changed.wait(lock);
  }
}

void LoopCalls::wake() {
  const std::lock_guard lock(state_->mutex);
  state_->changed.notify_all();
}

void LoopCalls::close() {
  const std::lock_guard lock(state_->mutex);
  state_->closed = true;
  state_->waiting.clear();
  state_->changed.notify_all();
}

}  // namespace mayfly::vmm
