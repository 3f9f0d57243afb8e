// Overlay files of any content, and any requests on those that open, on files that fail: nothing is touched
// that must not be, and the disk is an array of bytes.
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/log.h"
#include "tests/fuzz/input.h"
#include "virtio/block/overlay/overlay.h"

using namespace mayfly;
using namespace mayfly::virtio::block;
using namespace mayfly::virtio::block::overlay;
using fuzz::Input;
using fuzz::require;
using Bytes = std::vector<std::byte>;
using Kind = Call::Kind;

namespace {

constexpr std::uint64_t kMostSectors = 256;
constexpr std::array<int, 8> kResults = {0, 0, 1, 513, -EINTR, -EIO, -ENOSPC, -EOPNOTSUPP};

struct Disk {
  Bytes bytes;
  bool writable = false;
  std::array<int, 8> results{};  // of calls, in turn: 0 for success, the most to move, -errno
  std::size_t next = 0;
  bool failed = false;  // some call did, or stopped half way

  [[nodiscard]] int next_result() {
    const int result = results[next++ % results.size()];
    failed = failed || result != 0;
    return result;
  }
};

class CheckingMedium final : public Medium {
 public:
  explicit CheckingMedium(Disk& disk) : disk_(disk) {}
  base::Result<std::uint64_t> size() override { return disk_.bytes.size(); }
  [[nodiscard]] Geometry geometry() const override { return {}; }
  std::int64_t perform(const Call& call) override {
    require(call.kind == Kind::kRead || disk_.writable);
    std::uint64_t length = call.length;
    for (const iovec& piece : call.pieces) length += piece.iov_len;
    require(call.kind == Kind::kSync || length > 0);
    require(call.offset <= disk_.bytes.size() && length <= disk_.bytes.size() - call.offset);
    // Of the header only the one word changes.
    const bool writes = call.kind != Kind::kRead && call.kind != Kind::kSync;
    if (writes && call.offset < kHeaderSize)
      require(call.offset >= kInUseOffset && length <= 4 && call.offset + length <= kInUseOffset + 4);
    const int result = disk_.next_result();
    if (result < 0) return result;
    if (call.kind == Kind::kSync) return 0;
    std::byte* const at = disk_.bytes.data() + call.offset;
    if (call.kind != Kind::kRead && call.kind != Kind::kWrite) {
      std::memset(at, 0, length);
      return 0;
    }
    return move(call, at, result > 0 ? static_cast<std::uint64_t>(result) : length);
  }

 private:
  static std::int64_t move(const Call& call, std::byte* at, std::uint64_t most) {
    std::uint64_t moved = 0;
    for (const iovec& piece : call.pieces) {
      const std::size_t part = std::min<std::uint64_t>(piece.iov_len, most - moved);
      if (part == 0) break;
      void* const to = call.kind == Kind::kRead ? piece.iov_base : at + moved;
      const void* const from = call.kind == Kind::kRead ? at + moved : piece.iov_base;
      std::memcpy(to, from, part);
      moved += part;
    }
    return static_cast<std::int64_t>(moved);
  }
  Disk& disk_;
};

// A header that is good but for what the input changes, and some entries of the map.
Bytes make_file(Input& input, std::uint64_t disk_size) {
  const std::uint8_t mode = input.byte();
  const Description description{
      .cluster_size = (mode & 1U) != 0 ? 4096U : 16384U, .base = {.size = disk_size}, .base_path = "/base"};
  HeaderBytes header = encode(description);
  for (unsigned changes = (mode >> 1U) & 3U; changes > 0; --changes) {
    header[input.number() % 80] = static_cast<std::byte>(input.byte());
  }
  if ((mode & 8U) != 0) header[kInUseOffset] = static_cast<std::byte>(input.byte());
  if ((mode & 16U) != 0) {
    const base::Le64 sum = checksum(header);
    std::memcpy(header.data() + offsetof(HeaderStart, checksum), &sum, sizeof(sum));
  }
  std::uint64_t size = description.file_size();
  if ((mode & 32U) != 0) size = std::min<std::uint64_t>(size, input.number());
  Bytes file(size);
  std::copy_n(header.begin(), std::min<std::uint64_t>(header.size(), size), file.begin());
  for (unsigned entries = mode >> 6U; entries > 0 && size > kMapOffset; --entries) {
    const std::uint64_t at = kMapOffset + input.number() % (size - kMapOffset);
    file[at] = static_cast<std::byte>(input.byte());
  }
  return file;
}

// All of it, where no call fails.
Bytes read_all(Overlay& overlay, std::uint64_t offset, std::uint64_t length) {
  Bytes bytes(length);
  for (std::uint64_t at = 0; at < length;) {
    const iovec piece{.iov_base = bytes.data() + at, .iov_len = length - at};
    const std::int64_t moved =
        overlay.perform({.kind = Kind::kRead, .pieces = std::span(&piece, 1), .offset = offset + at});
    require(moved > 0);
    at += static_cast<std::uint64_t>(moved);
  }
  return bytes;
}

class Session {
 public:
  Session(Overlay& overlay, Disk& file, Disk& below)
      : overlay_(overlay), file_(file), below_(below), size_(overlay.size().value()) {
    heal();
    model_ = read_all(overlay_, 0, size_);
  }
  void serve(Input& input) {
    while (!input.empty()) {
      const std::uint8_t act = input.byte();
      switch (act % 8) {
        case 0:
          file_.results[input.byte() % file_.results.size()] = kResults[input.byte() % kResults.size()];
          break;
        case 1:
          below_.results[input.byte() % below_.results.size()] = kResults[input.byte() % kResults.size()];
          break;
        case 2:
          static_cast<void>(overlay_.perform({.kind = Kind::kSync}));
          break;
        case 3:
        case 4:
          transfer(Kind::kWrite, input);
          break;
        case 5:
          transfer(Kind::kRead, input);
          break;
        default:
          clear(act % 8 == 6 ? Kind::kDiscard : (act & 8U) != 0 ? Kind::kPunch : Kind::kZero, input);
      }
    }
    heal();
    require(read_all(overlay_, 0, size_) == model_);
  }

 private:
  void heal() {
    file_.results = {};
    below_.results = {};
    file_.failed = below_.failed = false;
  }
  // What a call that failed has left is whatever it is.
  void settle() {
    if (!file_.failed && !below_.failed) return;
    const auto file = file_.results;
    const auto below = below_.results;
    heal();
    model_ = read_all(overlay_, 0, size_);
    file_.results = file;
    below_.results = below;
  }
  void transfer(Kind kind, Input& input) {
    const std::uint64_t offset = input.number();
    Bytes bytes(1U + input.take<std::uint16_t>(), static_cast<std::byte>(input.byte()));
    const std::size_t cut = input.take<std::uint16_t>() % bytes.size();
    std::array<iovec, 2> pieces = {{{.iov_base = bytes.data(), .iov_len = cut},
                                    {.iov_base = bytes.data() + cut, .iov_len = bytes.size() - cut}}};
    const auto used = cut == 0 ? std::span<const iovec>(pieces).subspan(1) : std::span<const iovec>(pieces);
    const std::int64_t moved = overlay_.perform({.kind = kind, .pieces = used, .offset = offset});
    require(moved <= static_cast<std::int64_t>(bytes.size()));
    if (moved > 0) {
      require(offset < size_ && static_cast<std::uint64_t>(moved) <= size_ - offset);
      const auto at = model_.begin() + static_cast<std::ptrdiff_t>(offset);
      if (kind == Kind::kWrite)
        std::copy_n(bytes.begin(), moved, at);
      else
        require(std::equal(at, at + moved, bytes.begin()));
    }
    // A write that failed has changed nothing; one into its place may have changed a part.
    settle();
  }
  void clear(Kind kind, Input& input) {
    const std::uint64_t offset = input.number();
    const std::uint64_t length = std::max<std::uint64_t>(input.number(), 1);
    const std::int64_t result = overlay_.perform({.kind = kind, .offset = offset, .length = length});
    require(result <= 0);
    if (result == 0 && offset < size_) {
      std::uint64_t begin = offset;
      std::uint64_t end = offset + std::min(length, size_ - offset);
      const std::uint64_t cluster = overlay_.description().cluster_size;
      if (kind == Kind::kDiscard) {
        begin = (begin + cluster - 1) / cluster * cluster;
        if (end != size_) end = end / cluster * cluster;
      }
      if (begin < end)
        std::fill(model_.begin() + static_cast<std::ptrdiff_t>(begin),
                  model_.begin() + static_cast<std::ptrdiff_t>(end), std::byte{0});
    }
    if (result < 0) settle();
    file_.failed = below_.failed = false;
  }

  Overlay& overlay_;
  Disk& file_;
  Disk& below_;
  std::uint64_t size_;
  Bytes model_;
};

base::log::Options quiet() {
  base::log::Options options;
  options.level = base::log::Level::kOff;
  return options;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto configured = base::log::configure(quiet());
  require(configured.has_value());
  Input input(data, size);
  const std::uint64_t disk_size = (1 + input.take<std::uint16_t>() % kMostSectors) * 512;
  Disk file{.bytes = make_file(input, disk_size), .writable = true};
  Disk below{.bytes = Bytes(disk_size, std::byte{'b'})};
  CheckingMedium look(file);
  auto contents = read_contents(look);
  if (!contents) return 0;
  const bool read_only = (input.byte() & 1U) != 0;
  file.writable = !read_only;
  auto overlay = Overlay::open(std::make_unique<CheckingMedium>(file), std::move(*contents),
                               std::make_unique<CheckingMedium>(below), read_only);
  if (!overlay) return 0;
  Session(**overlay, file, below).serve(input);
  const Bytes before = read_all(**overlay, 0, disk_size);
  // Closed and opened again it is what it was, unless a sync failed.
  const bool closed = (*overlay)->close().has_value();
  overlay->reset();
  if (!closed) return 0;
  auto again = Overlay::open(std::make_unique<CheckingMedium>(file), read_contents(look).value(),
                             std::make_unique<CheckingMedium>(below), true);
  require(again.has_value());
  require(read_all(**again, 0, disk_size) == before);
  return 0;
}
