// A drive on an overlay: the synchronous engine, and a flush now and then where the driver sends none.
#include <chrono>

#include "base/log.h"
#include "virtio/block/backend.h"
#include "virtio/block/overlay/overlay_file.h"

namespace mayfly::virtio::block {

using base::fail;
using base::Result;
using base::Status;
using overlay::Overlay;

namespace {

// How much of a driver's work a killed process may take along, where it sent no FLUSH.
constexpr std::chrono::seconds kFlushAfter{1};

class OverlayBackend final : public Backend {
 public:
  OverlayBackend(std::unique_ptr<Overlay> overlay, Completions& completions)
      : overlay_(*overlay), engine_(make_sync_backend(std::move(overlay), completions)) {}

  // Once, before first use.
  Status watch(base::EventLoop& loop, std::mutex& mutex) {
    timer_ = TRY(base::Timer::create(
        loop, [this] { flush(); }, &mutex));
    return {};
  }

  Result<std::uint64_t> size() override { return engine_->size(); }
  [[nodiscard]] Geometry geometry() const override { return engine_->geometry(); }
  Result<bool> move_to(const std::string& path, bool read_only) override {
    return engine_->move_to(path, read_only);
  }
  void submit(const Job& job) override { engine_->submit(job); }
  void start() override {
    engine_->start();
    if (!overlay_.unflushed() || timer_set_) return;
    timer_->set(kFlushAfter);
    timer_set_ = true;
  }
  // The machine pauses, or the like: what is in the files then is the disk.
  void drain() override {
    engine_->drain();
    if (overlay_.unflushed()) flush();
  }
  void abandon() override { engine_->abandon(); }

 private:
  void flush() {
    timer_set_ = false;
    if (!overlay_.unflushed()) return;
    const std::int64_t result = overlay_.perform({.kind = Call::Kind::kSync});
    if (result == -EINTR || result == -EAGAIN) return start();
    if (result < 0 && limiter_.allow()) {
      base::log::error("an overlay could not be flushed: {}", ::strerrordesc_np(static_cast<int>(-result)));
    }
  }

  Overlay& overlay_;  // the engine's
  std::unique_ptr<Backend> engine_;
  std::unique_ptr<base::Timer> timer_;
  bool timer_set_ = false;
  base::log::Limiter limiter_;
};

}  // namespace

Result<std::unique_ptr<Backend>> open_overlay_backend(const std::string& overlay_path,
                                                      const std::string& path, const Opening& opening) {
  if (opening.read_only) {
    return fail(
        "a drive that is read-only has no use for an overlay: leave out is_read_only or overlay_path");
  }
  if (opening.engine == IoEngine::kAsync) {
    return fail(
        "io_engine Async is not for drives with an overlay, which are served synchronously: use Sync");
  }
  auto backend =
      std::make_unique<OverlayBackend>(TRY(overlay::open_overlay(overlay_path, path)), opening.completions);
  TRY(backend->watch(opening.loop, opening.mutex));
  return backend;
}

}  // namespace mayfly::virtio::block
