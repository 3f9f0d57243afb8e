#include "cli/machine_name.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cstdint>

namespace mayfly::cli {

namespace {

constexpr std::array<std::string_view, 32> kQualities = {
    "amber",  "bold",  "brief", "bright", "brisk", "calm",   "clear", "deft",  "early", "fleet", "fresh",
    "gentle", "glad",  "green", "keen",   "light", "lively", "lucid", "merry", "mild",  "neat",  "nimble",
    "pale",   "quick", "quiet", "rapid",  "sharp", "silver", "still", "swift", "warm",  "young"};
constexpr std::array<std::string_view, 32> kThings = {
    "alder", "bank", "brook",  "caddis", "creek",  "dawn",  "delta",  "dew",    "drake", "fen",   "ford",
    "heron", "iris", "lake",   "marsh",  "meadow", "mist",  "moss",   "nymph",  "otter", "pond",  "pool",
    "rapid", "reed", "ripple", "rush",   "sedge",  "shoal", "spring", "stream", "trout", "willow"};

bool is_letter_or_digit(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

}  // namespace

base::Status check_machine_name(std::string_view name) {
  const bool good = !name.empty() && name.size() <= kLongestMachineName && is_letter_or_digit(name.front()) &&
                    std::ranges::all_of(name, [](char c) { return is_letter_or_digit(c) || c == '-'; });
  if (good) return {};
  // What is no name may be anything; it is shown as one line.
  std::string shown(name.substr(0, 2 * kLongestMachineName));
  for (char& c : shown) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return base::fail(
      "\"{}\" is no name for a machine: take 1 to {} letters (a-z, A-Z), digits and dashes, a letter or "
      "digit first",
      shown, kLongestMachineName);
}

std::string made_up_name() {
  std::array<std::uint8_t, 4> bytes{};
  // Without enough of it, which is at the very start of a host, names are only less random.
  [[maybe_unused]] const ssize_t n = ::getrandom(bytes.data(), bytes.size(), GRND_NONBLOCK);
  const unsigned number = (bytes[2] * 256U + bytes[3]) % 1000;
  return fmt::format("{}-{}-{}", kQualities[bytes[0] % kQualities.size()], kThings[bytes[1] % kThings.size()],
                     number);
}

}  // namespace mayfly::cli
