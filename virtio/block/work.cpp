#include "virtio/block/work.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>

namespace mayfly::virtio::block {

using base::fail;
using base::fail_errno;

namespace {

// What zeros are written from where no call makes them. Never written to, so it costs no memory.
constexpr std::size_t kZeroPage = 65536;
constexpr std::array<std::byte, kZeroPage> kZeroes{};
constexpr std::size_t kZeroPieces = 16;  // 1 MiB a call

}  // namespace

void Work::begin(const Job& job) {
  operation_ = job.operation;
  stable_ = job.stable;
  pieces_.clear();
  left_ = {};
  ranges_ = job.ranges;
  to_fill_ = 0;
  call_ = {};
  repeats_ = 0;
  finished_ = false;
  outcome_ = {};
  switch (operation_) {
    case Operation::kRead:
    case Operation::kWrite:
      call_.kind = operation_ == Operation::kRead ? Call::Kind::kRead : Call::Kind::kWrite;
      call_.offset = job.offset;
      for (const auto& span : job.spans) {
        if (!span.empty()) pieces_.push_back({.iov_base = span.data(), .iov_len = span.size()});
      }
      left_ = pieces_;
      return next_pieces();
    case Operation::kDiscard:
    case Operation::kWriteZeroes:
      return next_range();
    case Operation::kFlush:
      call_.kind = Call::Kind::kSync;
      return;
    case Operation::kGetId:
      finished_ = true;
  }
}

void Work::account(std::int64_t result) {
  const int error = result < 0 ? static_cast<int>(-result) : 0;
  // ECANCELED: io_uring, when the thread that submitted the call has ended.
  if (error == EINTR || error == EAGAIN || error == ECANCELED) {
    if (++repeats_ > kMostRepeats) failed(error);
    return;
  }
  repeats_ = 0;
  if (error != 0) {
    if (!try_otherwise(error)) failed(error);
    return;
  }
  switch (call_.kind) {
    case Call::Kind::kRead:
    case Call::Kind::kWrite:
      if (result == 0) {
        outcome_ = fail("the disk ends at offset {}", call_.offset);
        finished_ = true;
        return;
      }
      return moved(static_cast<std::uint64_t>(result));
    case Call::Kind::kSync:
      finished_ = true;
      return;
    case Call::Kind::kDiscard:
    case Call::Kind::kPunch:
    case Call::Kind::kZero:
      return next_range();
  }
}

void Work::give_up() {
  if (finished_) return;
  finished_ = true;
  outcome_ = fail_errno(ECANCELED, "finish a request");
}

void Work::moved(std::uint64_t bytes) {
  call_.offset += bytes;
  if (to_fill_ > 0) {
    to_fill_ -= std::min(bytes, to_fill_);
    return to_fill_ > 0 ? fill() : next_range();
  }
  while (bytes > 0 && !left_.empty()) {
    iovec& front = left_.front();
    const std::size_t part = std::min<std::uint64_t>(bytes, front.iov_len);
    front.iov_base = static_cast<std::byte*>(front.iov_base) + part;
    front.iov_len -= part;
    bytes -= part;
    if (front.iov_len == 0) left_ = left_.subspan(1);
  }
  next_pieces();
}

void Work::next_pieces() {
  if (left_.empty()) return done();
  call_.pieces = left_.first(std::min<std::size_t>(left_.size(), IOV_MAX));
}

void Work::next_range() {
  while (!ranges_.empty() && ranges_.front().length == 0) ranges_ = ranges_.subspan(1);
  if (ranges_.empty()) return done();
  const Range& range = ranges_.front();
  call_ = {.kind = Call::Kind::kDiscard, .offset = range.offset, .length = range.length};
  // Section 5.2.6.2: with `unmap` the device may deallocate; without it, the space is wanted.
  if (operation_ == Operation::kWriteZeroes)
    call_.kind = range.unmap ? Call::Kind::kPunch : Call::Kind::kZero;
  ranges_ = ranges_.subspan(1);
}

// The call is not to be had here; zeros are written if need be. EINVAL: a block device whose blocks are
// larger than what was asked for.
bool Work::try_otherwise(int error) {
  if (error != EOPNOTSUPP && error != EINVAL && error != ENOSYS) return false;
  switch (call_.kind) {
    case Call::Kind::kDiscard:
      // Section 5.2.6.2: the device may deallocate, or let it be.
      next_range();
      return true;
    case Call::Kind::kPunch:
      call_.kind = Call::Kind::kZero;
      return true;
    case Call::Kind::kZero:
      to_fill_ = call_.length;
      call_ = {.kind = Call::Kind::kWrite, .offset = call_.offset};
      fill();
      return true;
    default:
      return false;
  }
}

void Work::fill() {
  pieces_.clear();
  std::uint64_t left = to_fill_;
  while (left > 0 && pieces_.size() < kZeroPieces) {
    const std::size_t part = std::min<std::uint64_t>(left, kZeroes.size());
    // An iovec has no const; it is written from only.
    pieces_.push_back({.iov_base = const_cast<std::byte*>(kZeroes.data()), .iov_len = part});
    left -= part;
  }
  call_.pieces = pieces_;
}

void Work::done() {
  if (std::exchange(stable_, false)) {
    call_ = {.kind = Call::Kind::kSync};
    return;
  }
  finished_ = true;
}

void Work::failed(int error) {
  finished_ = true;
  if (call_.kind == Call::Kind::kSync) {
    outcome_ = fail_errno(error, "write the disk to stable storage");
  } else {
    outcome_ = fail_errno(error, "transfer at offset {}", call_.offset);
  }
}

}  // namespace mayfly::virtio::block
