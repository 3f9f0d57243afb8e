#include "cli/drive.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/draft.h"
#include "base/file.h"
#include "cli/tool.h"
#include "virtio/block/overlay/flatten.h"

namespace mayfly::cli {

using base::Draft;
using base::fail;
using base::fail_because;
using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;
using virtio::block::overlay::Overlay;
using virtio::block::overlay::Summary;

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

const char* state_of(const Summary& summary) {
  if (summary.in_use) return "in use";
  return summary.clean ? "clean" : "not closed";
}

const char* remark_on(const Summary& summary) {
  if (summary.in_use) return " (what is said here is as of its last flush)";
  return summary.clean ? ""
                       : " (what was written after its last flush may be missing; it can be used as it is)";
}

// ---- Flattening ----

// On standard error, from the third second on; on a terminal in one line.
class ProgressLine {
 public:
  ProgressLine(std::string name, std::uint64_t total) : name_(std::move(name)), total_(total) {}
  ~ProgressLine() {
    if (shown_ && terminal_) std::fputs("\r\033[K", stderr);
  }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void show(std::uint64_t done) {
    const auto now = Clock::now();
    if (now < next_) return;
    next_ = now + (terminal_ ? kEach : kEachLine);
    shown_ = true;
    fmt::print(stderr, "{}{}: {} of {} ({} %), {} s{}", terminal_ ? "\r\033[K" : "", name_, as_size(done),
               as_size(total_), done * 100 / total_,
               std::chrono::duration_cast<std::chrono::seconds>(now - start_).count(), terminal_ ? "" : "\n");
    std::fflush(stderr);
  }

 private:
  static constexpr std::chrono::milliseconds kEach{200};
  static constexpr std::chrono::milliseconds kEachLine{5000};

  std::string name_;
  std::uint64_t total_;
  bool terminal_ = ::isatty(STDERR_FILENO) == 1;
  bool shown_ = false;
  Clock::time_point start_ = Clock::now();
  Clock::time_point next_ = start_ + std::chrono::seconds(2);
};

// Everything on stable storage, then the name.
Result<struct stat> finish(Draft& image, const FlattenRequest& request) {
  struct stat made {};
  // As files that people make, whom their umask suits.
  const mode_t mask = ::umask(0);
  ::umask(mask);
  if (::fchmod(image.fd(), 0666 & ~mask) < 0 || ::fstat(image.fd(), &made) < 0) {
    return fail_errno(errno, "write {}", request.output);
  }
  if (HeldSignals::stop_asked()) return fail("interrupted");
  TRY(image.publish(request.replace ? Draft::Over::kAFile : Draft::Over::kNothing));
  return made;
}

Status check_output(const FlattenRequest& request, const Overlay& overlay) {
  struct stat found {};
  if (::lstat(request.output.c_str(), &found) != 0) return {};
  if (!request.replace) {
    return fail("{} exists already: give another file, or --force to replace it", request.output);
  }
  if (!S_ISREG(found.st_mode)) return fail("cannot replace {}: it is no regular file", request.output);
  const std::string& base = request.base.empty() ? overlay.description().base_path : request.base;
  for (const std::string& input : {request.overlay, base}) {
    std::error_code ignored;
    if (fs::equivalent(input, request.output, ignored)) {
      return fail("cannot replace {}: the image is made from it", request.output);
    }
  }
  return {};
}

}  // namespace

std::string as_size(std::uint64_t bytes) {
  constexpr double kKiB = 1024.0;
  const double kib = static_cast<double>(bytes) / kKiB;
  return kib < kKiB ? fmt::format("{:.0f} KiB", kib) : fmt::format("{:.1f} MiB", kib / kKiB);
}

std::string as_text(const std::string& path, const Summary& summary) {
  const auto& what = summary.description;
  std::string text;
  text += fmt::format("overlay   {}\n", path);
  text += fmt::format("base      {}\n", summary.base_path);
  if (!summary.base_state)
    text += fmt::format("          cannot be used: {}\n", summary.base_state.error().message);
  text += fmt::format("disk      {} ({} bytes)\n", as_size(what.base.size), what.base.size);
  text += fmt::format("clusters  {} of {} KiB: {} written, {} zeroed, {} the base's\n", what.clusters(),
                      what.cluster_size >> 10U, summary.clusters.data, summary.clusters.zero,
                      summary.clusters.base);
  text += fmt::format("on disk   {}\n", as_size(summary.disk_bytes));
  text += fmt::format("state     {}{}\n", state_of(summary), remark_on(summary));
  return text;
}

std::string as_json(const std::string& path, const Summary& summary) {
  const auto& what = summary.description;
  const nlohmann::ordered_json all = {
      {"overlay", path},
      {"base", summary.base_path},
      {"base_state", summary.base_state ? "good" : summary.base_state.error().message},
      {"disk_bytes", what.base.size},
      {"cluster_bytes", what.cluster_size},
      {"clusters",
       {{"total", what.clusters()},
        {"written", summary.clusters.data},
        {"zeroed", summary.clusters.zero},
        {"base", summary.clusters.base}}},
      {"on_disk_bytes", summary.disk_bytes},
      {"state", state_of(summary)}};
  return all.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

Result<FlattenSummary> flatten(const FlattenRequest& request) {
  auto overlay = TRY(virtio::block::overlay::open_overlay_to_read(request.overlay, request.base));
  TRY(check_output(request, *overlay));
  const HeldSignals signals;
  Draft draft = TRY(Draft::create(request.output));
  {
    ProgressLine line(request.output, TRY(overlay->size()));
    auto written = virtio::block::overlay::flatten(*overlay, draft.fd(), [&](std::uint64_t done) {
      line.show(done);
      return !HeldSignals::stop_asked();
    });
    if (!written && HeldSignals::stop_asked()) return fail("interrupted");
    if (!written) return fail_because(std::move(written).error(), "write {}", request.output);
  }
  const struct stat made = TRY(finish(draft, request));
  return FlattenSummary{.size_bytes = static_cast<std::uint64_t>(made.st_size),
                        .disk_bytes = static_cast<std::uint64_t>(made.st_blocks) * 512};
}

}  // namespace mayfly::cli
