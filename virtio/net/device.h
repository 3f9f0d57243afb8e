// The virtio network device (virtio 1.2, section 5.1).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/event_loop.h"
#include "base/result.h"
#include "mmds/metrics.h"
#include "virtio/device.h"
#include "virtio/net/backend.h"
#include "virtio/net/metrics.h"
#include "virtio/net/packet.h"
#include "virtio/rate_limiter.h"

namespace mayfly::mmds {
class Service;
}

namespace mayfly::virtio::net {

struct Config {
  std::string id;                          // iface_id
  std::string tap = {};                    // host_dev_name: a tap interface that exists
  std::string socket_path = {};            // instead of `tap`: a stream socket, as passt listens at
  MacAddress mac{};                        // the guest's; is_station()
  std::optional<std::uint16_t> mtu = {};   // that the guest is told, kLeastMtu or more; absent: it chooses
  bool allow_spoofing = false;             // the guest may send from any MAC, not only its own
  RateLimiterConfig rx_rate_limiter = {};  // to the guest, a token a byte of a frame, and one a frame
  RateLimiterConfig tx_rate_limiter = {};  // from the guest
  std::shared_ptr<const mmds::Service> metadata = {};  // that answers on this interface; null: none does
};

// What the network is called on the host.
inline const std::string& network_of(const Config& config) {
  return config.tap.empty() ? config.socket_path : config.tap;
}

inline constexpr std::uint16_t kLeastMtu = 68;
inline constexpr std::uint16_t kQueueSize = 256;
inline constexpr std::size_t kRxQueue = 0;
inline constexpr std::size_t kTxQueue = 1;

// What a snapshot keeps besides the transport's registers: where the queues stand. Frames never wait in here.
struct State {
  Queue::State rx;
  Queue::State tx;
};

// Frames are moved on the thread that calls queue_notified() and on the loop's, at most kBatch of them and
// kBatchBytes a turn; what is left is taken up after other work had its turn.
//
// The link is down (STATUS, with a configuration interrupt) while the tap is, as far as sending finds out,
// and for good once the tap is gone. What the guest sends then is dropped; the device stays alive.
//
// Frames to the metadata service are not sent, and its answers come before the tap's frames, link or no link.
// Both count as frames and for the rate limiters. TCP connections to it end with reset(), and a snapshot has
// none.
class Device : public VirtioDevice {
 public:
  static constexpr unsigned kBatch = 64;
  static constexpr std::uint64_t kBatchBytes = 1U << 20U;

  // Opens the tap or the socket, of which there must be one. `loop` outlives the device.
  static base::Result<std::unique_ptr<Device>> create(const Config& config, base::EventLoop& loop);
  // The same on another kind of network.
  static base::Result<std::unique_ptr<Device>> create(const Config& config, base::EventLoop& loop,
                                                      const BackendOpener& opener);

  // New rate limiters, at once; RateLimiter::update() has the rules. Under mutex().
  virtual void update(const RateLimiterConfig& rx, const RateLimiterConfig& tx) = 0;

  // Under mutex().
  [[nodiscard]] virtual Metrics metrics() const = 0;
  // Under mutex(). All zero where there is no metadata service.
  [[nodiscard]] virtual mmds::Metrics metadata_metrics() const = 0;
  // Under mutex(). Restored by way of MmioTransport::restore().
  [[nodiscard]] virtual State save() const = 0;
};

}  // namespace mayfly::virtio::net
