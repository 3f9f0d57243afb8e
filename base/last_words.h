// The last line of a process that ends on the spot.
#pragma once

#include <string_view>

namespace mayfly::base::log {

// Writes a line to the log from a signal handler, whatever the process was doing: no lock, no memory. With
// the level off, too. At most about 400 bytes of `message`; not at all where the log's reader is slow.
void last_words(std::string_view message) noexcept;

}  // namespace mayfly::base::log
