#include "base/event_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

#include <array>
#include <cerrno>
#include <csignal>

#include "base/log.h"

namespace mayfly::base {

namespace {

// Handlers get ids from 1 up; 0 is the loop's own eventfd.
constexpr std::uint64_t kWakeupId = 0;

Status control(int epoll, int operation, int fd, std::uint32_t events, std::uint64_t id) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = id;
  if (::epoll_ctl(epoll, operation, fd, &event) < 0) return fail_errno(errno, "watch file descriptor {}", fd);
  return {};
}

void drain(int fd) {
  std::uint64_t count = 0;
  // Both an eventfd and a timerfd are emptied by one read; EAGAIN means that it was already empty.
  [[maybe_unused]] const ssize_t n = ::read(fd, &count, sizeof(count));
}

}  // namespace

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return fail_errno(errno, "create an epoll instance");
  UniqueFd wakeup(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wakeup.valid()) return fail_errno(errno, "create an eventfd");
  TRY(control(epoll.get(), EPOLL_CTL_ADD, wakeup.get(), EPOLLIN, kWakeupId));
  return std::unique_ptr<EventLoop>(new EventLoop(std::move(epoll), std::move(wakeup)));
}

EventLoop::~EventLoop() = default;

Status EventLoop::add(int fd, std::uint32_t events, Callback callback, std::mutex* mutex) {
  const std::lock_guard lock(mutex_);
  if (id_of_fd_.contains(fd)) return fail("file descriptor {} is watched already", fd);
  const std::uint64_t id = next_id_++;
  handlers_[id] = std::shared_ptr<Handler>(new Handler{fd, events, std::move(callback), mutex});
  id_of_fd_[fd] = id;
  if (Status added = control(epoll_.get(), EPOLL_CTL_ADD, fd, events, id); !added) {
    handlers_.erase(id);
    id_of_fd_.erase(fd);
    return added;
  }
  // Watched and unwatched again, so that an fd which cannot be watched is refused now.
  if (held_.contains(mutex)) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  return {};
}

Status EventLoop::modify(int fd, std::uint32_t events) {
  const std::lock_guard lock(mutex_);
  const auto it = id_of_fd_.find(fd);
  if (it == id_of_fd_.end()) return fail("file descriptor {} is not watched", fd);
  Handler& handler = *handlers_.at(it->second);
  if (held_.contains(handler.mutex)) {
    handler.events = events;
    return {};
  }
  TRY(control(epoll_.get(), EPOLL_CTL_MOD, fd, events, it->second));
  handler.events = events;
  return {};
}

void EventLoop::remove(int fd) {
  const std::lock_guard lock(mutex_);
  const auto it = id_of_fd_.find(fd);
  if (it == id_of_fd_.end()) return;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  const auto handler = handlers_.find(it->second);
  handler->second->live = false;
  handlers_.erase(handler);
  id_of_fd_.erase(it);
}

void EventLoop::hold(std::mutex* mutex) {
  const std::lock_guard lock(mutex_);
  if (!held_.insert(mutex).second) return;
  for (const auto& [id, handler] : handlers_) {
    if (handler->mutex == mutex) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, handler->fd, nullptr);
  }
}

void EventLoop::release(std::mutex* mutex) {
  const std::lock_guard lock(mutex_);
  if (held_.erase(mutex) == 0) return;
  for (const auto& [id, handler] : handlers_) {
    if (handler->mutex != mutex) continue;
    // It was watched before; to watch it again can fail for want of memory only.
    if (const Status watched = control(epoll_.get(), EPOLL_CTL_ADD, handler->fd, handler->events, id);
        !watched) {
      log::error("a device's event source is lost: {}", watched.error().message);
    }
  }
}

void EventLoop::post(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(wakeup_.get(), &one, sizeof(one));
}

void EventLoop::stop() {
  post([this] { stopping_ = true; });
}

Status EventLoop::add_signals(std::span<const int> signals, std::function<void(int)> callback) {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : signals) sigaddset(&set, signal);
  if (const int error = ::pthread_sigmask(SIG_BLOCK, &set, nullptr); error != 0) {
    return fail_errno(error, "block signals");
  }
  signals_.reset(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_.valid()) return fail_errno(errno, "create a signalfd");
  return add(signals_.get(), EPOLLIN, [this, callback = std::move(callback)](std::uint32_t) {
    signalfd_siginfo info{};
    while (::read(signals_.get(), &info, sizeof(info)) == sizeof(info))
      callback(static_cast<int>(info.ssi_signo));
  });
}

void EventLoop::run_tasks() {
  drain(wakeup_.get());
  std::vector<std::function<void()>> tasks;
  {
    const std::lock_guard lock(mutex_);
    tasks.swap(tasks_);
  }
  for (const auto& task : tasks) task();
}

void EventLoop::dispatch(std::uint64_t id, std::uint32_t events) {
  // Before `handler`, so that a handler which was removed meanwhile is destroyed with its mutex still held.
  std::unique_lock<std::mutex> callback_lock;
  std::shared_ptr<Handler> handler;
  {
    const std::lock_guard lock(mutex_);
    const auto it = handlers_.find(id);
    if (it == handlers_.end()) return;              // removed by an earlier callback of this batch
    if (held_.contains(it->second->mutex)) return;  // held by one
    handler = it->second;
  }
  if (handler->mutex != nullptr) callback_lock = std::unique_lock(*handler->mutex);
  // Whoever held the mutex may have removed the handler while we waited for it.
  if (handler->live) handler->callback(events);
}

Status EventLoop::run() {
  std::array<epoll_event, 64> ready{};
  stopping_ = false;
  while (!stopping_) {
    const int count = ::epoll_wait(epoll_.get(), ready.data(), static_cast<int>(ready.size()), -1);
    if (count < 0) {
      if (errno == EINTR) continue;
      return fail_errno(errno, "wait for events");
    }
    bool woken = false;
    for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
      if (ready[i].data.u64 == kWakeupId) {
        woken = true;
      } else {
        dispatch(ready[i].data.u64, ready[i].events);
      }
    }
    if (woken) run_tasks();
  }
  return {};
}

Result<std::unique_ptr<Timer>> Timer::create(EventLoop& loop, std::function<void()> callback,
                                             std::mutex* mutex) {
  UniqueFd fd(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!fd.valid()) return fail_errno(errno, "create a timerfd");
  const int raw = fd.get();
  std::unique_ptr<Timer> timer(new Timer(loop, std::move(fd)));
  TRY(loop.add(
      raw, EPOLLIN,
      [raw, callback = std::move(callback)](std::uint32_t) {
        std::uint64_t expirations = 0;
        // Cancelled or set anew between the event and now: nothing to read, nothing to do.
        if (::read(raw, &expirations, sizeof(expirations)) != sizeof(expirations)) return;
        callback();
      },
      mutex));
  return timer;
}

Timer::~Timer() {
  loop_.remove(fd_.get());
}

void Timer::set(std::chrono::nanoseconds delay) {
  constexpr std::int64_t kSecond = 1'000'000'000;
  // An all-zero value would disarm the timer instead of firing it at once.
  const std::int64_t ns = std::max<std::int64_t>(delay.count(), 1);
  itimerspec spec{};
  spec.it_value = {.tv_sec = ns / kSecond, .tv_nsec = ns % kSecond};
  ::timerfd_settime(fd_.get(), 0, &spec, nullptr);
}

void Timer::cancel() {
  const itimerspec none{};
  ::timerfd_settime(fd_.get(), 0, &none, nullptr);
}

}  // namespace mayfly::base
