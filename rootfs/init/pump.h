// Moves bytes one way between a command's standard stream and the host.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/unique_fd.h"
#include "rootfs/init/buffer.h"
#include "rootfs/init/poll_set.h"

namespace mayfly::init {

// Holds at most kBufferBytes that were read and could not be written yet, and reads nothing more until they
// are gone: a slow reader slows the writer, and memory is bounded.
class Pump {
 public:
  static constexpr std::size_t kBufferBytes = 64U << 10U;

  // How the sink learns that the source has ended.
  enum class Ending {
    kClose,      // a pipe: closed
    kHalfClose,  // a socket: shut down for writing, kept until the session ends
    kTerminal,   // a terminal: its end-of-file character is typed, if it is in line mode
  };

  // Both descriptors become the pump's and must not block.
  void start(base::UniqueFd source, base::UniqueFd sink, Ending ending);
  [[nodiscard]] bool flowing() const { return source_.valid(); }

  void watch(PollSet& polls);
  void serve(const PollSet& polls);

  // What the source holds at this moment is still moved, then the sink is told the end, even if someone keeps
  // the source open and goes on writing.
  void finish();
  // Both descriptors are closed; what is held is lost.
  void abandon();

 private:
  bool fill();
  bool drain();
  void end_sink();

  base::UniqueFd source_;
  base::UniqueFd sink_;
  Ending ending_ = Ending::kClose;
  Buffer buffer_;
  std::size_t begin_ = 0;  // of what is held in buffer_
  std::size_t end_ = 0;
  bool source_ended_ = false;
  bool bounded_ = false;       // by finish()
  std::size_t remaining_ = 0;  // to be read, when bounded_
  std::size_t source_slot_ = PollSet::kNoSlot;
  std::size_t sink_slot_ = PollSet::kNoSlot;
};

}  // namespace mayfly::init
