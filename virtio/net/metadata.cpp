#include "virtio/net/metadata.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace mayfly::virtio::net {

using mmds::Clock;

base::Result<std::unique_ptr<Metadata>> Metadata::create(std::shared_ptr<const mmds::Service> service,
                                                         base::EventLoop& loop, std::mutex& mutex,
                                                         std::function<void()> ready) {
  auto responder = TRY(mmds::Responder::create(std::move(service)));
  std::unique_ptr<Metadata> metadata(new Metadata(std::move(responder), std::move(ready)));
  metadata->timer_ = TRY(base::Timer::create(
      loop, [raw = metadata.get()] { raw->timed_out(); }, &mutex));
  return metadata;
}

Metadata::Metadata(std::unique_ptr<mmds::Responder> responder, std::function<void()> ready)
    : responder_(std::move(responder)),
      ready_(std::move(ready)),
      frame_(std::make_unique_for_overwrite<std::array<std::byte, kLargestFrame>>()) {}

bool Metadata::take(const Header& header, std::span<const std::byte> head, Reader& rest) {
  if (!responder_->concerns(head)) return false;
  const std::span frame(*frame_);
  std::ranges::copy(head, frame.begin());
  // It fits: check_transmitted() has looked at the length.
  const std::size_t length = head.size() + rest.read(frame.subspan(head.size()));
  // A packet that the host was to cut (GSO) is as good in one piece, and has its checksum left to us, too.
  responder_->receive(frame.first(length), (header.flags & kFlagNeedsCsum) != 0, Clock::now());
  set_timer();
  return true;
}

std::size_t Metadata::read(std::span<const iovec> pieces, std::uint64_t capacity) {
  // No checksum is left to the driver, and nothing to put together: a header of zeros.
  std::array<std::byte, sizeof(Header) + mmds::kLargestReply> packet{};
  const std::size_t length =
      sizeof(Header) + responder_->next(std::span(packet).subspan(sizeof(Header)), Clock::now());
  set_timer();
  std::span<const std::byte> left = std::span(packet).first(length);
  for (const iovec& piece : pieces) {
    const std::size_t n = std::min(piece.iov_len, left.size());
    std::memcpy(piece.iov_base, left.data(), n);
    left = left.subspan(n);
  }
  mmds::Metrics& metrics = responder_->metrics();
  ++(length <= capacity ? metrics.tx_count : metrics.tx_errors);
  return length;
}

void Metadata::reset() {
  responder_->reset();
  set_timer();
}

void Metadata::timed_out() {
  timer_set_to_.reset();
  responder_->tick(Clock::now());
  set_timer();
  if (waiting()) ready_();
}

void Metadata::set_timer() {
  const auto deadline = responder_->deadline();
  if (deadline == timer_set_to_) return;
  timer_set_to_ = deadline;
  if (deadline) {
    timer_->set(*deadline - Clock::now());
  } else {
    timer_->cancel();
  }
}

}  // namespace mayfly::virtio::net
