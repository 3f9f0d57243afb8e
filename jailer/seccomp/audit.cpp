#include "jailer/seccomp/audit.h"

#include <fmt/format.h>
#include <seccomp.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <iterator>
#include <optional>

namespace mayfly::jailer::seccomp {

namespace {

constexpr std::size_t kMostArguments = 6;

struct Entry {
  std::string_view task;  // name-id
  std::string_view name;
  long call = 0;
  std::array<std::uint64_t, kMostArguments> arguments{};
};

// Takes a number off the front of `text`, and what is around it.
std::optional<std::uint64_t> take_number(std::string_view& text, int base) {
  text.remove_prefix(std::min(text.find_first_not_of(" (,"), text.size()));
  std::uint64_t value = 0;
  const auto parsed = std::from_chars(text.begin(), text.end(), value, base);
  if (parsed.ec != std::errc{}) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(parsed.ptr - text.begin()));
  return value;
}

std::optional<Entry> parse(std::string_view line) {
  constexpr std::string_view kEvent = ": sys_enter: NR ";
  const std::size_t event = line.find(kEvent);
  if (event == std::string_view::npos) return std::nullopt;
  Entry entry;
  const std::size_t begin = line.find_first_not_of(' ');
  entry.task = line.substr(begin, line.find(' ', begin) - begin);
  entry.name = entry.task.substr(0, entry.task.rfind('-'));
  std::string_view rest = line.substr(event + kEvent.size());
  const auto call = take_number(rest, 10);
  if (!call) return std::nullopt;
  entry.call = static_cast<long>(*call);
  for (std::uint64_t& argument : entry.arguments) {
    const auto value = take_number(rest, 16);
    if (!value) return std::nullopt;
    argument = *value;
  }
  return entry;
}

std::string call_name(long number) {
  static std::map<long, std::string> known;
  if (const auto found = known.find(number); found != known.end()) return found->second;
  char* const name = ::seccomp_syscall_resolve_num_arch(SCMP_ARCH_X86_64, static_cast<int>(number));
  std::string text = name != nullptr ? name : fmt::to_string(number);
  ::free(name);  // NOLINT: libseccomp's malloc
  return known[number] = text;
}

// vcpu0 is a vcpu.
std::string_view kind_of(std::string_view name) {
  return name.starts_with("vcpu") ? "vcpu" : name;
}

}  // namespace

Audit::Audit(std::span<const Policy> policies) {
  for (const Policy& policy : policies) {
    threads_[policy.thread] = {
        .policy = policy, .used = std::vector<std::uint64_t>(policy.rules.size()), .refused = {}};
  }
}

void Audit::add(std::string_view line) {
  if (line.find("LOST") != std::string_view::npos && line.find("EVENTS") != std::string_view::npos) ++lost_;
  const auto entry = parse(line);
  if (!entry) return;
  const auto thread = threads_.find(kind_of(entry->name));
  if (thread == threads_.end()) return;
  static const long install = ::seccomp_syscall_resolve_name("seccomp");
  static const long exit = ::seccomp_syscall_resolve_name("exit");
  static const long exit_group = ::seccomp_syscall_resolve_name("exit_group");
  // No policy allows it to a thread that has a filter: this is another thread of that number, or another
  // record.
  if (entry->call == install) {
    confined_.emplace(entry->task);
    return;
  }
  if (!confined_.contains(entry->task)) return;
  count(thread->second, entry->call, entry->arguments);
  // Another thread may get its number.
  if (entry->call == exit || entry->call == exit_group) confined_.erase(confined_.find(entry->task));
}

void Audit::count(OfThread& thread, long call, std::span<const std::uint64_t> arguments) {
  const std::string name = call_name(call);
  bool allowed = false;
  for (std::size_t i = 0; i < thread.policy.rules.size(); ++i) {
    const Rule& rule = thread.policy.rules[i];
    if (rule.call != name || !rule.allows(arguments)) continue;
    allowed = true;
    ++thread.used[i];
  }
  if (!allowed) ++thread.refused[fmt::format("{}({:#x})", name, fmt::join(arguments, ", "))];
}

std::string Audit::report() const {
  std::string out;
  const auto say = std::back_inserter(out);
  for (const auto& [name, thread] : threads_) {
    fmt::format_to(say, "{}: {} system calls, {} rules\n", name, thread.policy.calls(),
                   thread.policy.rules.size());
    for (std::size_t i = 0; i < thread.used.size(); ++i) {
      const Rule& rule = thread.policy.rules[i];
      const char* const what = thread.used[i] > 0 ? "used" : rule.rare ? "rare" : "UNUSED";
      fmt::format_to(say, "  {:6} {:9}  {}:{}: {}\n", what, thread.used[i], thread.policy.file, rule.line,
                     rule.text);
    }
    for (const auto& [call, times] : thread.refused) fmt::format_to(say, "  REFUSED {:8}  {}\n", times, call);
  }
  if (lost_ > 0) fmt::format_to(say, "the record is not whole: events were LOST {} times\n", lost_);
  fmt::format_to(say, "{}\n",
                 clean() ? "every rule is of use, and nothing was refused" : "there are findings");
  return out;
}

bool Audit::clean() const {
  return lost_ == 0 && std::ranges::all_of(threads_, [](const auto& each) {
           const OfThread& thread = each.second;
           for (std::size_t i = 0; i < thread.used.size(); ++i) {
             if (thread.used[i] == 0 && !thread.policy.rules[i].rare) return false;
           }
           return thread.refused.empty();
         });
}

}  // namespace mayfly::jailer::seccomp
