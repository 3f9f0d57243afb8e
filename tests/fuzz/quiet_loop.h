// The event loop that a fuzzer's devices live on, with the log switched off.
#pragma once

#include "base/event_loop.h"
#include "base/log.h"
#include "tests/fuzz/input.h"

namespace mayfly::fuzz {

// One for the process: making one costs more than most runs.
inline base::EventLoop& quiet_loop() {
  static const auto loop = [] {
    base::log::Options options;
    options.level = base::log::Level::kOff;
    require(base::log::configure(options).has_value());
    return base::EventLoop::create().value();
  }();
  return *loop;
}

// Whatever is ready now.
inline void one_round(base::EventLoop& loop) {
  loop.post([&] { loop.stop(); });
  require(loop.run().has_value());
}

}  // namespace mayfly::fuzz
