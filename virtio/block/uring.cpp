#include <liburing.h>
#include <linux/falloc.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/log.h"
#include "virtio/block/backend.h"
#include "virtio/block/ring.h"

namespace mayfly::virtio::block {

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

  // Once, before the first call: registers the file, and forbids the ring all but what it is for.
  base::Status attach(int file);
  [[nodiscard]] bool moves() const override { return true; }
  base::Status move_to(int fd, bool on_block_device) override {
    if (const int result = ::io_uring_register_files_update(&ring_, 0, &fd, 1); result < 0) {
      return fail_errno(-result, "register another file with io_uring");
    }
    on_block_device_ = on_block_device;
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

// What io_uring does passes by system call filters, and it can open files and sockets: a process that was
// taken over must not have such a ring. So the ring is told for good (io_uring_register(2),
// IORING_REGISTER_RESTRICTIONS, Linux 5.10) that it transfers, syncs and deallocates on its registered file.
base::Status Uring::attach(int file) {
  if (const int result = ::io_uring_register_files(&ring_, &file, 1); result < 0) {
    return fail_errno(-result, "register a file with io_uring");
  }
  constexpr std::array kOperations = {IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC,
                                      IORING_OP_FALLOCATE};
  constexpr std::array kRegistrations = {IORING_REGISTER_FILES_UPDATE, IORING_REGISTER_SYNC_CANCEL};
  std::array<io_uring_restriction, kOperations.size() + kRegistrations.size() + 1> allowed{};
  std::size_t count = 0;
  for (const auto operation : kOperations) {
    allowed[count].opcode = IORING_RESTRICTION_SQE_OP;
    allowed[count++].sqe_op = operation;
  }
  for (const auto registration : kRegistrations) {
    allowed[count].opcode = IORING_RESTRICTION_REGISTER_OP;
    allowed[count++].register_op = registration;
  }
  allowed[count].opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
  allowed[count++].sqe_flags = IOSQE_FIXED_FILE;
  // By number: the shared library of Debian 12 (2.3) does not export the functions for these two.
  if (::syscall(__NR_io_uring_register, ring_.ring_fd, IORING_REGISTER_RESTRICTIONS, allowed.data(), count) <
          0 ||
      ::syscall(__NR_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) < 0) {
    return fail_errno(errno, "restrict io_uring (Linux 5.10 or later is needed)");
  }
  return {};
}

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
    constexpr timespec kMillisecond{.tv_sec = 0, .tv_nsec = 1'000'000};
    if (result < 0 && result != -EINTR) ::ppoll(nullptr, 0, &kMillisecond, nullptr);
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
  // EINVAL: a kernel before 5.10. EPERM: forbidden by kernel.io_uring_disabled or a seccomp filter; ENOMEM:
  // by RLIMIT_MEMLOCK (before 5.12).
  if (const int result = ::io_uring_queue_init(kMostInFlight, &ring, IORING_SETUP_R_DISABLED); result < 0) {
    return fail_errno(-result, "set up io_uring");
  }
  auto uring = std::make_unique<Uring>(ring, on_block_device);
  TRY(uring->attach(fd));
  return uring;
}

}  // namespace mayfly::virtio::block
