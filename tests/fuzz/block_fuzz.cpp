// The block device behind its registers, against an arbitrary driver: register accesses in any order, rings
// and requests of any content, a disk that fails and changes its size, on either engine.
#include "tests/fuzz/guest.h"
#include "tests/fuzz/quiet_loop.h"
#include "tests/fuzz/ring_writer.h"
#include "tests/support/fake_ring.h"
#include "tests/support/mmio_driver.h"
#include "virtio/block/device.h"
#include "virtio/block/request.h"

using namespace mayfly;
using namespace mayfly::virtio;
using base::GuestAddress;
using fuzz::Input;
using fuzz::require;

namespace {

constexpr std::uint64_t kHeaders = 0x17000;

constexpr std::array<int, 6> kResults = {0, 1, -EINTR, -EIO, -ENOSPC, -EOPNOTSUPP};

using Opened = base::Result<std::unique_ptr<block::Backend>>;

struct Disk {
  std::uint64_t size = 64 * block::kSectorSize;
  bool read_only = false;
  std::array<int, 8> results{};  // of calls, in turn: 0 for success, bytes moved, -errno
  std::size_t next = 0;
};

// Holds nothing, and checks that it is never asked for what is not there.
class CheckingMedium : public block::Medium {
 public:
  explicit CheckingMedium(Disk& disk) : disk_(disk) {}
  base::Result<std::uint64_t> size() override { return disk_.size; }
  [[nodiscard]] block::Geometry geometry() const override { return {.discards = !disk_.read_only}; }
  std::int64_t perform(const block::Call& call) override {
    using Kind = block::Call::Kind;
    require(!disk_.read_only || call.kind == Kind::kRead || call.kind == Kind::kSync);
    std::uint64_t length = call.length;
    for (const iovec& piece : call.pieces) length += piece.iov_len;
    require(call.kind == Kind::kSync || (length > 0 && call.offset <= disk_.size));
    require(length <= disk_.size - call.offset);
    if (const int result = disk_.results[disk_.next++ % disk_.results.size()]; result != 0) return result;
    if (call.kind == Kind::kRead) {
      for (const iovec& piece : call.pieces) std::memset(piece.iov_base, 0x55, piece.iov_len);
    }
    const bool transfers = call.kind == Kind::kRead || call.kind == Kind::kWrite;
    return transfers ? static_cast<std::int64_t>(length) : 0;
  }

 private:
  Disk& disk_;
};

// A whole request in descriptors 0 to 2: header, data, status.
void make_request(test::FakeGuest& guest, test::DriverQueue& driver, fuzz::RingWriter& writer, Input& input,
                  bool writes) {
  const block::RequestHeader header{static_cast<std::uint32_t>(input.byte() % 16), 0U, input.number()};
  guest.store(GuestAddress(kHeaders), header);
  const auto length = static_cast<std::uint32_t>(input.number());
  driver.write_descriptor(0, {kHeaders, 16U, test::kNext, std::uint16_t{1}});
  driver.write_descriptor(
      1, {writer.address(input), length,
          static_cast<std::uint16_t>(writes ? test::kNext : test::kNext | test::kWrite), std::uint16_t{2}});
  driver.write_descriptor(2, {kHeaders + 64, 1U, test::kWrite, std::uint16_t{0}});
  driver.make_available(0);
}

// DISCARD or WRITE_ZEROES, of segments that are often nearly right.
void make_segments(test::FakeGuest& guest, test::DriverQueue& driver, Input& input) {
  const std::uint8_t what = input.byte();
  const std::uint32_t type = (what & 1U) != 0 ? block::kTypeDiscard : block::kTypeWriteZeroes;
  const auto count = static_cast<std::uint32_t>(what >> 2U);
  guest.store(GuestAddress(kHeaders), block::RequestHeader{type, 0U, 0ULL});
  for (std::uint32_t i = 0; i < count; ++i) {
    guest.store(GuestAddress(kHeaders + 128 + i * sizeof(block::Segment)),
                block::Segment{input.number(), static_cast<std::uint32_t>(input.number()),
                               static_cast<std::uint32_t>(input.byte() >> 5U)});
  }
  const std::uint32_t odd = (what & 2U) != 0 ? 0 : input.byte() & 15U;
  driver.write_descriptor(0, {kHeaders, 16U, test::kNext, std::uint16_t{1}});
  driver.write_descriptor(1, {kHeaders + 128, count * 16U + odd, test::kNext, std::uint16_t{2}});
  driver.write_descriptor(2, {kHeaders + 64, 1U, test::kWrite, std::uint16_t{0}});
  driver.make_available(0);
}

void run(block::Device& device, MmioTransport& transport, test::FakeGuest& guest, Disk& disk,
         test::RingControl& ring, base::EventLoop& loop, Input& input, std::uint16_t queue_size) {
  test::MmioDriver registers(transport);
  test::DriverQueue driver(guest,
                           {.size = queue_size,
                            .descriptor_table = GuestAddress(0x10000),
                            .available_ring = GuestAddress(0x11000),
                            .used_ring = GuestAddress(0x12000)},
                           0);
  fuzz::RingWriter writer(guest, driver, GuestAddress(0x14000));
  while (!input.empty()) {
    const std::uint8_t act = input.byte();
    switch (act % 17) {
      case 0:
      case 1:
      case 2:
      case 3:
        writer.act(input);
        break;
      case 4:
        make_request(guest, driver, writer, input, (act & 0x80U) != 0);
        break;
      case 5:
        make_segments(guest, driver, input);
        break;
      case 6:
      case 7:
      case 8:
        registers.notify(input.byte() & 3U);
        break;
      case 9:
        registers.negotiate(input.byte() >= 128 ? registers.offered() : input.number());
        for (std::uint32_t index = act >> 6U; index < 4; index += 2)
          registers.set_queue(index, driver.layout());
        registers.start();
        break;
      case 10:
        registers.write(std::uint64_t{input.byte()} * 4, static_cast<std::uint32_t>(input.number()));
        break;
      case 11:
        registers.read(std::uint64_t{input.byte()} * 4);
        break;
      case 12: {
        std::array<std::byte, 16> buffer{};
        transport.read(input.number(), std::span(buffer).first(input.byte() % buffer.size()));
        transport.write(input.number(), std::span(buffer).first(input.byte() % buffer.size()));
        break;
      }
      case 13:
        disk.results[input.byte() % disk.results.size()] = kResults[input.byte() % kResults.size()];
        break;
      case 14: {
        const std::lock_guard lock(device.mutex());
        device.quiesce();
        require(ring.begun.empty() && ring.finished.empty());
        disk.size = (1U + input.byte()) * block::kSectorSize;
        require(device.update("").has_value());
        break;
      }
      case 15: {
        const std::uint8_t what = input.byte();
        ring.slow = (what & 1U) != 0;
        ring.reversed = (what & 2U) != 0;
        ring.cancels = (what & 4U) != 0;
        ring.refusals = what >> 6U;
        if ((what & 8U) != 0) ring.finish_all((what & 16U) != 0);
        fuzz::one_round(loop);
        break;
      }
      default:
        while (driver.take_used()) {
        }
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  test::FakeGuest& guest = fuzz::fresh_guest();
  base::EventLoop& loop = fuzz::quiet_loop();
  Input input(data, size);
  const std::uint8_t mode = input.byte();
  Disk disk{.read_only = (mode & 1U) != 0};
  CheckingMedium below_ring(disk);
  test::RingControl ring;
  ring.perform = [&](const block::Call& call) { return below_ring.perform(call); };
  const block::Config config = {
      .id = "fuzz",
      .path = "disk",
      .read_only = disk.read_only,
      .cache_type = (mode & 2U) != 0 ? block::CacheType::kWriteback : block::CacheType::kUnsafe};
  const auto open = [&](const std::string&, const block::Opening& opening) -> Opened {
    auto medium = std::make_unique<CheckingMedium>(disk);
    if ((mode & 32U) == 0) return block::make_sync_backend(std::move(medium), opening.completions);
    return block::make_async_backend(std::move(medium), std::make_unique<test::FakeRing>(ring), opening);
  };
  const auto device =
      block::Device::create(config, static_cast<std::uint16_t>(1U + (mode >> 6U)), loop, open).value();
  MmioTransport transport(*device, guest.memory(), [] {});
  run(*device, transport, guest, disk, ring, loop, input,
      static_cast<std::uint16_t>(1U << ((mode >> 2U) & 7U)));
  return 0;
}
