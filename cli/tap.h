// The host's side of a guest's network interface: a tap, its address, and who forwards for it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "cli/ipv4.h"

namespace mayfly::cli {

// Taps of `mayfly run` are called this and a slot's number. Rules of other runs go by it.
inline constexpr const char* kTapPrefix = "mayfly";
std::string tap_name(unsigned slot);
// The slots whose taps there are in the network namespace that the caller is in.
std::vector<unsigned> tap_slots();

// All of these are about the network namespace that the caller is in. Errors name the remedy.

// Makes a tap that stays when nobody has it open, without IPv6, and up, with the host's address. The host
// answers ARP on it for that address only, and takes no packets from there that it would not send back there.
base::Status make_tap(const std::string& name, const Ipv4Network& host, std::uint16_t mtu);

// Attaches to it, as the network device would.
base::Result<base::UniqueFd> open_tap(const std::string& name);

enum class Removal : std::uint8_t {
  kDone,   // or there was none
  kInUse,  // a process has it open, or it is no tap of this kind
};
// Takes away a tap that nobody has open.
Removal remove_idle_tap(const std::string& name);
// Takes it away, whoever has it open.
base::Status remove_tap(const std::string& name);

// 0 where it cannot be found out.
std::uint16_t mtu_of(const std::string& interface);

// Whether the host as a whole forwards IPv4 (ip_forward), or one interface does.
bool forwards();
bool forwards(const std::string& interface);
base::Status set_forwards(const std::string& interface, bool on);

}  // namespace mayfly::cli
