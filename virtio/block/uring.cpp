#include <liburing.h>
#include <linux/falloc.h>

#include <cerrno>
#include <chrono>
#include <thread>

#include "base/log.h"
#include "virtio/block/backend.h"
#include "virtio/block/ring.h"

namespace mayfly::virtio::block {

using base::fail;
using base::fail_errno;
using base::Result;

namespace {

// Guest memory is not registered as buffers: that would pin all of it for as long as the ring lives, against
// the memory that a VM does not use, and helps only where the host's page cache is bypassed.
class Uring final : public Ring {
 public:
  Uring(io_uring ring, bool on_block_device) : ring_(ring), on_block_device_(on_block_device) {}
  ~Uring() override { ::io_uring_queue_exit(&ring_); }
  Uring(const Uring&) = delete;
  Uring& operator=(const Uring&) = delete;

  base::Status attach(int file) {
    if (const int result = ::io_uring_register_files(&ring_, &file, 1); result < 0) {
      return fail_errno(-result, "register a file with io_uring");
    }
    return {};
  }

  // The ring itself, and no eventfd: that would also tell of what submit() finished on the spot, which has
  // been taken by the time the event loop looks.
  [[nodiscard]] int event_fd() const override { return ring_.ring_fd; }
  // No operation discards on a block device before Linux 6.12.
  [[nodiscard]] bool takes(Call::Kind kind) const override {
    return kind != Call::Kind::kDiscard || !on_block_device_;
  }
  void put(const Call& call, std::uint32_t token) override;
  bool submit() override;
  std::optional<Finished> take() override;
  void wait() override;
  void cancel() override;

 private:
  io_uring ring_;
  bool on_block_device_;
};

void Uring::put(const Call& call, std::uint32_t token) {
  // There is room: the ring has an entry for each token, and a token is in one call at a time.
  io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
  constexpr int kFile = 0;  // the only registered file
  const auto count = static_cast<unsigned>(call.pieces.size());
  switch (call.kind) {
    case Call::Kind::kRead:
      ::io_uring_prep_readv(entry, kFile, call.pieces.data(), count, call.offset);
      break;
    case Call::Kind::kWrite:
      ::io_uring_prep_writev(entry, kFile, call.pieces.data(), count, call.offset);
      break;
    case Call::Kind::kSync:
      ::io_uring_prep_fsync(entry, kFile, IORING_FSYNC_DATASYNC);
      break;
    case Call::Kind::kDiscard:
    case Call::Kind::kPunch:
      ::io_uring_prep_fallocate(entry, kFile, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                static_cast<off_t>(call.offset), static_cast<off_t>(call.length));
      break;
    case Call::Kind::kZero:
      ::io_uring_prep_fallocate(entry, kFile, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                                static_cast<off_t>(call.offset), static_cast<off_t>(call.length));
      break;
  }
  ::io_uring_sqe_set_flags(entry, IOSQE_FIXED_FILE);
  ::io_uring_sqe_set_data64(entry, token);
}

bool Uring::submit() {
  // A call that succeeds may have taken a part only.
  while (::io_uring_sq_ready(&ring_) > 0) {
    const int taken = ::io_uring_submit(&ring_);
    if (taken <= 0 && taken != -EINTR) return false;
  }
  return true;
}

std::optional<Ring::Finished> Uring::take() {
  io_uring_cqe* entry = nullptr;
  if (::io_uring_peek_cqe(&ring_, &entry) != 0 || entry == nullptr) return std::nullopt;
  const Finished finished{.token = static_cast<std::uint32_t>(::io_uring_cqe_get_data64(entry)),
                          .result = entry->res};
  ::io_uring_cqe_seen(&ring_, entry);
  return finished;
}

void Uring::wait() {
  while (::io_uring_cq_ready(&ring_) == 0) {
    const int result = ::io_uring_submit_and_wait(&ring_, 1);
    // The kernel has no memory: it will have some.
    if (result < 0 && result != -EINTR) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void Uring::cancel() {
  io_uring_sync_cancel_reg which{};
  which.flags = IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL;
  // No waiting here: wait() does. Linux before 6.0 does not know this call, and everything runs to its end.
  ::io_uring_register_sync_cancel(&ring_, &which);
}

}  // namespace

Result<std::unique_ptr<Ring>> make_uring(int fd, bool on_block_device) {
  io_uring ring{};
  // EPERM: forbidden by kernel.io_uring_disabled or a seccomp filter; ENOMEM: by RLIMIT_MEMLOCK
  // (before 5.12).
  if (const int result = ::io_uring_queue_init(kMostInFlight, &ring, 0); result < 0) {
    return fail_errno(-result, "set up io_uring");
  }
  const unsigned features = ring.features;
  auto uring = std::make_unique<Uring>(ring, on_block_device);
  // Came after all else that is used here: fallocate is of 5.6.
  if ((features & IORING_FEAT_FAST_POLL) == 0) return fail("set up io_uring: Linux 5.7 or later is needed");
  TRY(uring->attach(fd));
  return uring;
}

}  // namespace mayfly::virtio::block
