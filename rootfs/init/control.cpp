#include "rootfs/init/control.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

namespace mayfly::init {

void Control::watch(PollSet& polls) {
  slot_ = PollSet::kNoSlot;
  if (open()) slot_ = polls.add(fd_.get(), out_length_ > 0 ? POLLIN | POLLOUT : POLLIN);
}

bool Control::serve(const PollSet& polls) {
  const short seen = polls.seen(slot_);
  if ((seen & POLLOUT) != 0) flush();
  return (seen & ~POLLOUT) != 0;
}

Control::Input Control::read_into(char* bytes, std::size_t wanted, std::size_t& have) {
  while (have < wanted) {
    const ssize_t count = ::read(fd_.get(), bytes + have, wanted - have);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return Input::kNothing;
    if (count <= 0) return Input::kEnded;
    have += static_cast<std::size_t>(count);
  }
  return Input::kFrame;
}

Control::Input Control::receive() {
  if (header_have_ < header_bytes_.size()) {
    const Input input = read_into(header_bytes_.data(), header_bytes_.size(), header_have_);
    if (input != Input::kFrame) return input;
    std::memcpy(&header_, header_bytes_.data(), sizeof(header_));
    if (header_.length > base::agent::kLongestFrame) return Input::kEnded;
    body_ = Buffer::allocate(header_.length);
    body_have_ = 0;
    if (!body_.valid()) return Input::kEnded;
  }
  const Input input = read_into(body_.bytes().data(), body_.size(), body_have_);
  if (input == Input::kFrame) header_have_ = 0;
  return input;
}

Buffer Control::take_body() {
  return std::move(body_);
}

bool Control::send_raw(std::span<const char> bytes) {
  if (bytes.size() > out_.size() - out_length_) return false;
  if (!bytes.empty()) std::memcpy(out_.data() + out_length_, bytes.data(), bytes.size());
  out_length_ += bytes.size();
  return flush();
}

bool Control::send_frame(base::agent::Frame type, std::span<const char> body) {
  base::agent::FrameHeader header;
  header.type = static_cast<std::uint32_t>(type);
  header.length = static_cast<std::uint32_t>(body.size());
  std::array<char, 640> frame;
  if (body.size() > frame.size() - sizeof(header)) return false;
  std::memcpy(frame.data(), &header, sizeof(header));
  if (!body.empty()) std::memcpy(frame.data() + sizeof(header), body.data(), body.size());
  return send_raw(std::span(frame).first(sizeof(header) + body.size()));
}

bool Control::flush() {
  if (out_length_ == 0) return true;
  const ssize_t count = ::send(fd_.get(), out_.data(), out_length_, MSG_NOSIGNAL);
  if (count < 0) return errno == EAGAIN || errno == EINTR;
  out_length_ -= static_cast<std::size_t>(count);
  std::memmove(out_.data(), out_.data() + count, out_length_);
  return true;
}

}  // namespace mayfly::init
