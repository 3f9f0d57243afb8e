#include "cli/drive_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <utility>
#include <vector>

#include "cli/command_line.h"
#include "cli/drive.h"

namespace mayfly::cli {

using base::fail;
using base::Result;
using virtio::block::overlay::create_overlay;
using virtio::block::overlay::inspect_overlay;

namespace {

constexpr const char* kFooter = R"(
An overlay is a sparse file with what one VM has written to a disk; what it has not written is read from the
base, an image that any number of VMs share and none changes. A drive of mayfly-vmm has one with
"overlay_path": "OVERLAY" beside "path_on_host": "BASE", and makes it when it is missing.

A base must stay as it is for as long as it has overlays: a changed one is refused. An overlay names its base
itself; for one that somebody else gave you, say --base, lest it names a file of yours that is not theirs to
read.

Examples:
  mayfly drive create --base rootfs.ext4 vm1.overlay   a clone, in milliseconds
  mayfly drive show vm1.overlay                        what it takes, and whether all is well
  mayfly drive flatten vm1.overlay -o vm1.ext4         a whole image that needs no base
)";

constexpr const char* kCreateFooter = R"(
Makes an overlay that reads as the base does. Nothing of the base is copied. mayfly-vmm makes missing overlays
itself; this is for other cluster sizes, and for making them ahead.

Example:
  for i in 1 2 3; do mayfly drive create --base rootfs.ext4 vm$i.overlay; done
)";

constexpr const char* kShowFooter = R"(
States: clean, in use (by a VM that runs), not closed (its VM or the machine was killed: what was written after
the last flush may be missing, and it can be used as it is). Exit status: 0, or 125 for what is no overlay.

Examples:
  mayfly drive show vm1.overlay
  mayfly drive show --json vm1.overlay | jq .on_disk_bytes
)";

constexpr const char* kFlattenFooter = R"(
Writes the disk as the VM saw it into a raw image, which is sparse where the disk is zero. The VM must not run.
FILE appears when it is complete.

Example:
  mayfly drive flatten vm1.overlay -o vm1.ext4 && mayfly run --rootfs vm1.ext4 -- cat /etc/os-release
)";

struct Request {
  std::string overlay;
  std::string base;
  std::string output;
  std::uint32_t cluster_kib = 0;
  bool json = false;
  bool force = false;
  bool quiet = false;
};

void add_create(CLI::App& app, Request& request) {
  CLI::App* const create = app.add_subcommand("create", "Make an overlay on a base");
  create->add_option("OVERLAY", request.overlay, "The file to make")->required();
  create->add_option("--base", request.base, "The image to read what is not written from")
      ->required()
      ->type_name("FILE");
  create
      ->add_option(
          "--cluster-size", request.cluster_kib,
          "What is copied when a part of it is written: 4, 8, 16, 32 or 64 (default: 4, more above 64 "
          "GiB)")
      ->type_name("KIB")
      ->check(CLI::IsMember({4, 8, 16, 32, 64}));
  create->add_flag("-q,--quiet", request.quiet, "Say nothing about success");
  create->footer(kCreateFooter);
}

void add_show(CLI::App& app, Request& request) {
  CLI::App* const show = app.add_subcommand("show", "Tell what an overlay holds and what it takes");
  show->add_option("OVERLAY", request.overlay, "The overlay")->required();
  show->add_option("--base", request.base, "Its base (default: the one it names)")->type_name("FILE");
  show->add_flag("--json", request.json, "One JSON object");
  show->footer(kShowFooter);
}

void add_flatten(CLI::App& app, Request& request) {
  CLI::App* const flatten = app.add_subcommand("flatten", "Make a whole image of an overlay and its base");
  flatten->add_option("OVERLAY", request.overlay, "The overlay")->required();
  flatten->add_option("-o,--output", request.output, "The image")->required()->type_name("FILE");
  flatten->add_option("--base", request.base, "Its base (default: the one it names)")->type_name("FILE");
  flatten->add_flag("--force", request.force, "Replace FILE if it exists");
  flatten->add_flag("-q,--quiet", request.quiet, "Say nothing about success");
  flatten->footer(kFlattenFooter);
}

struct Parsed {
  std::string command;  // the subcommand, or
  std::string help;     // for --help, the text to print
};

// CLI11 throws; nothing of that leaves this function.
Result<Parsed> parse(std::span<const std::string> words, Request& request) {
  // CLI11 would only say that one is missing.
  if (!words.empty() && !words.front().starts_with('-') && words.front() != "create" &&
      words.front() != "show" && words.front() != "flatten") {
    return fail("unknown command drive {} (see mayfly drive --help)", words.front());
  }
  CLI::App app{"Copy-on-write drives: makes overlays, shows them, and makes whole images of them.",
               "mayfly drive"};
  app.require_subcommand(1);
  app.footer(kFooter);
  add_create(app, request);
  add_show(app, request);
  add_flatten(app, request);
  std::string help = TRY(parse_with(app, std::vector(words.rbegin(), words.rend()), "drive"));
  if (!help.empty()) return Parsed{.command = {}, .help = std::move(help)};
  return Parsed{.command = app.get_subcommands().front()->get_name(), .help = {}};
}

Result<int> create(const Request& request) {
  TRY(create_overlay(request.overlay, request.base, request.cluster_kib << 10U));
  if (request.quiet) return 0;
  const auto summary = TRY(inspect_overlay(request.overlay, request.base));
  fmt::print("{}: {} of {}, {} on disk\n", request.overlay, as_size(summary.description.base.size),
             request.base, as_size(summary.disk_bytes));
  return 0;
}

Result<int> show(const Request& request) {
  const auto summary = TRY(inspect_overlay(request.overlay, request.base));
  fmt::print("{}", request.json ? as_json(request.overlay, summary) : as_text(request.overlay, summary));
  return 0;
}

Result<int> make_flat(const Request& request) {
  const FlattenSummary made = TRY(flatten({.overlay = request.overlay,
                                           .base = request.base,
                                           .output = request.output,
                                           .replace = request.force}));
  if (!request.quiet) {
    fmt::print("{}: {}, {} on disk\n", request.output, as_size(made.size_bytes), as_size(made.disk_bytes));
  }
  return 0;
}

}  // namespace

Result<int> drive_command(std::span<const std::string> words) {
  Request request;
  const Parsed parsed = TRY(parse(words, request));
  if (!parsed.help.empty()) {
    fmt::print("{}", parsed.help);
    return 0;
  }
  if (parsed.command == "create") return create(request);
  return parsed.command == "show" ? show(request) : make_flat(request);
}

}  // namespace mayfly::cli
