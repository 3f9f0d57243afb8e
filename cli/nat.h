// The packet filter of one guest on a tap: a table of nftables of its own.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/ipv4.h"
#include "cli/publish.h"

namespace mayfly::cli {

struct NatPlan {
  std::string tap;  // and of the table
  Ipv4 guest;
  std::vector<Ipv4> nameservers;
  std::vector<Publish> publishes;
  // Interfaces that forward packets only because of us: nothing passes from one of them to another.
  std::vector<std::string> fenced;
};

// What the guest may do, as a program for nft(8). Packets of the guest's leave the host by way of its
// address, and answers come back. From outside only published ports lead in. The guest reaches nothing on the
// host but a ping and name servers it was told of; no guest of another run; and no link-local address, where
// clouds hand out credentials. It sends from its own address only. Packets of others pass by untouched.
//
// The table is replaced as a whole if there is one.
std::string nat_rules(const NatPlan& plan);

base::Status apply_nat(const NatPlan& plan);
// Nothing happens when there is none.
base::Status remove_nat(const std::string& table);

}  // namespace mayfly::cli
