// A network device's plug: its network, whether the link is up, and what the event loop watches it for.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>

#include "base/event_loop.h"
#include "base/log.h"
#include "base/result.h"
#include "virtio/net/backend.h"

namespace mayfly::virtio::net {

// Used under the device's mutex.
//
// An event is only watched for while it can be acted on: level-triggered events that nobody consumes would
// come for ever.
class Port {
 public:
  // Both are called with the device's mutex held: `ready` on the loop's thread.
  struct Owner {
    std::function<void(bool readable, bool writable)> ready;
    std::function<void()> link_changed;
  };

  // `name`: of the network, in the log. `loop` and `mutex` outlive the port.
  Port(std::string name, std::unique_ptr<Backend> backend, base::EventLoop& loop, std::mutex& mutex,
       Owner owner)
      : name_(std::move(name)),
        backend_(std::move(backend)),
        loop_(loop),
        mutex_(mutex),
        owner_(std::move(owner)) {}
  ~Port() { unwatch(); }
  Port(const Port&) = delete;
  Port& operator=(const Port&) = delete;

  [[nodiscard]] std::uint64_t offloads() const { return backend_->offloads(); }
  [[nodiscard]] bool link_up() const { return link_ == Link::kUp; }
  // Backend::set_features(); where that fails, the network is gone.
  void set_features(std::uint64_t features);

  // Asks for Owner::ready while there are frames to read, or while there is room to write. While the network
  // is down or gone it waits for what can change that.
  void watch(bool readable, bool writable);
  void unwatch();

  // As the backend's. An error that is the network's and not a frame's takes the link down.
  Backend::Moved read(std::span<const iovec> pieces);
  Backend::Moved write(std::span<const iovec> pieces);

 private:
  enum class Link : std::uint8_t {
    kUp,
    kDown,  // the interface is; EPOLLOUT tells when it is up again
    kGone,  // there is no interface any more
  };
  void happened(std::uint32_t events);
  void not_written(int error);
  void fail(Link link, int code);
  void set_link(Link link);

  std::string name_;
  std::unique_ptr<Backend> backend_;
  base::EventLoop& loop_;
  std::mutex& mutex_;
  Owner owner_;
  Link link_ = Link::kUp;
  std::optional<std::uint32_t> watched_;  // the events, or not at all
  base::log::Limiter limiter_;
};

}  // namespace mayfly::virtio::net
