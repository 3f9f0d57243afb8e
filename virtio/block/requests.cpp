#include "virtio/block/requests.h"

#include <algorithm>
#include <cerrno>

namespace mayfly::virtio::block {

Requests::Requests(std::string id) : id_(std::move(id)) {
  flights_.reserve(kMostInFlight);
}

std::uint32_t Requests::take_token() {
  if (free_.empty()) {
    flights_.emplace_back();
    return static_cast<std::uint32_t>(flights_.size() - 1);
  }
  const std::uint32_t token = free_.back();
  free_.pop_back();
  return token;
}

void Requests::begin(Queue& queue, Chain chain, const Disk& disk, bool write_through) {
  const std::uint64_t writable = chain.writer().remaining();
  if (writable == 0) {
    // Nowhere to put a status.
    ++metrics_.malformed_requests;
    queue.push(std::move(chain), 0);
    return;
  }
  Writer status = chain.writer().split_tail(1);
  const std::uint32_t token = take_token();
  // A chain is shorter than 2^32 bytes (Queue::pop).
  flights_[token].emplace(Flight{.queue = &queue,
                                 .chain = std::move(chain),
                                 .status = std::move(status),
                                 .writable = static_cast<std::uint32_t>(writable),
                                 .request = {},
                                 .spans = {},
                                 .ranges = {}});
  if (const auto answered = start(token, disk, write_through)) answer(token, *answered);
}

// The status, where there is one already.
std::optional<RequestStatus> Requests::start(std::uint32_t token, const Disk& disk, bool write_through) {
  Flight& flight = *flights_[token];
  Reader& reader = flight.chain.reader();
  Writer& writer = flight.chain.writer();
  const auto header = reader.read_object<RequestHeader>();
  const auto request = parse(header, reader.remaining(), writer.remaining(), disk);
  if (!request) return refuse(request.error());
  flight.request = *request;
  Job job{.token = token, .operation = request->operation, .offset = request->offset};
  switch (request->operation) {
    case Operation::kRead:
      flight.spans = writer.take_spans(request->length);
      break;
    case Operation::kWrite:
      flight.spans = reader.take_spans(request->length);
      job.stable = write_through;
      break;
    case Operation::kDiscard:
    case Operation::kWriteZeroes:
      if (const auto refusal = fetch_ranges(flight, disk)) return refuse(*refusal);
      job.stable = write_through;
      break;
    case Operation::kFlush:
      break;
    case Operation::kGetId:
      give_id(writer);
      return RequestStatus::kOk;
  }
  job.spans = flight.spans;
  job.ranges = flight.ranges;
  backend_->submit(job);
  return std::nullopt;
}

std::optional<Refusal> Requests::fetch_ranges(Flight& flight, const Disk& disk) const {
  // Once, into a copy; parse() has bounded how many there are.
  std::array<Segment, std::max(kDiscardLimits.segments, kWriteZeroesLimits.segments)> copy;
  const auto segments = std::span(copy).first(flight.request.segments);
  flight.chain.reader().read(std::as_writable_bytes(segments));
  auto ranges = parse_segments(flight.request, segments, disk);
  if (!ranges) return ranges.error();
  flight.ranges = std::move(*ranges);
  return std::nullopt;
}

void Requests::completed(std::uint32_t token, const base::Status& outcome) {
  Flight& flight = *flights_[token];
  if (outcome) {
    count_success(flight.request);
    return answer(token, RequestStatus::kOk);
  }
  // Given up by a reset: no failure of the disk's.
  if (outcome.error().code != ECANCELED) count_failure(flight.request.operation, outcome.error());
  if (flight.request.operation == Operation::kRead) {
    // Nothing half-read is left for the driver to find.
    for (const auto& span : flight.spans) std::ranges::fill(span, std::byte{0});
  }
  answer(token, RequestStatus::kIoError);
}

void Requests::answer(std::uint32_t token, RequestStatus status) {
  Flight& flight = *flights_[token];
  Writer& rest = flight.chain.writer();
  // Section 2.7.8.2: the driver may believe what lies within the used length only, and the status is at the
  // end of it. So what was not filled before the status is zeroed, and all of it counts as written.
  for (const std::span<std::byte> span : rest.take_spans(rest.remaining())) {
    std::ranges::fill(span, std::byte{0});
  }
  flight.status.write_object(status);
  flight.queue->push(std::move(flight.chain), flight.writable);
  flights_[token].reset();
  free_.push_back(token);
}

RequestStatus Requests::refuse(Refusal refusal) {
  switch (refusal) {
    case Refusal::kUnsupportedType:
    case Refusal::kReservedFlags:
      ++metrics_.unsupported_requests;
      break;
    case Refusal::kOutOfRange:
      ++metrics_.out_of_range;
      break;
    case Refusal::kReadOnly:
      ++metrics_.read_only_writes;
      break;
    case Refusal::kNoHeader:
    case Refusal::kNotWholeSectors:
    case Refusal::kTooLong:
    case Refusal::kNoRoom:
    case Refusal::kBadSegments:
      ++metrics_.malformed_requests;
      break;
  }
  return status_of(refusal);
}

// Section 5.2.6: up to 20 bytes, padded with zeros, not terminated when all are used.
void Requests::give_id(Writer& data) const {
  std::array<char, kIdSize> id{};
  std::copy_n(id_.begin(), std::min(id_.size(), id.size()), id.begin());
  data.write(std::as_bytes(std::span(id)));
}

void Requests::count_success(const Request& request) {
  switch (request.operation) {
    case Operation::kRead:
      ++metrics_.reads;
      metrics_.read_bytes += request.length;
      moved_bytes_ += request.length;
      break;
    case Operation::kWrite:
      ++metrics_.writes;
      metrics_.written_bytes += request.length;
      moved_bytes_ += request.length;
      break;
    case Operation::kFlush:
      ++metrics_.flushes;
      break;
    case Operation::kDiscard:
      ++metrics_.discards;
      break;
    case Operation::kWriteZeroes:
      ++metrics_.write_zeroes;
      break;
    case Operation::kGetId:
      break;
  }
}

void Requests::count_failure(Operation operation, const base::Error& error) {
  switch (operation) {
    case Operation::kRead:
      ++metrics_.read_errors;
      if (error.code == 0) ++metrics_.short_reads;
      break;
    case Operation::kWrite:
      ++metrics_.write_errors;
      break;
    case Operation::kFlush:
      ++metrics_.flush_errors;
      break;
    case Operation::kDiscard:
    case Operation::kWriteZeroes:
      ++metrics_.discard_errors;
      break;
    case Operation::kGetId:
      break;
  }
  if (error.code == ENOSPC || error.code == EDQUOT) ++metrics_.no_space;
  if (limiter_.allow()) base::log::warning("drive {}: {}", id_, error.message);
}

}  // namespace mayfly::virtio::block
