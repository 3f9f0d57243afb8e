// The control stream of a session: frames in, frames out.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/agent_protocol.h"
#include "base/unique_fd.h"
#include "rootfs/init/buffer.h"
#include "rootfs/init/poll_set.h"

namespace mayfly::init {

class Control {
 public:
  enum class Input {
    kNothing,  // no whole frame yet
    kFrame,    // type() and take_body() have one
    kEnded,    // end of file, an error, or not our protocol: nothing more will come
  };

  void start(base::UniqueFd fd) {
    *this = Control();
    fd_ = std::move(fd);
  }
  [[nodiscard]] bool open() const { return fd_.valid(); }
  void close() { *this = Control(); }

  void watch(PollSet& polls);
  // Whether there may be something to receive. Sends what was held back.
  bool serve(const PollSet& polls);

  // Reads towards one frame.
  Input receive();
  [[nodiscard]] base::agent::Frame type() const {
    return static_cast<base::agent::Frame>(std::uint32_t{header_.type});
  }
  Buffer take_body();

  // Sent at once, or as soon as the host takes them. A host that takes nothing while the few frames of a
  // session pile up loses it: false.
  bool send_raw(std::span<const char> bytes);
  bool send_frame(base::agent::Frame type, std::span<const char> body);
  template <base::Wire T>
  bool send(base::agent::Frame type, const T& body) {
    std::array<char, sizeof(T)> bytes;
    std::memcpy(bytes.data(), &body, sizeof(T));
    return send_frame(type, bytes);
  }

 private:
  bool flush();
  // As read(2), for `wanted` bytes counted by `have`.
  Input read_into(char* bytes, std::size_t wanted, std::size_t& have);

  base::UniqueFd fd_;
  std::size_t slot_ = PollSet::kNoSlot;
  base::agent::FrameHeader header_{};
  std::array<char, sizeof(base::agent::FrameHeader)> header_bytes_{};
  std::size_t header_have_ = 0;
  Buffer body_;
  std::size_t body_have_ = 0;
  std::array<char, 768> out_;
  std::size_t out_length_ = 0;
};

}  // namespace mayfly::init
