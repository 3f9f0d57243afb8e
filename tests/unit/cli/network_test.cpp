// The parts of --net that are decided without a network.
#include <fcntl.h>
#include <sys/socket.h>

#include <array>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include "cli/ipv4.h"
#include "cli/nat.h"
#include "cli/network_registry.h"
#include "cli/passt.h"
#include "cli/publish.h"
#include "cli/resolvers.h"
#include "tests/support/temporary_folder.h"

using namespace mayfly;
using namespace mayfly::cli;
using Catch::Matchers::Contains;
using test::TemporaryFolder;

namespace {

Ipv4 ip(const char* text) {
  const auto address = parse_ipv4(text);
  REQUIRE(address);
  return *address;
}

Ipv4Network net(const char* address, unsigned prefix) {
  return {.address = ip(address), .prefix = prefix};
}

Publish publish(const std::string& text) {
  const auto parsed = parse_publish(text);
  INFO(text);
  REQUIRE(parsed);
  return *parsed;
}

}  // namespace

TEST_CASE("addresses are dotted decimal") {
  CHECK(ip("10.213.0.1").value == 0x0ad50001);
  CHECK(to_text(ip("255.0.1.20")) == "255.0.1.20");
  for (const char* text : {"", "1", "1.2.3", "1.2.3.4.5", "1.2.3.256", "1.2.3.4 ", "::1", "a.b.c.d"}) {
    CHECK_FALSE(parse_ipv4(text));
  }
  CHECK(ip("127.0.0.53").is_loopback());
  CHECK_FALSE(ip("128.0.0.1").is_loopback());
}

TEST_CASE("networks overlap when one is in the other") {
  CHECK(net("10.0.0.0", 8).overlaps(net("10.213.0.1", 30)));
  CHECK(net("10.213.0.2", 32).overlaps(net("10.213.0.0", 30)));
  CHECK_FALSE(net("10.213.0.4", 30).overlaps(net("10.213.0.0", 30)));
  CHECK(net("0.0.0.0", 0).overlaps(net("1.2.3.4", 32)));
}

TEST_CASE("routes are read as the kernel prints them") {
  constexpr const char* kText =
      "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
      "wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n"
      "eth0\t00000000\t014DA8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
      "gone\t00000000\t014DA8C0\t0002\t0\t0\t1\t00000000\t0\t0\t0\n"
      "eth0\t004DA8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
      "odd\t004DA8C0\t00000000\t0001\t0\t0\t0\t00FF00FF\t0\t0\t0\n"
      "short\t004DA8C0\n"
      "\n";
  const auto routes = parse_routes(kText);
  REQUIRE(routes.size() == 3);
  CHECK(routes[2] ==
        Route{.interface = "eth0", .destination = net("192.168.77.0", 24), .gateway = {}, .metric = 0});
  const Route* const out = default_route(routes);
  REQUIRE(out != nullptr);
  CHECK(out->interface == "eth0");
  CHECK(out->gateway == ip("192.168.77.1"));
  CHECK(default_route(std::span(routes).subspan(2)) == nullptr);
}

TEST_CASE("a guest's network overlaps nothing that is there, and no other slot's") {
  const std::vector<Ipv4Network> none;
  std::map<std::uint32_t, unsigned> seen;
  for (unsigned slot = 0; slot < kMostGuestNetworks; slot += 7) {
    const auto network = guest_network(slot, none);
    REQUIRE(network);
    CHECK(network->prefix == 30);
    CHECK((network->address.value & 3U) == 0);
    CHECK(seen.emplace(network->address.value, slot).second);
  }
  CHECK(guest_network(0, none) == net("10.213.0.0", 30));
  CHECK(guest_network(kMostGuestNetworks - 1, none) == net("10.213.255.252", 30));
  const std::vector<Ipv4Network> ten = {net("10.0.0.0", 8)};
  CHECK(guest_network(1, ten) == net("172.30.0.4", 30));
  const std::vector<Ipv4Network> own = {net("10.213.0.6", 32)};
  CHECK(guest_network(0, own) == net("10.213.0.0", 30));
  CHECK(guest_network(1, own) == net("172.30.0.4", 30));
  const std::vector<Ipv4Network> all = {net("10.0.0.0", 8), net("172.16.0.0", 12), net("192.168.0.0", 16),
                                        net("198.18.0.0", 15)};
  CHECK_FALSE(guest_network(0, all));
  // Default routes take nothing, in whatever guise; addresses do.
  const std::vector<Route> routes = {{.interface = "a", .destination = net("0.0.0.0", 0), .gateway = {}},
                                     {.interface = "a", .destination = net("128.0.0.0", 1), .gateway = {}},
                                     {.interface = "a", .destination = net("10.1.0.0", 16), .gateway = {}}};
  const std::vector<LocalAddress> addresses = {{"b", net("192.0.2.1", 32)}};
  CHECK(taken_networks(routes, addresses) == std::vector{net("10.1.0.0", 16), net("192.0.2.1", 32)});
}

TEST_CASE("--publish in all its forms") {
  const Publish plain = publish("8080:80");
  CHECK_FALSE(plain.address);
  CHECK(plain.host_port == 8080);
  CHECK(plain.guest_port == 80);
  CHECK_FALSE(plain.udp);
  const Publish full = publish("127.0.0.1:5353:53/udp");
  CHECK(full.address == ip("127.0.0.1"));
  CHECK(full.udp);
  CHECK_FALSE(publish("0.0.0.0:1:2/tcp").address);
  for (const char* text :
       {"", "80", "80:", ":80", "0:80", "80:0", "65536:80", "80:65536", "a:80", "80:80/sctp", "80:80/",
        "1.2.3:80:80", "::1:80:80", "-1:80", "80:80 ", "+80:80", "1.2.3.4:80"}) {
    const auto parsed = parse_publish(text);
    INFO(text);
    REQUIRE_FALSE(parsed);
    CHECK_THAT(parsed.error().message, Contains("--publish") && Contains("8080:80"));
  }
  CHECK(conflict(publish("80:1"), publish("80:2")));
  CHECK(conflict(publish("127.0.0.1:80:1"), publish("80:2")));
  CHECK_FALSE(conflict(publish("127.0.0.1:80:1"), publish("127.0.0.2:80:1")));
  CHECK_FALSE(conflict(publish("80:1"), publish("80:1/udp")));
}

TEST_CASE("name servers: what a guest can reach, from where it is to be found") {
  const Resolvers parsed = parse_resolvers(
      "# comment\nnameserver 192.0.2.53\nnameserver ::1\nnameserver 127.0.0.53 \nnameserver 1.1.1.1\n"
      "nameserver 8.8.8.8\ndomain old\nsearch example.com b%d x_y.example\noptions edns0\n");
  CHECK(parsed.servers == std::vector{ip("192.0.2.53"), ip("127.0.0.53"), ip("1.1.1.1")});
  CHECK(parsed.search == std::vector<std::string>{"example.com", "x_y.example"});

  const TemporaryFolder folder;
  const std::vector<std::string> files = {folder.path("missing"),
                                          folder.file("stub", "nameserver 127.0.0.53\nsearch stub.example\n"),
                                          folder.file("real", "nameserver 192.0.2.1\nsearch real.example\n")};
  CHECK(find_resolvers(files).servers == std::vector{ip("192.0.2.1")});
  CHECK(find_resolvers(files).search == std::vector<std::string>{"real.example"});
  const Resolvers stub = find_resolvers(std::span(files).first(2));
  CHECK(stub.servers.empty());
  CHECK(stub.search == std::vector<std::string>{"stub.example"});
  CHECK(find_resolvers(std::span(files).first(1)).servers.empty());
}

TEST_CASE("the rules name the guest, its ports and nothing of others") {
  const NatPlan plan{.tap = "mayfly7",
                     .guest = ip("10.213.0.30"),
                     .nameservers = {ip("192.0.2.53"), ip("10.213.0.29")},
                     .publishes = {publish("8080:80"), publish("192.0.2.1:5353:53/udp")},
                     .fenced = {"eth0", "wlan0"}};
  const std::string rules = nat_rules(plan);
  CHECK_THAT(rules, Contains("table inet mayfly7 { }\ndelete table inet mayfly7\n"));
  CHECK_THAT(rules, Contains("iifname \"mayfly7\" ip saddr != 10.213.0.30 drop"));
  CHECK_THAT(rules, Contains("fib daddr type local tcp dport 8080 dnat ip to 10.213.0.30:80"));
  CHECK_THAT(rules, Contains("ip daddr 192.0.2.1 udp dport 5353 dnat ip to 10.213.0.30:53"));
  CHECK_THAT(rules, Contains("{ 192.0.2.53, 10.213.0.29 }"));
  CHECK_THAT(rules, Contains("iifname { \"eth0\", \"wlan0\" } oifname { \"eth0\", \"wlan0\" } drop"));
  CHECK_THAT(
      nat_rules(
          {.tap = "mayfly0", .guest = ip("10.213.0.2"), .nameservers = {}, .publishes = {}, .fenced = {}}),
      !Contains("dnat ip to") && !Contains("dport 53"));
}

TEST_CASE("passt is told all that it is not to find out") {
  const PasstPlan plan{
      .guest = net("192.0.2.7", 24),
      .gateway = ip("192.0.2.1"),
      .nameserver = ip("192.0.2.1"),
      .publishes = {publish("8080:80"), publish("127.0.0.1:8443:443"), publish("5353:53/udp")}};
  const std::string words = fmt::format("{} ", fmt::join(passt_words(plan, 3), " "));
  CHECK_THAT(words, Contains(" --address 192.0.2.7 --netmask 24 --gateway 192.0.2.1 "));
  CHECK_THAT(words, Contains(" --tcp-ports 8080:80 --tcp-ports 127.0.0.1/8443:443 --udp-ports 5353:53 "));
  CHECK_THAT(words,
             Contains(" --no-map-gw ") && Contains(" --dns-forward 192.0.2.1 ") && Contains(" --fd 3 "));
  const std::string bare = fmt::format(
      "{} ", fmt::join(passt_words({.guest = {}, .gateway = {}, .nameserver = {}, .publishes = {}}, 3), " "));
  CHECK_THAT(bare, Contains(" --tcp-ports none --udp-ports none ") && !Contains("--dns-forward"));
  CHECK(passt_reason("Failed to send 3 bytes to syslog\nno route\nFailed to send 9 bytes to syslog\n") ==
        "no route");
  CHECK(passt_reason("") == "no reason given");
}

TEST_CASE("passt gets a socket that it can wait at") {
  const TemporaryFolder folder;
  std::filesystem::permissions(folder.file("passt", "#!/bin/sh\nexit 0\n"),
                               std::filesystem::perms::owner_all);
  const std::string path = std::getenv("PATH");
  ::setenv("PATH", (folder.path("") + ":" + path).c_str(), 1);
  std::array<int, 2> ends{};
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()) == 0);
  const base::UniqueFd ours(ends[0]);
  base::UniqueFd theirs(ends[1]);
  const base::UniqueFd same(::fcntl(theirs.get(), F_DUPFD_CLOEXEC, 0));
  auto loop = base::EventLoop::create();
  REQUIRE(loop);
  const auto passt = Passt::spawn(**loop, {.guest = {}, .gateway = {}, .nameserver = {}, .publishes = {}},
                                  std::move(theirs), [](const std::string& /*how*/) {});
  ::setenv("PATH", path.c_str(), 1);
  REQUIRE(passt);
  CHECK((::fcntl(same.get(), F_GETFL) & O_NONBLOCK) == 0);
  // Ours still does not wait.
  CHECK((::fcntl(ours.get(), F_GETFL) & O_NONBLOCK) != 0);
}

TEST_CASE("a slot is one run's, until all that share its list are gone") {
  const TemporaryFolder folder;
  const std::string place = folder.path("registry");
  auto first = NetworkRegistry::open(place).value();
  {
    const auto turn = first.turn().value();
    CHECK(first.take(0));
    CHECK_FALSE(first.others());
  }
  auto second = NetworkRegistry::open(place).value();
  // What the keeper has of the first.
  std::optional<NetworkRegistry> shared(base::UniqueFd(::dup(first.fd())));
  {
    const auto turn = second.turn().value();
    CHECK_FALSE(second.take(0));
    CHECK(second.take(1));
    CHECK(second.others());
    REQUIRE(second.set_forwarding({"eth0", "wlan0"}));
  }
  { const NetworkRegistry gone = std::move(first); }
  CHECK_FALSE(second.take(0));
  CHECK(shared->forwarding() == std::vector<std::string>{"eth0", "wlan0"});
  shared.reset();
  CHECK(second.take(0));
  CHECK_FALSE(second.others());
}

TEST_CASE("a list that the last one out removed is not the one to take a slot in") {
  const TemporaryFolder folder;
  const std::string place = folder.path("registry");
  auto last = NetworkRegistry::open(place).value();
  auto late = NetworkRegistry::open(place).value();
  {
    const auto turn = last.turn().value();
    last.remove_file();
  }
  CHECK(std::filesystem::is_empty(place));
  auto next = NetworkRegistry::open(place).value();
  REQUIRE(next.turn());
  CHECK(next.take(0));
  {
    const auto turn = late.turn().value();
    CHECK_FALSE(late.take(0));
    // One that is not there any more has nothing to remove.
    last.remove_file();
  }
  CHECK_FALSE(std::filesystem::is_empty(place));
}
