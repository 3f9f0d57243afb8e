// Moves bytes one way, from one ByteEnd to another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "base/event_loop.h"
#include "base/result.h"
#include "cli/byte_end.h"

namespace mayfly::cli {

// Holds at most kBufferBytes that were read and not written yet, and reads nothing while it holds any:
// whoever writes faster than the other reads is slowed down, and memory stays the same. Lives on the loop's
// thread.
class Pump {
 public:
  static constexpr std::size_t kBufferBytes = 256U << 10U;

  enum class Ending : std::uint8_t {
    kSourceEnded,   // and all of it was written
    kSourceFailed,  // likewise, up to the error
    kSinkClosed,    // nobody reads any more
    kSinkFailed,
  };
  struct Handlers {
    // Once; from the loop, never from within create(). May destroy the pump. `error`: an errno value, or 0.
    std::function<void(Ending ending, int error)> on_end;
    // What was read, before it is written.
    std::function<void(std::span<const std::byte>)> on_bytes = nullptr;
  };

  // `loop` outlives the pump. The ends become the pump's.
  static base::Result<std::unique_ptr<Pump>> create(base::EventLoop& loop, ByteEnd source, ByteEnd sink,
                                                    Handlers handlers);
  ~Pump();
  Pump(const Pump&) = delete;
  Pump& operator=(const Pump&) = delete;

  ByteEnd& source() { return source_; }
  ByteEnd& sink() { return sink_; }

 private:
  Pump(base::EventLoop& loop, ByteEnd source, ByteEnd sink, Handlers handlers);
  base::Status watch(int fd, std::uint32_t events, bool& ready);
  void run_soon();
  void run();
  bool fill();
  bool drain();
  void end(Ending ending, int error);

  base::EventLoop& loop_;
  ByteEnd source_;
  ByteEnd sink_;
  Handlers handlers_;
  std::unique_ptr<base::Timer> retry_;
  std::shared_ptr<bool> alive_;          // for what was posted to the loop
  std::unique_ptr<std::byte[]> buffer_;  // kBufferBytes, untouched until used
  std::size_t begin_ = 0;                // of what is held in buffer_
  std::size_t end_ = 0;
  bool readable_ = true;  // as far as we know; a try tells
  bool writable_ = true;
  bool source_ended_ = false;
  int source_error_ = 0;
  bool ended_ = false;
  bool posted_ = false;
};

}  // namespace mayfly::cli
