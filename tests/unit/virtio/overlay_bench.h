// An overlay on a base, both in memory, and what is done to it.
#pragma once

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/support/fake_disk.h"
#include "virtio/block/overlay/overlay.h"
#include "virtio/block/work.h"

namespace mayfly::test::overlay {

using namespace virtio::block;
using namespace virtio::block::overlay;
using Kind = Call::Kind;
using Bytes = std::vector<std::byte>;

inline Bytes filled(std::size_t size, char with) {
  return Bytes(size, static_cast<std::byte>(with));
}

// As the engines do it.
inline base::Status run(const Job& job, Medium& medium) {
  Work work;
  work.begin(job);
  while (!work.finished()) work.account(medium.perform(work.call()));
  return work.outcome();
}

inline std::vector<std::span<std::byte>> cut(std::span<std::byte> bytes, std::size_t piece) {
  std::vector<std::span<std::byte>> spans;
  for (std::size_t at = 0; at < bytes.size(); at += piece) {
    spans.push_back(bytes.subspan(at, std::min(piece, bytes.size() - at)));
  }
  return spans;
}

inline base::Status write(Medium& medium, std::uint64_t offset, Bytes bytes, std::size_t piece = 512) {
  const auto spans = cut(bytes, piece);
  return run({.operation = Operation::kWrite, .offset = offset, .spans = spans}, medium);
}

inline Bytes read(Medium& medium, std::uint64_t offset, std::size_t length, std::size_t piece = 512) {
  Bytes bytes = filled(length, '?');
  const auto spans = cut(bytes, piece);
  const auto outcome = run({.operation = Operation::kRead, .offset = offset, .spans = spans}, medium);
  REQUIRE(outcome);
  return bytes;
}

inline base::Status clear(Medium& medium, Operation operation, std::uint64_t offset, std::uint64_t length,
                          bool unmap) {
  const std::vector<Range> ranges = {{.offset = offset, .length = length, .unmap = unmap}};
  return run({.operation = operation, .ranges = ranges}, medium);
}

inline base::Status flush(Medium& medium) {
  return run({.operation = Operation::kFlush}, medium);
}

inline void put(FakeDisk& disk, std::span<const std::byte> bytes, std::size_t offset) {
  std::ranges::copy(bytes, disk.bytes().subspan(offset).begin());
}

inline base::Result<std::unique_ptr<Overlay>> open(std::unique_ptr<Medium> file,
                                                   std::unique_ptr<Medium> below, bool read_only = false) {
  Contents contents = TRY(read_contents(*file));
  return Overlay::open(std::move(file), std::move(contents), std::move(below), read_only);
}

struct Bench {
  explicit Bench(std::uint64_t size = 10 * 4096, std::uint32_t cluster = 4096)
      : description{.cluster_size = cluster, .base = {.size = size}, .base_path = "/base"},
        below(size),
        file(description.file_size()) {
    for (std::size_t i = 0; i < size; ++i) below.bytes()[i] = static_cast<std::byte>(i * 7 + i / 512 + 1);
    put(file, encode(description), 0);
    model = Bytes(below.bytes().begin(), below.bytes().end());
    reopen();
  }
  void reopen(bool read_only = false) {
    overlay.reset();
    overlay = open_files(read_only).value();
  }
  base::Result<std::unique_ptr<Overlay>> open_files(bool read_only = false) {
    return overlay::open(std::make_unique<FakeMedium>(file), std::make_unique<FakeMedium>(below), read_only);
  }
  [[nodiscard]] std::string open_error() {
    auto opened = open_files();
    REQUIRE_FALSE(opened);
    return opened.error().message;
  }
  // To the overlay, and to what it must be.
  void write(std::uint64_t offset, const Bytes& bytes, std::size_t piece = 512) {
    REQUIRE(overlay::write(*overlay, offset, bytes, piece));
    std::ranges::copy(bytes, model.begin() + static_cast<std::ptrdiff_t>(offset));
  }
  [[nodiscard]] bool as_model() { return read(*overlay, 0, model.size(), 4096) == model; }
  [[nodiscard]] ClusterState state(std::uint64_t cluster) const { return overlay->map().at(cluster); }
  [[nodiscard]] std::span<std::byte> data() const { return file.bytes().subspan(description.data_offset()); }

  Description description;
  FakeDisk below;
  FakeDisk file;
  Bytes model;
  std::unique_ptr<Overlay> overlay;
};

}  // namespace mayfly::test::overlay
