#include "cli/vmm_report.h"

#include <algorithm>
#include <csignal>
#include <cstring>

namespace mayfly::cli {

namespace {

constexpr std::uint64_t kComfortableMemoryMib = 64;
constexpr std::string_view kJailer = "mayfly-jailer: ";

// A guest's text must not give orders to a terminal.
std::string harmless(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const bool control = (static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') || c == 0x7f;
    if (c != '\r') out.push_back(control ? '?' : c);
  }
  while (out.ends_with('\n')) out.pop_back();
  return out;
}

std::string with_console(const std::string& console) {
  const std::string text = harmless(console);
  return text.empty() ? std::string() : "; the end of its console:\n" + text;
}

std::string memory_hint(const RunOptions& options, bool booted) {
  if (booted || options.memory_mib >= kComfortableMemoryMib) return {};
  return fmt::format(" ({} MiB may be too little: try --memory {})", options.memory_mib, kDefaultMemoryMib);
}

// What mayfly-vmm said, without its name before it.
std::string said(const std::string& errors) {
  constexpr std::string_view kName = "mayfly-vmm: ";
  std::string text = harmless(errors);
  if (text.starts_with(kName)) text.erase(0, kName.size());
  return text.empty() ? "no reason given" : text;
}

}  // namespace

std::string describe_end(const VmmEnd& end, const RunOptions& options, bool booted, const std::string& errors,
                         const std::string& console) {
  if (end.signal != 0) {
    const char* const name = sigabbrev_np(end.signal);
    return fmt::format("mayfly-vmm was killed by signal {} (SIG{}) before the command ended", end.signal,
                       name != nullptr ? name : "?");
  }
  const std::string hint = memory_hint(options, booted);
  switch (end.exit_status) {
    case 0:
      return "the guest ended before the command did" + hint + with_console(console);
    case 1:
      if (errors.starts_with(kJailer))
        return fmt::format("the jail could not be made: {}; --no-jail runs without one",
                           harmless(errors.substr(kJailer.size())));
      return "the virtual machine could not be started: " + said(errors);
    case 2:
      return "mayfly-vmm does not understand this mayfly; are they of one version? It says: " + said(errors);
    case 10:
      return "the guest kernel panicked" + hint + with_console(console);
    case 11:
      return "the guest crashed its processor (triple fault)" + hint + with_console(console);
    case 12:
      return "KVM failed: " + said(errors) + with_console(console);
    case 13:
      return "mayfly-vmm made a system call that its filter does not allow, and was stopped: " + said(errors);
    default:
      return fmt::format("mayfly-vmm ended with status {}: {}", end.exit_status, said(errors));
  }
}

std::string describe_boot_timeout(const RunOptions& options, const std::string& console) {
  const double seconds = std::chrono::duration<double>(options.boot_timeout).count();
  return fmt::format("the guest's init was not up after {} s (--boot-timeout){}", seconds,
                     memory_hint(options, false)) +
         with_console(console);
}

}  // namespace mayfly::cli
