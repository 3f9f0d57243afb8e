#include "rootfs/init/console.h"

#include <unistd.h>

#include <array>
#include <cstring>

#include "rootfs/init/text.h"

namespace mayfly::init {
namespace {

void write_line(std::string_view text, std::string_view why) {
  std::array<char, 512> line;
  join_text(line, {"mayfly-init: ", text, why.empty() ? "" : ": ", why, "\n"});
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), std::strlen(line.data()));
}

}  // namespace

void complain(std::initializer_list<std::string_view> parts) {
  std::array<char, 448> text;
  join_text(text, parts);
  write_line(text.data(), "");
}

void complain_errno(int error, std::initializer_list<std::string_view> parts) {
  std::array<char, 448> text;
  join_text(text, parts);
  write_line(text.data(), ::strerror(error));
}

}  // namespace mayfly::init
