// What /etc/passwd and /etc/group say about a user.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace mayfly::init {

inline constexpr std::size_t kMostGroups = 64;

struct User {
  std::array<char, 256> home{};             // "/" when nothing else is known
  gid_t gid = 0;                            // the primary group: of the file, or 0
  std::array<gid_t, kMostGroups> groups{};  // the others
  std::size_t group_count = 0;
};

// Root is taken to live in /root and to be in no further groups, which saves two reads of the disk at boot.
// The files' names are parameters for the sake of tests.
User find_user(std::uint32_t uid, const char* passwd = "/etc/passwd", const char* group = "/etc/group");

}  // namespace mayfly::init
