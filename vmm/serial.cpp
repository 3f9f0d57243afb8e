#include "vmm/serial.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>

#include "base/ready.h"

namespace mayfly::vmm {

using std::chrono::milliseconds;

namespace {
constexpr auto kReaderPatience = std::chrono::seconds(1);
}

base::Result<std::unique_ptr<Serial>> Serial::create(base::EventLoop& loop, int input, int output,
                                                     std::function<void()> raise_irq) {
  base::UniqueFd kick(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!kick.valid()) return base::fail_errno(errno, "create an eventfd for the serial port");
  std::unique_ptr<Serial> serial(new Serial(loop, std::move(kick), input, output, std::move(raise_irq)));
  Serial* self = serial.get();
  serial->stall_timer_ = TRY(base::Timer::create(
      loop, [self] { self->reader_stalled(); }, &self->mutex_));
  TRY(loop.add(
      self->kick_.get(), EPOLLIN, [self](std::uint32_t) { self->serve(); }, &self->mutex_));
  return serial;
}

Serial::Serial(base::EventLoop& loop, base::UniqueFd kick, int input, int output,
               std::function<void()> raise_irq)
    : loop_(loop),
      raise_irq_(std::move(raise_irq)),
      kick_(std::move(kick)),
      output_(output, ConsoleFd::Direction::kOutput),
      output_open_(output_.present()),
      input_(input, ConsoleFd::Direction::kInput),
      input_open_(input_.present()) {}

Serial::~Serial() {
  const std::lock_guard lock(mutex_);
  loop_.remove(kick_.get());
  set_output_watch(false);
  set_input_watch(false);
}

void Serial::read(std::uint64_t offset, std::span<std::byte> out) {
  const std::lock_guard lock(mutex_);
  // A wider access reaches consecutive registers, as on an 8-bit bus.
  for (std::byte& byte : out) byte = std::byte{uart_.read(offset++)};
  after_access();
}

void Serial::write(std::uint64_t offset, std::span<const std::byte> in) {
  const std::lock_guard lock(mutex_);
  for (const std::byte byte : in) {
    const auto sent = uart_.write(offset++, std::to_integer<std::uint8_t>(byte));
    if (sent) put(*sent);
  }
  after_access();
}

void Serial::after_access() {
  if (uart_.take_interrupt()) raise_irq_();
  // The driver made room, or began to listen.
  if (input_open_ && !input_watched_ && uart_.receive_room() > 0) kick();
}

void Serial::kick() {
  if (std::exchange(kicked_, true)) return;
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(kick_.get(), &one, sizeof(one));
}

void Serial::serve() {
  std::uint64_t count = 0;
  [[maybe_unused]] const ssize_t n = ::read(kick_.get(), &count, sizeof(count));
  kicked_ = false;
  if (!output_watched_) set_output_watch(!write_out());
  update_input();
}

// --- Output

void Serial::put(std::uint8_t byte) {
  if (!output_open_) {
    ++dropped_;
    return;
  }
  ring_.put(std::byte{byte});
  if (ring_.full() && !stalled_) uart_.set_transmit_ready(false);
  if (!output_watched_) kick();
}

// Whether everything was written.
bool Serial::write_out() {
  while (output_open_ && !ring_.empty()) {
    const ssize_t n = output_.write_some(ring_.front());
    if (n == -EAGAIN) {
      if (!ring_.full()) uart_.set_transmit_ready(true);
      if (uart_.take_interrupt()) raise_irq_();
      return false;
    }
    if (n == -EINTR) continue;
    if (n < 0) {
      close_output();
      break;
    }
    ring_.drop(static_cast<std::size_t>(n));
    progress_ += static_cast<std::uint64_t>(n);
    stalled_ = false;
  }
  if (ring_.lost() > lost_reported_) {
    base::log::warning("{} bytes of serial output were lost: its reader was too slow",
                       ring_.lost() - lost_reported_);
    lost_reported_ = ring_.lost();
  }
  uart_.set_transmit_ready(true);
  if (uart_.take_interrupt()) raise_irq_();
  return true;
}

void Serial::close_output() {
  base::log::info("the reader of the serial output is gone");
  output_open_ = false;
  dropped_ += ring_.front().size();
  ring_.clear();
}

void Serial::set_output_watch(bool on) {
  if (on == output_watched_) return;
  output_watched_ = on;
  if (!on) {
    loop_.remove(output_.fd());
    stall_timer_->cancel();
    return;
  }
  const auto added = loop_.add(
      output_.fd(), EPOLLOUT, [this](std::uint32_t) { set_output_watch(!write_out()); }, &mutex_);
  if (!added) {
    // No way to wait for the reader (out of memory or of file descriptors).
    close_output();
    output_watched_ = false;
    uart_.set_transmit_ready(true);
    return;
  }
  progress_at_timer_ = progress_;
  stall_timer_->set(kReaderPatience);
}

void Serial::reader_stalled() {
  if (!output_watched_) return;
  stalled_ = progress_ == progress_at_timer_;
  progress_at_timer_ = progress_;
  stall_timer_->set(kReaderPatience);
  if (!stalled_) return;
  uart_.set_transmit_ready(true);
  if (uart_.take_interrupt()) raise_irq_();
}

void Serial::flush(milliseconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  const std::lock_guard lock(mutex_);
  while (!write_out()) {
    const auto left = std::chrono::ceil<milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left <= milliseconds(0)) return;
    base::ready(output_.fd(), POLLOUT, left);
  }
}

std::uint64_t Serial::lost_output() {
  const std::lock_guard lock(mutex_);
  return ring_.lost() + dropped_;
}

// --- Input

void Serial::update_input() {
  if (!input_open_) return;
  if (input_always_ready_) {
    if (uart_.receive_room() > 0) read_in();
    return;
  }
  set_input_watch(uart_.receive_room() > 0);
}

void Serial::read_in() {
  std::array<std::byte, Uart::kFifoSize> bytes{};
  const std::size_t room = std::min(uart_.receive_room(), bytes.size());
  if (room > 0) {
    const ssize_t n = input_.read_some(std::span(bytes).first(room));
    if (n > 0) {
      uart_.receive(std::span(bytes).first(static_cast<std::size_t>(n)));
      if (uart_.take_interrupt()) raise_irq_();
    } else if (n != -EAGAIN && n != -EINTR) {
      set_input_watch(false);  // its end, or an error such as EIO from a terminal that hung up
      input_open_ = false;
      return;
    }
  }
  if (uart_.receive_room() == 0) set_input_watch(false);
}

void Serial::set_input_watch(bool on) {
  if (on == input_watched_) return;
  if (!on) {
    input_watched_ = false;
    loop_.remove(input_.fd());
    return;
  }
  const auto added = loop_.add(
      input_.fd(), EPOLLIN, [this](std::uint32_t) { read_in(); }, &mutex_);
  if (added) {
    input_watched_ = true;
  } else if (added.error().code == EPERM) {
    input_always_ready_ = true;
    read_in();
  } else {
    base::log::warning("no input for the serial port: {}", added.error().message);
    input_open_ = false;
  }
}

// --- State

Uart::State Serial::save() {
  const std::lock_guard lock(mutex_);
  return uart_.state();
}

void Serial::restore(const Uart::State& state) {
  const std::lock_guard lock(mutex_);
  uart_ = Uart(state);
  uart_.set_transmit_ready(true);
  after_access();
}

}  // namespace mayfly::vmm
