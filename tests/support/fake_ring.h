// A ring that finishes calls when, and in the order that, a test wants.
#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include "virtio/block/backend.h"
#include "virtio/block/ring.h"

namespace mayfly::test {

// What a test sees of a FakeRing, and tells it; outlives it.
struct RingControl {
  std::function<std::int64_t(const virtio::block::Call&)> perform;
  bool slow = false;      // calls wait until finish_all(), or until somebody waits for them
  bool reversed = false;  // the last that was begun is finished first
  bool cancels = false;   // what has not been finished can be given up
  int refusals = 0;       // so many times the kernel has no memory

  // Counted.
  int submits = 0;
  int waits = 0;
  int rings = 0;  // that exist
  std::size_t most_in_flight = 0;

  std::vector<std::pair<virtio::block::Call, std::uint32_t>> begun;
  std::vector<virtio::block::Ring::Finished> finished;
  base::UniqueFd event{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};

  void finish_all(bool cancelled = false) {
    if (reversed) std::reverse(begun.begin(), begun.end());
    for (const auto& [call, token] : begun)
      finished.push_back({token, cancelled ? -ECANCELED : perform(call)});
    if (begun.empty()) return;
    begun.clear();
    // The event is readable as long as there is something to take.
    const std::uint64_t one = 1;
    if (::write(event.get(), &one, sizeof(one)) != sizeof(one)) throw std::runtime_error("eventfd");
  }
  void calm() const {
    std::uint64_t count = 0;
    if (::read(event.get(), &count, sizeof(count)) != sizeof(count)) throw std::runtime_error("eventfd");
  }
};

class FakeRing : public virtio::block::Ring {
 public:
  explicit FakeRing(RingControl& control) : control_(control) { ++control_.rings; }
  ~FakeRing() override {
    if (!in_flight_.empty()) std::abort();
    --control_.rings;
  }
  FakeRing(const FakeRing&) = delete;
  FakeRing& operator=(const FakeRing&) = delete;

  [[nodiscard]] int event_fd() const override { return control_.event.get(); }
  // As on a block device.
  [[nodiscard]] bool takes(virtio::block::Call::Kind kind) const override {
    return kind != virtio::block::Call::Kind::kDiscard;
  }
  void put(const virtio::block::Call& call, std::uint32_t token) override {
    if (token >= virtio::block::kMostInFlight || !in_flight_.insert(token).second) std::abort();
    control_.most_in_flight = std::max(control_.most_in_flight, in_flight_.size());
    put_.emplace_back(call, token);
  }
  bool submit() override {
    ++control_.submits;
    if (control_.refusals > 0) {
      --control_.refusals;
      return false;
    }
    control_.begun.insert(control_.begun.end(), put_.begin(), put_.end());
    put_.clear();
    if (!control_.slow) control_.finish_all();
    return true;
  }
  std::optional<Finished> take() override {
    if (control_.finished.empty()) return std::nullopt;
    const Finished first = control_.finished.front();
    control_.finished.erase(control_.finished.begin());
    in_flight_.erase(first.token);
    if (control_.finished.empty()) control_.calm();
    return first;
  }
  void wait() override {
    ++control_.waits;
    while (!submit()) {
    }
    control_.finish_all();
    if (control_.finished.empty()) std::abort();  // it would wait for ever
  }
  void cancel() override {
    if (control_.cancels) control_.finish_all(true);
  }

 private:
  RingControl& control_;
  std::vector<std::pair<virtio::block::Call, std::uint32_t>> put_;
  std::set<std::uint32_t> in_flight_;
};

}  // namespace mayfly::test
