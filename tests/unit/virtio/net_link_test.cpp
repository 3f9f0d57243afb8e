// The network device when its network fails, and its life from start to restore.
#include "tests/unit/virtio/net_bench.h"

using namespace mayfly;
using namespace mayfly::virtio;
using namespace mayfly::virtio::net;
using namespace mayfly::test;

// ---- Errors of the network ----

TEST_CASE("net: an error of one frame is that frame's alone") {
  NetBench b;
  b.network.write_error = ENOBUFS;
  b.send(packet(frame("lost")));
  CHECK(b.metrics().tx_errors == 1);
  b.network.write_error.reset();
  b.send(packet(frame("sent")));
  CHECK(b.network.take() == packet(frame("sent")));
  CHECK(b.link_status() == 1);
}

TEST_CASE("net: the link goes down with the interface, and comes up with it") {
  NetBench b;
  b.offer(2048);
  b.network.write_error = EIO;
  b.send(packet(frame("lost")));
  CHECK(b.link_status() == 0);
  CHECK((b.registers.read(reg::kInterruptStatus) & kInterruptConfig) != 0);
  CHECK(b.metrics().link_changes == 1);
  b.send(packet(frame("lost, too")));
  CHECK(b.metrics().tx_link_down == 1);
  CHECK(b.network.writes == 1);
  b.network.write_error.reset();
  b.network.arrive(packet(frame("back", kHostMac)));
  b.rounds();
  CHECK(b.link_status() == 1);
  CHECK(receive(b) == expected(frame("back", kHostMac), 1));
  b.send(packet(frame("sent")));
  CHECK(b.network.take() == packet(frame("sent")));
}

TEST_CASE("net: a network that is gone is a link that stays down, and costs nothing") {
  const bool by_reading = GENERATE(true, false);
  const bool waiting = GENERATE(true, false);
  CAPTURE(by_reading, waiting);
  NetBench b;
  b.offer(2048);
  if (waiting) {
    // Frames that wait for room are given back as well.
    for (int i = 0; i < 20; ++i) ChainBuilder(b.guest).readable(packet(frame(text(60000)))).submit(b.tx);
    b.registers.notify(1);
    while (b.tx.take_used()) {
    }
  }
  if (by_reading) {
    b.network.read_error = EBADFD;
    b.network.arrive(packet(frame("x", kHostMac)));
  } else {
    b.network.far.reset();  // EPOLLHUP
  }
  b.until([&] { return b.link_status() == 0; });
  const int reads = b.network.reads;
  b.rounds(50);
  CHECK(b.network.reads == reads);
  CHECK((b.registers.read(reg::kInterruptStatus) & kInterruptConfig) != 0);
  CHECK(b.metrics().link_changes == 1);
  CHECK(b.registers.status() == 15);
  if (waiting) {
    while (b.tx.take_used()) {
    }
    CHECK(b.tx.free_descriptors() == b.tx.size());
  }
  b.send(packet(frame("nowhere")));
  CHECK(b.metrics().tx_link_down >= 1);
  // A new driver finds the link down.
  DriverQueue rx(b.guest, 64, b.features);
  DriverQueue tx(b.guest, 64, b.features);
  b.start(rx, tx);
  CHECK(b.link_status() == 0);
  b.rounds();
  CHECK(b.network.reads == reads);
}

TEST_CASE("net: a frame that the network cannot describe is lost alone") {
  NetBench b;
  b.offer(2048);
  b.network.read_error = EINVAL;
  b.network.arrive(packet(frame("good", kHostMac)));
  b.rounds(2);
  CHECK(b.metrics().rx_errors > 0);
  CHECK(b.link_status() == 1);
  b.network.read_error.reset();
  b.rounds();
  CHECK(receive(b) == expected(frame("good", kHostMac), 1));
}

TEST_CASE("net: a network that refuses the driver's offloads is gone") {
  NetBench b;
  b.network.features_error = EBADFD;
  DriverQueue rx(b.guest, 64, b.features);
  DriverQueue tx(b.guest, 64, b.features);
  b.start(rx, tx);
  CHECK(b.link_status() == 0);
}

// ---- Life ----

TEST_CASE("net: reset drops what is held and watched") {
  NetBench b;
  for (int i = 0; i < 50; ++i) b.offer(1536);
  b.network.arrive(packet(frame("one", kHostMac)));
  b.rounds();
  CHECK(b.rx.take_used());
  b.registers.write(reg::kStatus, 0U);
  b.network.arrive(packet(frame("two", kHostMac)));
  const int reads = b.network.reads;
  b.rounds(50);
  CHECK(b.network.reads == reads);
  DriverQueue rx(b.guest, 64, b.features);
  DriverQueue tx(b.guest, 64, b.features);
  b.start(rx, tx);
  ChainBuilder(b.guest).writable(2048).submit(rx);
  b.rounds();
  CHECK(rx.take_used());
}

TEST_CASE("net: a saved device goes on where it was") {
  NetBench b;
  for (int i = 0; i < 50; ++i) b.offer(1536);
  b.network.arrive(packet(frame("one", kHostMac)));
  b.rounds();
  CHECK(receive(b) == expected(frame("one", kHostMac), 1));
  b.send(packet(frame("sent")));
  b.network.take_all();
  const auto registers = b.transport.save();
  const std::array<Queue::State, 2> queues = {b.save().rx, b.save().tx};
  CHECK(queues[0].next_available == 1);
  // The other device takes the first one's place in the loop.
  b.transport.device().mutex().lock();
  b.device->reset();
  b.device->mutex().unlock();

  const auto other = b.make();
  MmioTransport transport(*other, b.guest.memory(), [] {});
  REQUIRE(transport.restore(registers, queues));
  b.network.arrive(packet(frame(text(5000), kHostMac)));
  b.rounds();
  CHECK(receive(b) == expected(frame(text(5000), kHostMac), 4));
  ChainBuilder(b.guest).readable(packet(frame("again"))).submit(b.tx);
  transport.queue_notified(1);
  CHECK(b.network.take() == packet(frame("again")));
}
