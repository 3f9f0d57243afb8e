#include "jailer/seccomp/policy.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>

#include "jailer/seccomp/filter_file.h"
#include "jailer/seccomp/words.h"

namespace mayfly::jailer::seccomp {

using base::fail;
using base::Result;
using base::Status;

namespace {

std::vector<std::string_view> words_of(std::string_view text) {
  std::vector<std::string_view> words;
  while (true) {
    const std::size_t begin = text.find_first_not_of(" \t");
    if (begin == std::string_view::npos) return words;
    const std::size_t end = std::min(text.find_first_of(" \t", begin), text.size());
    words.push_back(text.substr(begin, end - begin));
    text.remove_prefix(end);
  }
}

std::string_view trimmed(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(" \t\r");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r") - begin + 1);
}

std::optional<std::uint64_t> number_of(std::string_view word) {
  const bool minus = word.starts_with('-');
  std::string_view digits = word.substr(minus ? 1 : 0);
  const int base = digits.starts_with("0x") ? 16 : 10;
  if (base == 16) digits.remove_prefix(2);
  std::uint64_t value = 0;
  const auto parsed = std::from_chars(digits.begin(), digits.end(), value, base);
  if (parsed.ec != std::errc{} || parsed.ptr != digits.end() || digits.empty()) return std::nullopt;
  return minus ? 0 - value : value;
}

// Names and numbers with | between them.
Result<std::uint64_t> value_of(std::string_view text) {
  std::uint64_t all = 0;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find('|', at), text.size());
    const std::string_view word = text.substr(at, end - at);
    auto value = number_of(word);
    if (!value) value = constant(word);
    if (!value) return fail("\"{}\" is neither a number nor a constant that is known here", word);
    all |= *value;
    at = end + 1;
  }
  return all;
}

// argument == value, or argument & mask == value
Result<Condition> parse_condition(std::string_view call, std::span<const std::string_view> words) {
  const bool masked = words.size() == 5 && words[1] == "&" && words[3] == "==";
  if (!masked && !(words.size() == 3 && words[1] == "==")) {
    return fail("a condition is \"ARGUMENT == VALUE\" or \"ARGUMENT & MASK == VALUE\"");
  }
  const auto argument = argument_of(call, words[0]);
  if (!argument) return fail("{} has no argument \"{}\" that is known here", call, words[0]);
  Condition condition{.argument = argument->number};
  if (argument->wide) condition.mask = UINT64_MAX;
  if (masked) condition.mask &= TRY(value_of(words[2]));
  const std::string_view value = words.back();
  condition.own_process = value == "OWN-PROCESS";
  condition.value = condition.own_process ? kOwnProcess : TRY(value_of(value));
  const std::uint64_t width = argument->wide ? UINT64_MAX : UINT32_MAX;
  condition.value &= width;  // -1 of 32 bits
  if ((condition.value & ~condition.mask) != 0) return fail("no value can be {} there", value);
  return condition;
}

// system call, conditions with "and" between them
Result<Rule> parse_rule(std::string_view text) {
  const auto words = words_of(text);
  Rule rule{.call = std::string(words[0]), .text = std::string(trimmed(text))};
  if (!is_system_call(rule.call)) return fail("there is no system call \"{}\"", rule.call);
  const auto rest = std::span(words).subspan(1);
  for (auto begin = rest.begin(); begin < rest.end();) {
    const auto end = std::find(begin, rest.end(), "and");
    rule.conditions.push_back(TRY(parse_condition(rule.call, std::span(begin, end))));
    if (end + 1 == rest.end()) return fail("nothing follows the last \"and\"");
    begin = end == rest.end() ? end : end + 1;
  }
  std::ranges::sort(rule.conditions);
  const auto same = std::ranges::adjacent_find(rule.conditions, {}, &Condition::argument);
  // A filter can look at each argument of a rule once; a mask does for flags.
  if (same != rule.conditions.end()) return fail("two conditions on one argument: put them into one mask");
  return rule;
}

Status add_rule(Policy& policy, std::string_view line, int number) {
  const std::size_t colon = line.find(" : ");
  if (colon == std::string_view::npos || trimmed(line.substr(colon + 3)).empty()) {
    return fail("a rule has a reason, after a colon with blanks around it");
  }
  Rule rule = TRY(parse_rule(line.substr(0, colon)));
  rule.line = number;
  rule.reason = trimmed(line.substr(colon + 3));
  rule.rare = rule.reason.starts_with("rare:");
  for (const Rule& other : policy.rules) {
    if (other.call != rule.call) continue;
    if (other.conditions == rule.conditions) return fail("line {} says the same", other.line);
    if (other.conditions.empty() || rule.conditions.empty()) {
      return fail("{} is allowed without any condition as well, in line {}: one of the two is of no use",
                  rule.call, other.conditions.empty() ? other.line : number);
    }
  }
  policy.rules.push_back(std::move(rule));
  return {};
}

Status add_line(Policy& policy, std::string_view line, int number) {
  const auto words = words_of(line);
  if (words[0] == "thread" || words[0] == "at-most") {
    if (words.size() != 2) return fail("{} is followed by one word", words[0]);
    if (words[0] == "thread") {
      if (!policy.thread.empty()) return fail("the thread was named already");
      if (!thread_of(words[1]))
        return fail("no thread is called \"{}\"; there are vmm, api and vcpu", words[1]);
      policy.thread = words[1];
      return {};
    }
    const auto most = number_of(words[1]);
    if (policy.at_most != 0) return fail("the number of calls was limited already");
    if (!most || *most == 0 || *most > 500) return fail("at-most is followed by a number from 1 to 500");
    policy.at_most = *most;
    return {};
  }
  return add_rule(policy, line, number);
}

}  // namespace

bool Rule::allows(std::span<const std::uint64_t> arguments) const {
  return std::ranges::all_of(conditions, [&](const Condition& condition) {
    if (condition.own_process) return true;  // not to be told from a record
    return (arguments[condition.argument] & condition.mask) == condition.value;
  });
}

std::size_t Policy::calls() const {
  std::set<std::string_view> names;
  for (const Rule& rule : rules) names.insert(rule.call);
  return names.size();
}

Result<Policy> parse_policy(std::string_view text, const std::string& file) {
  Policy policy{.file = file};
  int number = 0;
  while (!text.empty()) {
    ++number;
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = trimmed(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty() || line.starts_with('#')) continue;
    if (auto added = add_line(policy, line, number); !added) {
      return fail("{}:{}: {}", file, number, added.error().message);
    }
  }
  if (policy.thread.empty()) return fail("{}: no line says for which thread it is", file);
  if (policy.at_most == 0) return fail("{}: no line says how many calls there may be (at-most)", file);
  if (policy.rules.empty()) return fail("{}: it allows nothing", file);
  if (policy.calls() > policy.at_most) {
    return fail("{}: it allows {} system calls, and {} at most are wanted", file, policy.calls(),
                policy.at_most);
  }
  return policy;
}

}  // namespace mayfly::jailer::seccomp
