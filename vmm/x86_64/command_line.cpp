#include "vmm/x86_64/command_line.h"

#include <algorithm>

#include "vmm/x86_64/layout.h"

namespace mayfly::vmm::x86_64 {
namespace {

bool is_printable(char c) {
  return c >= ' ' && c <= '~';
}

base::Status check(std::string_view text) {
  const auto bad = std::ranges::find_if_not(text, is_printable);
  if (bad != text.end()) {
    return base::fail(
        "the kernel command line has the byte {:#04x} at position {}: only printable ASCII is allowed",
        static_cast<unsigned char>(*bad), bad - text.begin());
  }
  if (text.size() >= kCommandLineSize) {
    return base::fail("the kernel command line is {} characters long; the kernel takes at most {}",
                      text.size(), kCommandLineSize - 1);
  }
  return {};
}

// Where the words for the kernel end: at the "--" that stands alone outside double quotes (next_arg() in
// Linux's lib/cmdline.c), or at the end.
std::size_t end_of_kernel_words(std::string_view text) {
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '"') quoted = !quoted;
    const bool starts_word = !quoted && text[i] != ' ' && (i == 0 || text[i - 1] == ' ');
    if (starts_word && text.substr(i, 2) == "--" && (i + 2 == text.size() || text[i + 2] == ' ')) return i;
  }
  return text.size();
}

}  // namespace

base::Result<CommandLine> CommandLine::create(std::string_view boot_args) {
  TRY(check(boot_args));
  return CommandLine(std::string(boot_args));
}

base::Status CommandLine::append(std::string_view words) {
  const std::size_t split = end_of_kernel_words(text_);
  std::string text = text_.substr(0, split);
  if (!text.empty() && !text.ends_with(' ')) text += ' ';
  text += words;
  if (split < text_.size()) {
    text += ' ';
    text += std::string_view(text_).substr(split);
  }
  TRY(check(text));
  text_ = std::move(text);
  return {};
}

base::Status CommandLine::append_virtio_mmio_device(base::GuestAddress address, std::uint32_t gsi) {
  return append(fmt::format("virtio_mmio.device=4K@{:#x}:{}", address.value(), gsi));
}

}  // namespace mayfly::vmm::x86_64
