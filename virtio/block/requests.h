// The requests of a block device between the ring and the backend: taken apart, checked, submitted, answered.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/log.h"
#include "virtio/block/backend.h"
#include "virtio/block/metrics.h"
#include "virtio/block/request.h"
#include "virtio/queue.h"

namespace mayfly::virtio::block {

// Used under the device's mutex.
class Requests {
 public:
  // `id`: the drive's.
  explicit Requests(std::string id);

  // The drive's disk from now on; only when idle().
  void use(std::unique_ptr<Backend> backend) { backend_ = std::move(backend); }
  [[nodiscard]] bool has_backend() const { return backend_ != nullptr; }
  [[nodiscard]] Backend& backend() { return *backend_; }

  // Serves the chain, or submits it to the backend: then completed() answers it. Only when not full().
  // `queue` stays in place as long as it is not idle(). `write_through`: what is written is stable when it is
  // answered.
  void begin(Queue& queue, Chain chain, const Disk& disk, bool write_through);
  // As in Completions.
  void completed(std::uint32_t token, const base::Status& outcome);

  [[nodiscard]] bool full() const { return free_.empty() && flights_.size() == kMostInFlight; }
  [[nodiscard]] bool idle() const { return free_.size() == flights_.size(); }
  // Bytes moved for requests that were answered since the last call.
  std::uint64_t take_moved_bytes() { return std::exchange(moved_bytes_, 0); }
  [[nodiscard]] std::uint64_t moved_bytes() const { return moved_bytes_; }

  Metrics& metrics() { return metrics_; }
  [[nodiscard]] const Metrics& metrics() const { return metrics_; }

 private:
  // A chain on its way, and what its job refers to.
  struct Flight {
    Queue* queue;
    Chain chain;  // without its status byte
    Writer status;
    std::uint32_t writable;  // bytes, with the status
    Request request;
    std::vector<std::span<std::byte>> spans;
    std::vector<Range> ranges;
  };

  std::uint32_t take_token();
  std::optional<RequestStatus> start(std::uint32_t token, const Disk& disk, bool write_through);
  std::optional<Refusal> fetch_ranges(Flight& flight, const Disk& disk) const;
  void answer(std::uint32_t token, RequestStatus status);
  RequestStatus refuse(Refusal refusal);
  void give_id(Writer& data) const;
  void count_success(const Request& request);
  void count_failure(Operation operation, const base::Error& error);

  std::string id_;
  std::unique_ptr<Backend> backend_;
  std::vector<std::optional<Flight>> flights_;  // by token; grows up to kMostInFlight, and stays in place
  std::vector<std::uint32_t> free_;             // tokens
  std::uint64_t moved_bytes_ = 0;
  Metrics metrics_;
  base::log::Limiter limiter_;
};

}  // namespace mayfly::virtio::block
