// A disk in memory that fails when it is told to.
#pragma once

#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <stdexcept>
#include <vector>

#include "base/unique_fd.h"
#include "virtio/block/medium.h"

namespace mayfly::test {

// The bytes are in a memfd, so that a real ring can work on them, and mapped, so that a test can look.
class FakeDisk {
 public:
  using Kind = virtio::block::Call::Kind;

  explicit FakeDisk(std::uint64_t size) : fd_(::memfd_create("disk", MFD_CLOEXEC)) { resize(size); }
  ~FakeDisk() { ::munmap(bytes_.data(), bytes_.size()); }
  FakeDisk(const FakeDisk&) = delete;
  FakeDisk& operator=(const FakeDisk&) = delete;

  void resize(std::uint64_t size) {
    if (!bytes_.empty()) ::munmap(bytes_.data(), bytes_.size());
    if (::ftruncate(fd(), static_cast<off_t>(size)) < 0) throw std::runtime_error("cannot resize the disk");
    void* at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd(), 0);
    if (at == MAP_FAILED) throw std::runtime_error("cannot map the disk");
    bytes_ = {static_cast<std::byte*>(at), size};
  }
  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] std::span<std::byte> bytes() const { return bytes_; }
  void fill(std::byte value) { std::ranges::fill(bytes_, value); }

  // What perform() returns.
  std::int64_t perform(const virtio::block::Call& call) {
    ++calls[call.kind];
    const bool transfers = call.kind == Kind::kRead || call.kind == Kind::kWrite;
    if (transfers ? call.length != 0 : !call.pieces.empty()) throw std::logic_error("a call of two kinds");
    if (!script.empty()) {
      const std::int64_t next = script.front();
      script.pop_front();
      if (next < 0) return next;
      return transfer(call, static_cast<std::uint64_t>(next));
    }
    if (const auto error = errors.find(call.kind); error != errors.end()) {
      // Part of a read was done.
      if (call.kind == Kind::kRead) transfer(call, 1);
      return -error->second;
    }
    return transfer(call, ~0ULL);
  }

  std::map<Kind, int> errors;       // errno by kind of call, until it is taken out; 0: the disk ends here
  std::deque<std::int64_t> script;  // before those: what the next calls return, as -errno or the most to move
  std::optional<int> size_error;
  std::map<Kind, int> calls;  // counted
  virtio::block::Geometry geometry{
      .physical_block = 4096, .least_io = 4096, .best_io = 65536, .discards = true, .discard_block = 4096};

 private:
  std::int64_t transfer(const virtio::block::Call& call, std::uint64_t most) {
    switch (call.kind) {
      case Kind::kSync:
        return 0;
      case Kind::kDiscard:
      case Kind::kPunch:
      case Kind::kZero:
        std::ranges::fill(bytes_.subspan(call.offset, call.length), std::byte{0});
        return 0;
      default:
        return move(call, most);
    }
  }
  std::int64_t move(const virtio::block::Call& call, std::uint64_t most) {
    std::uint64_t offset = call.offset;
    std::uint64_t moved = 0;
    for (const iovec& piece : call.pieces) {
      if (offset >= bytes_.size() || moved >= most) break;
      const std::size_t part = std::min({std::uint64_t{piece.iov_len}, bytes_.size() - offset, most - moved});
      if (call.kind == Kind::kRead) {
        std::memcpy(piece.iov_base, bytes_.data() + offset, part);
      } else {
        std::memcpy(bytes_.data() + offset, piece.iov_base, part);
      }
      offset += part;
      moved += part;
    }
    return static_cast<std::int64_t>(moved);
  }

  base::UniqueFd fd_;
  std::span<std::byte> bytes_;
};

// A FakeDisk, to give away.
class FakeMedium : public virtio::block::Medium {
 public:
  explicit FakeMedium(FakeDisk& disk) : disk_(disk) {}
  base::Result<std::uint64_t> size() override {
    if (disk_.size_error) return base::fail_errno(*disk_.size_error, "the disk was told to fail");
    return disk_.bytes().size();
  }
  [[nodiscard]] virtio::block::Geometry geometry() const override { return disk_.geometry; }
  std::int64_t perform(const virtio::block::Call& call) override { return disk_.perform(call); }

 private:
  FakeDisk& disk_;
};

}  // namespace mayfly::test
