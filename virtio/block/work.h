// A job as system calls: which is next, and what its result means. What both engines know about errors, short
// transfers and repeats is here.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "virtio/block/backend.h"
#include "virtio/block/medium.h"

namespace mayfly::virtio::block {

//   work.begin(job);
//   while (!work.finished()) work.account(medium.perform(work.call()));
//   … work.outcome() …
//
// Reusable; keeps its memory.
class Work {
 public:
  // A call that makes no headway (EINTR, EAGAIN, ECANCELED) is repeated this often.
  static constexpr int kMostRepeats = 100;

  void begin(const Job& job);
  [[nodiscard]] bool finished() const { return finished_; }
  // The next call. What it refers to stays in place until account().
  [[nodiscard]] const Call& call() const { return call_; }
  // `result`: as Medium::perform() returns it.
  void account(std::int64_t result);
  // What is not finished ends here, with ECANCELED.
  void give_up();
  [[nodiscard]] const base::Status& outcome() const { return outcome_; }

 private:
  void next_pieces();
  void next_range();
  void fill();
  void moved(std::uint64_t bytes);
  bool try_otherwise(int error);
  void done();
  void failed(int error);

  Operation operation_ = Operation::kRead;
  bool stable_ = false;
  std::vector<iovec> pieces_;
  std::span<iovec> left_;          // of pieces_
  std::span<const Range> ranges_;  // after the one at work
  std::uint64_t to_fill_ = 0;      // bytes of the range at work that are to be written as zeros
  Call call_;
  int repeats_ = 0;
  bool finished_ = true;
  base::Status outcome_;
};

}  // namespace mayfly::virtio::block
