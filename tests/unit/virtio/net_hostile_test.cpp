// The network device against drivers that mean harm.
#include "tests/unit/virtio/net_bench.h"

#include <thread>

using namespace mayfly;
using namespace mayfly::virtio;
using namespace mayfly::virtio::net;
using namespace mayfly::test;

namespace {

constexpr MacAddress kOther = {0x02, 0xfe, 1, 2, 3, 5};

// The device is as well as before.
void still_works(NetBench& b) {
  CHECK(b.registers.status() == 15);
  b.network.take_all();
  b.send(packet(frame("well")));
  CHECK(b.network.take() == packet(frame("well")));
}

void needs_reset(NetBench& b) {
  CHECK((b.registers.status() & kStatusDeviceNeedsReset) != 0);
  CHECK((b.registers.read(reg::kInterruptStatus) & kInterruptConfig) != 0);
  CHECK(b.metrics().malformed_queues == 1);
  const int reads = b.network.reads;
  b.network.arrive(packet(frame("x", kHostMac)));
  b.registers.notify(0);
  b.registers.notify(1);
  b.rounds();
  CHECK(b.network.reads == reads);
  b.network.take_all();
  DriverQueue rx(b.guest, 64, b.features);
  DriverQueue tx(b.guest, 64, b.features);
  b.start(rx, tx);
  ChainBuilder(b.guest).readable(packet(frame("again"))).submit(tx);
  b.registers.notify(1);
  CHECK(b.network.take() == packet(frame("again")));
}

}  // namespace

// ---- Frames to send: each is returned, counted and not sent ----

TEST_CASE("net: bad frames are dropped") {
  NetBench b;
  SECTION("header too short") {
    b.send(Bytes(1));
    b.send(Bytes(11));
  }
  SECTION("nothing readable") {
    b.send(ChainBuilder(b.guest).writable(100));
    b.send(ChainBuilder(b.guest).buffer(base::GuestAddress(~0ULL), 0, false));
  }
  SECTION("frame too short") {
    b.send(Bytes(12));
    b.send(Bytes(25));
  }
  SECTION("header read-only, frame in a writable buffer") {
    b.send(ChainBuilder(b.guest).readable(Bytes(12)).writable(100));
    b.send(ChainBuilder(b.guest).writable(11));
  }
  SECTION("frame too long") {
    b.send(packet(frame(std::string(kLargestFrame - 13, 'x'))));
    b.send(ChainBuilder(b.guest).buffer(base::GuestAddress(0), 100U << 20U, false));
  }
  SECTION("checksum outside of the frame") {
    b.send(packet(frame("short"), {.flags = kFlagNeedsCsum, .csum_start = 18, .csum_offset = 0}));
    b.send(packet(frame("short"), {.flags = kFlagNeedsCsum, .csum_start = 65535, .csum_offset = 65535}));
  }
  SECTION("checksum on the source address, which would change it after the check") {
    b.send(packet(frame("longer than that"), {.flags = kFlagNeedsCsum, .csum_start = 0, .csum_offset = 6}));
    b.send(packet(frame("longer than that"), {.flags = kFlagNeedsCsum, .csum_start = 10, .csum_offset = 0}));
  }
  SECTION("unknown segmentation") {
    b.send(
        packet(frame("longer than that"),
               {.flags = kFlagNeedsCsum, .gso_type = 5, .gso_size = 1, .csum_start = 14, .csum_offset = 0}));
    b.send(packet(frame("longer than that"), {.gso_type = kGsoTcpV4, .gso_size = 1}));
  }
  CHECK(b.metrics().tx_malformed == 2);
  CHECK(b.network.writes == 0);
  still_works(b);
}

TEST_CASE("net: offloads that were not negotiated are not to be had") {
  NetBench b({.declined = kFeatureHostTso4});
  const std::string payload(3000, 'x');
  const Header header{
      .flags = kFlagNeedsCsum, .gso_type = kGsoTcpV4, .gso_size = 1448, .csum_start = 34, .csum_offset = 16};
  b.send(packet(frame(payload), header));
  CHECK(b.metrics().tx_malformed == 1);
  NetBench plain({.declined = kFeatureCsum});
  plain.send(packet(frame(payload), {.flags = kFlagNeedsCsum, .csum_start = 34, .csum_offset = 16}));
  plain.send(packet(frame(payload), header));
  CHECK(plain.metrics().tx_malformed == 2);
  CHECK(plain.network.writes == 0);
}

TEST_CASE("net: frames from another address than the guest's are dropped") {
  NetBench b;
  b.send(packet(frame("spoofed", kOther)));
  b.send(packet(frame("spoofed", {})));
  CHECK(b.metrics().tx_spoofed == 2);
  CHECK(b.network.writes == 0);
  still_works(b);
  NetBench allowed({.allow_spoofing = true});
  allowed.send(packet(frame("bridged", kOther)));
  CHECK(allowed.network.take() == packet(frame("bridged", kOther)));
}

TEST_CASE("net: what was checked is what is sent, whatever the guest writes meanwhile") {
  NetBench b;
  const Bytes honest =
      packet(frame("payload"), {.flags = kFlagNeedsCsum, .csum_start = 14, .csum_offset = 2});
  const Bytes evil =
      packet(frame("PAYLOAD", kOther), {.flags = kFlagNeedsCsum, .csum_start = 0, .csum_offset = 6});
  const auto place = b.guest.allocate_bytes(honest);
  b.network.before_write = [&] { b.guest.write(place, evil); };
  b.send(ChainBuilder(b.guest).buffer(place, static_cast<std::uint32_t>(honest.size()), false).split(7));
  const Bytes sent = b.network.take();
  REQUIRE(sent.size() == honest.size());
  // Headers are the copy; the payload was never looked at.
  CHECK(std::equal(sent.begin(), sent.begin() + 26, honest.begin()));
  CHECK(std::equal(sent.begin() + 26, sent.end(), evil.begin() + 26));
}

// ---- Receive buffers ----

TEST_CASE("net: receive buffers without room for a header go back empty") {
  NetBench b;
  b.offer(11);
  ChainBuilder(b.guest).readable("a buffer to read from").submit(b.rx);
  const auto good = ChainBuilder(b.guest).readable("read this, too").writable(2048).submit(b.rx);
  b.network.arrive(packet(frame("hello", kHostMac)));
  b.rounds();
  CHECK(b.rx.take_used()->length == 0);
  CHECK(b.rx.take_used()->length == 0);
  const auto used = b.rx.take_used();
  REQUIRE(used);
  CHECK(used->id == good);
  CHECK(used->length == 12 + 19);
  CHECK(b.metrics().rx_small_buffers == 2);
  still_works(b);
}

TEST_CASE("net: many buffers of nearly no size") {
  NetBench b;
  for (int i = 0; i < 256; ++i) b.offer(12);
  b.network.arrive(packet(frame(std::string(4000, 'x'), kHostMac)));
  b.rounds(20);
  CHECK_FALSE(b.rx.take_used());
  CHECK(b.metrics().rx_too_large == 1);
  b.network.arrive(packet(frame(std::string(2000, 'y'), kHostMac)));
  b.rounds();
  std::uint32_t total = 0;
  unsigned chains = 0;
  while (const auto used = b.rx.take_used()) {
    total += used->length;
    ++chains;
  }
  CHECK(total == 12 + 14 + 2000);
  CHECK(chains == (total + 11) / 12);
  still_works(b);
}

TEST_CASE("net: chains of as many pieces as there may be, made available for ever") {
  NetBench b;
  // One chain of 256 one-byte pieces, in an indirect table, at each place of the ring, again and again.
  std::vector<Buffer> pieces(256, Buffer{b.guest.allocate(1), 1, true});
  const auto head = b.rx.submit_indirect(pieces);
  for (int i = 0; i < 255; ++i) b.rx.make_available(head);
  b.network.arrive(packet(frame(std::string(700, 'x'), kHostMac)));
  b.network.arrive(packet(frame(std::string(70, 'x'), kHostMac)));
  b.rounds(20);
  CHECK(b.metrics().rx_frames + b.metrics().rx_too_large == 2);
  still_works(b);
}

TEST_CASE("net: a driver whose index runs along with the device does not keep it") {
  NetBench b;
  const auto small = b.offer(4);
  for (int i = 0; i < 255; ++i) b.rx.make_available(small);
  b.network.arrive(packet(frame("x", kHostMac)));
  b.rounds(3);
  CHECK(b.metrics().rx_small_buffers == 256);
  still_works(b);
}

// ---- Queues: the device needs a reset, the VM lives on ----

TEST_CASE("net: broken queues") {
  NetBench b;
  const auto at = GENERATE(as<std::size_t>{}, 0, 1);
  DriverQueue& queue = at == 0 ? b.rx : b.tx;
  const bool writable = at == 0;
  CAPTURE(at);
  SECTION("a loop") {
    queue.write_descriptor(
        7, {0x8000ULL, 64U, static_cast<std::uint16_t>(kNext | (writable ? kWrite : 0)), std::uint16_t{7}});
    queue.make_available(7);
  }
  SECTION("outside of memory") {
    ChainBuilder(b.guest).buffer(base::GuestAddress(~0ULL - 100), 64, writable).submit(queue);
  }
  SECTION("2^32 bytes") {
    ChainBuilder chain(b.guest);
    for (int i = 0; i < 17; ++i) chain.buffer(base::GuestAddress(0), 0xff00000, writable);
    chain.submit(queue);
  }
  SECTION("a readable buffer after a writable one") {
    ChainBuilder(b.guest).writable(2048).readable("late").submit(queue);
  }
  SECTION("an index that jumps") {
    queue.set_available_index(static_cast<std::uint16_t>(queue.size() + 1));
  }
  SECTION("a descriptor that is not there") {
    queue.make_available(60000);
  }
  if (at == 0) b.network.arrive(packet(frame("x", kHostMac)));
  b.registers.notify(1);
  b.rounds();
  needs_reset(b);
}

TEST_CASE("net: a queue that breaks while buffers are held and frames wait") {
  NetBench b;
  for (int i = 0; i < 43; ++i) b.offer(1536);
  b.network.arrive(packet(frame("x", kHostMac)));
  b.rounds();
  CHECK(b.rx.take_used());
  for (int i = 0; i < 20; ++i)
    ChainBuilder(b.guest).readable(packet(frame(std::string(60000, 'x')))).submit(b.tx);
  b.registers.notify(1);
  b.rx.make_available(60000);
  b.kick_rx();
  b.network.arrive(packet(frame("x", kHostMac)));
  b.rounds();
  CHECK((b.registers.status() & kStatusDeviceNeedsReset) != 0);
  needs_reset(b);
}

TEST_CASE("net: both queues must be there") {
  NetBench b;
  const std::uint32_t only = GENERATE(0U, 1U);
  REQUIRE(b.registers.negotiate(b.features));
  b.registers.set_queue(only, b.rx.layout());
  b.registers.start();
  CHECK((b.registers.status() & kStatusDeviceNeedsReset) != 0);
}

// ThreadSanitizer would report the race that this test is about.
#ifndef __SANITIZE_THREAD__
TEST_CASE("net: memory that changes while it is read does no harm") {
  NetBench b;
  const Bytes honest = packet(frame("payload", kGuestMac));
  const auto place = b.guest.allocate_bytes(honest);
  std::atomic<bool> done = false;
  std::thread other_cpu([&] {
    const auto bytes = b.guest.memory().slice(place, honest.size()).value();
    std::uint8_t value = 0;
    while (!done) {
      // The last byte of the source address, and the header's flags and offsets.
      std::atomic_ref(bytes[23]).store(std::byte{value}, std::memory_order_relaxed);
      std::atomic_ref(bytes[0]).store(std::byte{value}, std::memory_order_relaxed);
      std::atomic_ref(bytes[6]).store(std::byte{value++}, std::memory_order_relaxed);
    }
  });
  const std::array<Buffer, 1> buffers = {{{place, static_cast<std::uint32_t>(honest.size()), false}}};
  for (int i = 0; i < 5000; ++i) {
    b.tx.submit(buffers);
    b.registers.notify(1);
    REQUIRE(b.tx.take_used());
    for (Bytes sent = b.network.take(); !sent.empty(); sent = b.network.take()) {
      CHECK(std::equal(sent.begin() + 18, sent.begin() + 24, std::as_bytes(std::span(kGuestMac)).begin()));
      const auto start = static_cast<unsigned>(sent[6]);
      CHECK((sent[0] == std::byte{0} || (start >= 14 && start + 2 <= sent.size() - 12)));
    }
  }
  done = true;
  other_cpu.join();
  CHECK(b.registers.status() == 15);
}
#endif
