// The synchronous engine: a job is done when submit() returns.
#include "virtio/block/backend.h"
#include "virtio/block/work.h"

namespace mayfly::virtio::block {

namespace {

class SyncBackend final : public Backend {
 public:
  SyncBackend(std::unique_ptr<Medium> medium, Completions& completions)
      : medium_(std::move(medium)), completions_(completions) {}

  base::Result<std::uint64_t> size() override { return medium_->size(); }
  [[nodiscard]] Geometry geometry() const override { return medium_->geometry(); }
  base::Result<bool> move_to(const std::string& /*path*/, bool /*read_only*/) override { return false; }
  void submit(const Job& job) override {
    work_.begin(job);
    while (!work_.finished()) work_.account(medium_->perform(work_.call()));
    completions_.completed(job.token, work_.outcome());
  }
  void start() override {}
  void drain() override {}
  void abandon() override {}

 private:
  std::unique_ptr<Medium> medium_;
  Completions& completions_;
  Work work_;
};

}  // namespace

std::unique_ptr<Backend> make_sync_backend(std::unique_ptr<Medium> medium, Completions& completions) {
  return std::make_unique<SyncBackend>(std::move(medium), completions);
}

}  // namespace mayfly::virtio::block
