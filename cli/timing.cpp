#include "cli/timing.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

namespace mayfly::cli {

namespace {

constexpr std::array<std::pair<std::string_view, std::string_view>, 4> kVmmPhases = {{
    {"vmm_started", "VMM started"},
    {"kvm", "KVM"},
    {"kernel_loaded", "kernel loaded"},
    {"first_vcpu_entry", "first vCPU entry"},
}};

}  // namespace

void Timing::add_vmm_phase(std::string_view phase, std::uint64_t ns) {
  for (const auto& [theirs, ours] : kVmmPhases) {
    if (theirs == phase) host_.push_back({std::string(ours), ns, ns});
  }
}

void Timing::add_guest_frame(const GuestFrame& frame, std::uint64_t arrival_ns) {
  const auto add = [&](std::string_view name, std::uint64_t guest_ns) {
    guest_.push_back({std::string(name), guest_ns, arrival_ns});
  };
  const auto sent_at = [&](std::uint64_t guest_ns) {
    // Unsigned first: any two readings have a difference.
    const auto offset = static_cast<std::int64_t>(arrival_ns - guest_ns);
    guest_offset_ns_ = guest_seen_ ? std::min(guest_offset_ns_, offset) : offset;
    guest_seen_ = true;
  };
  if (const auto* hello = std::get_if<HelloFrame>(&frame)) {
    sent_at(hello->now_ns);
    add("kernel", hello->init_started_ns);
    add("init", hello->now_ns);
  } else if (const auto* started = std::get_if<StartedFrame>(&frame)) {
    sent_at(started->now_ns);
    add("command started", started->now_ns);
  } else if (const auto* exited = std::get_if<ExitedFrame>(&frame)) {
    sent_at(exited->now_ns);
    add("ended", exited->now_ns);
  }
}

std::vector<Timing::Phase> Timing::phases() const {
  std::vector<Phase> phases = {{"process start", 0.0, 0.0}};
  std::uint64_t before = start_ns_;
  const auto place = [&](const Moment& moment, std::uint64_t ns) {
    const std::uint64_t at = std::clamp(ns, before, std::max(before, moment.latest_ns));
    const auto ms = [](std::uint64_t span) { return static_cast<double>(span) / 1e6; };
    phases.push_back({moment.name, ms(at - start_ns_), ms(at - before)});
    before = at;
  };
  for (const Moment& moment : host_) place(moment, moment.ns);
  for (const Moment& moment : guest_) place(moment, moment.ns + static_cast<std::uint64_t>(guest_offset_ns_));
  return phases;
}

std::string Timing::as_table() const {
  std::string out = fmt::format("{:<18}{:>12}{:>12}\n", "phase", "at ms", "took ms");
  for (const Phase& phase : phases()) {
    out += fmt::format("{:<18}{:>12.3f}{:>12.3f}\n", phase.name, phase.at_ms, phase.delta_ms);
  }
  return out;
}

std::string Timing::as_json(int exit_status) const {
  auto list = nlohmann::ordered_json::array();
  for (const Phase& phase : phases()) {
    list.push_back({{"name", phase.name}, {"ms", phase.at_ms}, {"delta_ms", phase.delta_ms}});
  }
  return nlohmann::ordered_json{{"phases", list}, {"exit_status", exit_status}}.dump() + "\n";
}

}  // namespace mayfly::cli
