#include "cli/nat.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "cli/tap.h"
#include "cli/tool.h"

namespace mayfly::cli {

using base::fail;
using base::Result;
using base::Status;

namespace {

// Where a rule says which of two ways a packet goes, `tap` is the guest's interface.
std::string nameserver_rule(const NatPlan& plan) {
  if (plan.nameservers.empty()) return {};
  std::vector<std::string> servers;
  for (const Ipv4 each : plan.nameservers) servers.push_back(to_text(each));
  return fmt::format("    iifname \"{}\" ip daddr {{ {} }} meta l4proto {{ tcp, udp }} th dport 53 accept\n",
                     plan.tap, fmt::join(servers, ", "));
}

// Before routing: only what is the guest's own goes any further.
std::string source_chain(const NatPlan& plan) {
  return fmt::format(R"(  chain source {{
    type filter hook prerouting priority raw; policy accept;
    iifname "{0}" meta nfproto != ipv4 drop
    iifname "{0}" ip saddr != {1} drop
    iifname "{0}" ip daddr 127.0.0.0/8 drop
  }}
)",
                     plan.tap, to_text(plan.guest));
}

std::string input_chain(const NatPlan& plan) {
  return fmt::format(R"(  chain input {{
    type filter hook input priority filter; policy accept;
    iifname != "{0}" accept
    ct state established,related accept
    icmp type echo-request accept
{1}    reject with icmpx admin-prohibited
  }}
)",
                     plan.tap, nameserver_rule(plan));
}

std::string fence(const NatPlan& plan) {
  if (plan.fenced.empty()) return {};
  const std::string all = fmt::format("{{ \"{}\" }}", fmt::join(plan.fenced, "\", \""));
  return fmt::format("    iifname {0} oifname {0} drop\n", all);
}

std::string forward_chain(const NatPlan& plan) {
  return fmt::format(R"(  chain forward {{
    type filter hook forward priority filter; policy accept;
{2}    iifname "{0}" oifname "{1}*" reject with icmpx admin-prohibited
    oifname "{0}" ct state established,related accept
    oifname "{0}" iifname != "{1}*" ct status dnat accept
    oifname "{0}" drop
    iifname != "{0}" accept
    ct state established,related accept
{3}    ip daddr 169.254.0.0/16 reject with icmpx admin-prohibited
  }}
)",
                     plan.tap, kTapPrefix, fence(plan), nameserver_rule(plan));
}

std::string publish_rule(const NatPlan& plan, const Publish& publish) {
  const std::string place =
      publish.address ? fmt::format("ip daddr {}", to_text(*publish.address)) : "fib daddr type local";
  return fmt::format("    iifname != \"{}*\" {} {} dport {} dnat ip to {}:{}\n", kTapPrefix, place,
                     publish.udp ? "udp" : "tcp", publish.host_port, to_text(plan.guest), publish.guest_port);
}

std::string translation_chains(const NatPlan& plan) {
  std::string publishes;
  for (const Publish& publish : plan.publishes) publishes += publish_rule(plan, publish);
  return fmt::format(R"(  chain inwards {{
    type nat hook prerouting priority dstnat; policy accept;
{2}  }}
  chain outwards {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {1} oifname != "{0}" masquerade
  }}
)",
                     plan.tap, to_text(plan.guest), publishes);
}

}  // namespace

std::string nat_rules(const NatPlan& plan) {
  return fmt::format("table inet {0} {{ }}\ndelete table inet {0}\ntable inet {0} {{\n{1}{2}{3}{4}}}\n",
                     plan.tap, source_chain(plan), input_chain(plan), forward_chain(plan),
                     translation_chains(plan));
}

Status apply_nat(const NatPlan& plan) {
  const HeldSignals signals;
  const auto done = run_tool({.words = {"nft", nat_rules(plan)}, .environment = {}}, signals);
  if (done) return {};
  return fail(
      "--net: the address translation cannot be set up: {} (nftables works as root only; without, use "
      "--net=passt)",
      done.error().message);
}

Status remove_nat(const std::string& table) {
  const HeldSignals signals;
  const std::string program = fmt::format("table inet {0} {{ }}\ndelete table inet {0}\n", table);
  TRY(run_tool({.words = {"nft", program}, .environment = {}}, signals));
  return {};
}

}  // namespace mayfly::cli
