// The first serial port of a PC (0x3f8, IRQ 4): the guest's console.
//
// Output goes through a bounded buffer to a file descriptor that may be slow or closed; no vCPU ever waits
// for it. Nor is text thrown away because its reader is busy: while the buffer is full the port withholds
// THRE, as a UART on a stopped line does, and a driver waits. A reader that takes nothing for one second is
// given up until it reads again: THRE comes back and the oldest bytes give way to new ones, so that nobody
// who holds our output can stop the guest, and the last words of a guest that panics are kept.
//
// Input is read only when the driver listens and its FIFO has room.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "vmm/bus.h"
#include "vmm/console_fd.h"
#include "vmm/console_ring.h"
#include "vmm/uart.h"

namespace mayfly::vmm {

inline constexpr std::uint64_t kSerialPort = 0x3f8;

class Serial final : public BusDevice {
 public:
  // `input` and `output` are borrowed, -1 for none. `raise_irq` pulses the interrupt line; it is called with
  // the device's mutex held, from any thread. `loop` outlives the device. Created and destroyed on the loop's
  // thread. SIGPIPE must be ignored by the process.
  static base::Result<std::unique_ptr<Serial>> create(base::EventLoop& loop, int input, int output,
                                                      std::function<void()> raise_irq);
  ~Serial() override;

  void read(std::uint64_t offset, std::span<std::byte> out) override;
  void write(std::uint64_t offset, std::span<const std::byte> in) override;

  // Writes what is buffered, for at most `limit`. Any thread.
  void flush(std::chrono::milliseconds limit);

  // Bytes of output that no one will read.
  [[nodiscard]] std::uint64_t lost_output();

  // Registers only: buffered output is the host's affair.
  [[nodiscard]] Uart::State save();
  void restore(const Uart::State& state);

  // What handlers on the loop are called with; see EventLoop.
  [[nodiscard]] std::mutex& mutex() { return mutex_; }

 private:
  Serial(base::EventLoop& loop, base::UniqueFd kick, int input, int output, std::function<void()> raise_irq);
  // All of these with mutex_ held.
  void put(std::uint8_t byte);
  void after_access();
  void kick();
  void serve();  // on the loop's thread
  bool write_out();
  void close_output();
  void set_output_watch(bool on);
  void reader_stalled();
  void read_in();
  void set_input_watch(bool on);
  void update_input();

  base::EventLoop& loop_;
  std::function<void()> raise_irq_;
  base::UniqueFd kick_;  // eventfd: the vCPU's way to ask for serve()
  std::mutex mutex_;     // guards what follows
  bool kicked_ = false;
  Uart uart_;

  ConsoleFd output_;
  ConsoleRing ring_;
  bool output_open_;
  bool output_watched_ = false;
  bool stalled_ = false;             // the reader was given up, for now
  std::uint64_t lost_reported_ = 0;  // of ring_.lost()
  std::uint64_t dropped_ = 0;        // after the output was closed
  std::uint64_t progress_ = 0;       // bytes written, ever
  std::uint64_t progress_at_timer_ = 0;
  std::unique_ptr<base::Timer> stall_timer_;  // set while output_watched_

  ConsoleFd input_;
  bool input_open_;
  bool input_watched_ = false;
  bool input_always_ready_ = false;  // a regular file, which epoll does not take
};

}  // namespace mayfly::vmm
