#include "cli/resolvers.h"

#include <algorithm>
#include <array>
#include <sstream>

#include "base/file.h"

namespace mayfly::cli {

namespace {

constexpr std::size_t kMostServers = 3;    // resolv.conf(5), MAXNS
constexpr std::size_t kMostDomains = 6;    // MAXDNSRCH
constexpr std::size_t kLongestName = 253;  // of a domain

bool is_domain(const std::string& text) {
  return text.size() <= kLongestName && std::ranges::all_of(text, [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                  c == '_' || c == '.';
         });
}

}  // namespace

Resolvers parse_resolvers(std::string_view text) {
  Resolvers resolvers;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string keyword;
    words >> keyword;
    if (keyword == "search" || keyword == "domain") resolvers.search.clear();  // the last one counts
    for (std::string word; words >> word;) {
      if (keyword == "nameserver" && resolvers.servers.size() < kMostServers) {
        if (const auto address = parse_ipv4(word)) resolvers.servers.push_back(*address);
        break;
      }
      const bool searches = keyword == "search" || keyword == "domain";
      if (searches && is_domain(word) && resolvers.search.size() < kMostDomains) {
        resolvers.search.push_back(word);
      }
    }
  }
  return resolvers;
}

Resolvers find_resolvers(std::span<const std::string> files) {
  std::optional<Resolvers> first;
  for (const std::string& file : files) {
    const auto text = base::read_file(file);
    if (!text) continue;
    Resolvers resolvers = parse_resolvers(*text);
    std::erase_if(resolvers.servers, [](Ipv4 each) { return each.is_loopback() || each.value == 0; });
    if (!resolvers.servers.empty()) return resolvers;
    if (!first) first = std::move(resolvers);
  }
  return first.value_or(Resolvers{});
}

Resolvers find_resolvers() {
  static const std::array<std::string, 3> kFiles = {"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf",
                                                    "/run/NetworkManager/no-stub-resolv.conf"};
  return find_resolvers(kFiles);
}

}  // namespace mayfly::cli
