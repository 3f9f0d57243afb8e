#include "cli/image_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <utility>
#include <vector>

#include "cli/image.h"

namespace mayfly::cli {
namespace {

using base::fail;
using base::Result;

constexpr const char* kFooter = R"(
SOURCE is a folder, a tar archive, compressed or not, or - for an archive on standard input. The image is ext4, with
/sbin/mayfly-init added, which Mayfly's guests start with. Without root, fakeroot keeps the owners of an archive's
files; those of a folder then belong to root. SOURCE_DATE_EPOCH makes images that are the same each time.

Examples:
  mayfly image build ./my-root -o my-root.ext4
  docker export CONTAINER | mayfly image build - -o container.ext4
  mayfly run --rootfs container.ext4 -- cat /etc/os-release
)";

// CLI11 throws; nothing of that leaves this function. The text to print for --help, or "" with `request`
// filled in.
Result<std::string> parse(std::span<const std::string> words, ImageRequest& request, bool& quiet) {
  CLI::App app{"Makes root file system images for guests.", "mayfly image"};
  app.require_subcommand(1);
  CLI::App* const build = app.add_subcommand("build", "Make an image from a folder or a tar archive");
  build->add_option("SOURCE", request.source, "Folder, tar archive, or - for standard input")->required();
  build->add_option("-o,--output", request.output, "The image")->required()->type_name("FILE");
  build
      ->add_option("--size", request.size_mib, "Size of the file system (default: content and room to spare)")
      ->type_name("MIB")
      ->check(CLI::PositiveNumber);
  build->add_option("--init", request.init, "The mayfly-init to add (default: the one beside mayfly)")
      ->type_name("FILE");
  build->add_flag("-q,--quiet", quiet, "Say nothing about success");
  build->footer(kFooter);
  try {
    app.parse(std::vector<std::string>(words.rbegin(), words.rend()));
  } catch (const CLI::CallForHelp&) {
    return app.help();
  } catch (const CLI::ParseError& error) {
    std::string message = error.what();
    std::ranges::replace(message, '\n', ' ');
    return fail("{} (see mayfly image build --help)", message);
  }
  return std::string();
}

}  // namespace

Result<int> image_command(std::span<const std::string> words) {
  ImageRequest request;
  bool quiet = false;
  const std::string help = TRY(parse(words, request, quiet));
  if (!help.empty()) {
    fmt::print("{}", help);
    return 0;
  }
  const ImageSummary summary = TRY(build_image(request));
  for (const std::string& warning : summary.warnings) fmt::print(stderr, "mayfly: warning: {}\n", warning);
  if (!quiet) {
    fmt::print("{}: {} entries, {} MiB, {:.1f} MiB on disk\n", request.output, summary.entries,
               summary.size_bytes >> 20U, static_cast<double>(summary.disk_bytes) / (1024.0 * 1024.0));
  }
  return 0;
}

}  // namespace mayfly::cli
