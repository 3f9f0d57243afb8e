#include "cli/image_command.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "cli/command_line.h"
#include "cli/image.h"
#include "cli/image_import.h"
#include "cli/image_store.h"

namespace mayfly::cli {
namespace {

using base::Result;
using base::Status;

constexpr const char* kBuildFooter = R"(
SOURCE is a folder, a tar archive, compressed or not, or - for an archive on standard input. The image is ext4, with
/sbin/mayfly-init added, which Mayfly's guests start with. Without root, fakeroot keeps the owners of an archive's
files; those of a folder then belong to root. SOURCE_DATE_EPOCH makes images that are the same each time.

Examples:
  mayfly image build ./my-root -o my-root.ext4
  docker export CONTAINER | mayfly image build - -o container.ext4
  mayfly run --rootfs container.ext4 -- cat /etc/os-release
)";

constexpr const char* kImportFooter = R"(
ARCHIVE is what `docker save` or `podman save` writes, or an OCI layout, as a folder or a tar archive. Layers are put on each
other, and entrypoint, command, environment, user and working directory are kept for `mayfly run IMAGE`. Needs skopeo and
umoci; root is not needed. Images are in ~/.local/share/mayfly/images, for root in /var/lib/mayfly/images.

Examples:
  docker save alpine:3.20 -o alpine.tar && mayfly image import alpine.tar
  skopeo copy docker://docker.io/library/debian:12 oci-archive:debian.tar && mayfly image import debian.tar --name debian:12
  mayfly run alpine -- cat /etc/os-release
)";

struct Words {
  ImageRequest build;
  ImportRequest import;
  std::vector<std::string> names;  // to remove
  bool quiet = false;
  bool json = false;
};

class Progress {
 public:
  explicit Progress(bool shown) : shown_(shown) {}
  void operator()(std::string_view step) const {
    if (!shown_) return;
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start_;
    fmt::print(stderr, "{:6.1f} s  {}\n", taken.count(), step);
  }

 private:
  bool shown_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

double mib(std::uint64_t bytes) {
  return static_cast<double>(bytes) / (1024.0 * 1024.0);
}

void print_warnings(const std::vector<std::string>& warnings) {
  for (const std::string& warning : warnings) fmt::print(stderr, "mayfly: warning: {}\n", warning);
}

Status build(const Words& words) {
  const ImageSummary summary = TRY(build_image(words.build));
  print_warnings(summary.warnings);
  if (!words.quiet) {
    fmt::print("{}: {} entries, {} MiB, {:.1f} MiB on disk\n", words.build.output, summary.entries,
               summary.size_bytes >> 20U, mib(summary.disk_bytes));
  }
  return {};
}

Status import(const Words& words, const ImageStore& store) {
  const Progress progress(!words.quiet && ::isatty(STDERR_FILENO) == 1);
  const ImportSummary summary = TRY(import_image(words.import, store, progress));
  print_warnings(summary.warnings);
  if (!words.quiet) {
    fmt::print("{}: {} MiB, {:.1f} MiB on disk; start it with \"mayfly run {}\"\n", summary.image.name,
               summary.image.size_bytes >> 20U, mib(summary.image.disk_bytes), summary.image.name);
  }
  return {};
}

Status list(const Words& words, const ImageStore& store) {
  const std::vector<StoredImage> images = TRY(store.list());
  if (words.json) {
    nlohmann::ordered_json all = nlohmann::ordered_json::array();
    for (const StoredImage& image : images) {
      all.push_back({{"name", image.name},
                     {"file", image.file},
                     {"source", image.source},
                     {"created", image.created},
                     {"size_bytes", image.size_bytes},
                     {"disk_bytes", image.disk_bytes},
                     {"config", to_json(image.config)}});
    }
    fmt::print("{}\n", all.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
    return {};
  }
  std::size_t widest = 4;
  for (const StoredImage& image : images) widest = std::max(widest, image.name.size());
  fmt::print("{:{}}  {:>10}  {:20}  {}\n", "NAME", widest, "ON DISK", "CREATED", "COMMAND");
  for (const StoredImage& image : images) {
    std::vector<std::string> command = image.config.entrypoint;
    command.insert(command.end(), image.config.command.begin(), image.config.command.end());
    fmt::print("{:{}}  {:>6.1f} MiB  {:20}  {}\n", image.name, widest, mib(image.disk_bytes), image.created,
               fmt::join(command, " "));
  }
  return {};
}

Status remove(const Words& words, const ImageStore& store) {
  for (const std::string& name : words.names) TRY(store.remove(name));
  return {};
}

void add_commands(CLI::App& app, Words& words) {
  app.require_subcommand(1);
  CLI::App* const build = app.add_subcommand("build", "Make an image from a folder or a tar archive");
  build->add_option("SOURCE", words.build.source, "Folder, tar archive, or - for standard input")->required();
  build->add_option("-o,--output", words.build.output, "The image")->required()->type_name("FILE");
  build
      ->add_option("--size", words.build.size_mib,
                   "Size of the file system (default: content and room to spare)")
      ->type_name("MIB")
      ->check(CLI::PositiveNumber);
  build->footer(kBuildFooter);
  CLI::App* const import =
      app.add_subcommand("import", "Store a container's image under a name, for mayfly run IMAGE");
  import->add_option("ARCHIVE", words.import.archive, "What docker save writes, or an OCI layout")
      ->required();
  import->add_option("--name", words.import.name,
                     "Name to store it by (default: the archive's, without .tar)");
  import->add_option("--ref", words.import.reference, "Which image of the archive, where it has several")
      ->type_name("NAME:TAG");
  import->footer(kImportFooter);
  for (const auto& [command, init] :
       {std::pair{build, &words.build.init}, std::pair{import, &words.import.init}}) {
    command->add_option("--init", *init, "The mayfly-init to add (default: the one beside mayfly)")
        ->type_name("FILE");
    command->add_flag("-q,--quiet", words.quiet, "Say nothing about success");
  }
  CLI::App* const list = app.add_subcommand("ls", "List the images that were imported");
  list->add_flag("--json", words.json, "One JSON array");
  CLI::App* const remove =
      app.add_subcommand("rm", "Remove images that were imported; machines that run on them go on");
  remove->add_option("NAME", words.names, "As mayfly image ls shows it")->required();
}

}  // namespace

Result<int> image_command(std::span<const std::string> arguments) {
  Words words;
  CLI::App app{"Makes root file system images for guests, and keeps those of containers.", "mayfly image"};
  add_commands(app, words);
  const std::string help = TRY(parse_with(app, std::vector(arguments.rbegin(), arguments.rend()), "image"));
  if (!help.empty()) {
    fmt::print("{}", help);
    return 0;
  }
  if (app.got_subcommand("build")) {
    TRY(build(words));
    return 0;
  }
  const ImageStore store(TRY(ImageStore::default_folder()));
  if (app.got_subcommand("import")) TRY(import(words, store));
  if (app.got_subcommand("ls")) TRY(list(words, store));
  if (app.got_subcommand("rm")) TRY(remove(words, store));
  return 0;
}

}  // namespace mayfly::cli
