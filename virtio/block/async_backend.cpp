// The asynchronous engine: jobs are begun by start() and completed by the event loop.
#include <sys/epoll.h>

#include <vector>

#include "virtio/block/backend.h"
#include "virtio/block/ring.h"
#include "virtio/block/work.h"

namespace mayfly::virtio::block {

namespace {

// How soon the kernel is asked again that had no memory.
constexpr std::chrono::milliseconds kRetry{2};

class AsyncBackend final : public Backend {
 public:
  AsyncBackend(std::unique_ptr<Medium> medium, std::unique_ptr<Ring> ring, const Opening& opening)
      : medium_(std::move(medium)),
        ring_(std::move(ring)),
        loop_(opening.loop),
        completions_(opening.completions) {
    // For all that there can be, so that none moves; memory is taken as it is used.
    works_.reserve(kMostInFlight);
  }
  ~AsyncBackend() override {
    drain();
    loop_.remove(ring_->event_fd());
  }
  AsyncBackend(const AsyncBackend&) = delete;
  AsyncBackend& operator=(const AsyncBackend&) = delete;

  // Once, before first use.
  base::Status watch(std::mutex& mutex) {
    retry_ = TRY(base::Timer::create(
        loop_, [this] { begin_what_was_put(); }, &mutex));
    return loop_.add(
        ring_->event_fd(), EPOLLIN, [this](std::uint32_t) { on_event(); }, &mutex);
  }

  base::Result<std::uint64_t> size() override { return medium_->size(); }
  [[nodiscard]] Geometry geometry() const override { return medium_->geometry(); }
  base::Result<bool> move_to(const std::string& path, bool read_only) override;
  void submit(const Job& job) override;
  void start() override;
  void drain() override;
  void abandon() override;

 private:
  bool put(std::uint32_t token);
  bool take_finished();
  void begin_what_was_put();
  void on_event();

  std::unique_ptr<Medium> medium_;
  std::unique_ptr<Ring> ring_;  // before medium_ goes
  base::EventLoop& loop_;
  Completions& completions_;
  std::unique_ptr<base::Timer> retry_;
  std::vector<Work> works_;  // by token
  std::uint32_t in_flight_ = 0;
  bool abandoning_ = false;
};

// The ring stays: a process with its system call filters on gets no other.
base::Result<bool> AsyncBackend::move_to(const std::string& path, bool read_only) {
  if (!ring_->moves()) return false;
  auto file = TRY(File::open(path, read_only));
  drain();
  TRY(ring_->move_to(file->fd(), file->is_block_device()));
  medium_ = std::move(file);
  return true;
}

// A flush needs no order among the calls in the ring. Section 5.2.6.2: a write is stable once a flush that
// was sent after the write was *completed* is completed itself; so a write that is still on its way when its
// driver sends a flush may be on either side of it, and what was completed is in the file before fdatasync
// begins.
void AsyncBackend::submit(const Job& job) {
  while (works_.size() <= job.token) works_.emplace_back();
  works_[job.token].begin(job);
  ++in_flight_;
  if (put(job.token)) return;
  --in_flight_;
  completions_.completed(job.token, works_[job.token].outcome());
}

// Puts the next call into the ring, or makes it here where the ring has no such call; false: there is none.
bool AsyncBackend::put(std::uint32_t token) {
  Work& work = works_[token];
  while (!work.finished()) {
    if (ring_->takes(work.call().kind)) {
      ring_->put(work.call(), token);
      return true;
    }
    work.account(medium_->perform(work.call()));
  }
  return false;
}

void AsyncBackend::begin_what_was_put() {
  if (!ring_->submit()) retry_->set(kRetry);
}

void AsyncBackend::start() {
  begin_what_was_put();
  // What the page cache had is finished by now.
  if (take_finished()) begin_what_was_put();
}

// Whether there are calls to begin.
bool AsyncBackend::take_finished() {
  bool put_some = false;
  // A turn for each that can be finished now; what follows those comes with the next event.
  for (std::uint32_t most = in_flight_; most > 0; --most) {
    const auto finished = ring_->take();
    if (!finished) break;
    Work& work = works_[finished->token];
    work.account(finished->result);
    if (abandoning_) work.give_up();
    if (put(finished->token)) {
      put_some = true;
      continue;
    }
    --in_flight_;
    completions_.completed(finished->token, work.outcome());
  }
  return put_some;
}

void AsyncBackend::on_event() {
  if (take_finished()) begin_what_was_put();
  completions_.settled();
}

void AsyncBackend::drain() {
  while (in_flight_ > 0) {
    ring_->wait();
    take_finished();
  }
}

void AsyncBackend::abandon() {
  if (in_flight_ == 0) return;
  abandoning_ = true;
  // All of it is known to the kernel then, or else is begun by wait().
  ring_->submit();
  ring_->cancel();
  drain();
  abandoning_ = false;
}

}  // namespace

base::Result<std::unique_ptr<Backend>> make_async_backend(std::unique_ptr<Medium> medium,
                                                          std::unique_ptr<Ring> ring,
                                                          const Opening& opening) {
  auto backend = std::make_unique<AsyncBackend>(std::move(medium), std::move(ring), opening);
  TRY(backend->watch(opening.mutex));
  return backend;
}

}  // namespace mayfly::virtio::block
