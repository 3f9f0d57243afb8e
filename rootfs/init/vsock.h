// Connections between this guest and its host.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/unique_fd.h"

namespace mayfly::init {

// Begins `Count` connections to the host at once, without waiting for any. Any of them is invalid on failure.
template <std::size_t Count>
std::array<base::UniqueFd, Count> connect_to_host(std::uint32_t port);

base::UniqueFd begin_connection(std::uint32_t cid, std::uint32_t port);

template <std::size_t Count>
std::array<base::UniqueFd, Count> connect_to_host(std::uint32_t port) {
  constexpr std::uint32_t kHost = 2;
  std::array<base::UniqueFd, Count> connections;
  for (base::UniqueFd& each : connections) each = begin_connection(kHost, port);
  return connections;
}

// A socket that accepts connections to `port`, not blocking; invalid on failure.
base::UniqueFd listen_on(std::uint32_t port);

}  // namespace mayfly::init
