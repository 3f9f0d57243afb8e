#include "cli/image_run.h"

#include <algorithm>
#include <iterator>

#include "cli/parsing.h"

namespace mayfly::cli {
namespace {

std::string_view name_of(std::string_view variable) {
  return variable.substr(0, variable.find('='));
}

// The image's, but for those of the same name that the command line has.
std::vector<std::string> join_environments(const std::vector<std::string>& image,
                                           const std::vector<std::string>& given) {
  std::vector<std::string> all;
  std::ranges::copy_if(image, std::back_inserter(all), [&](const std::string& variable) {
    return std::ranges::none_of(
        given, [&](const std::string& other) { return name_of(other) == name_of(variable); });
  });
  all.insert(all.end(), given.begin(), given.end());
  return all;
}

}  // namespace

base::Status apply_image(const StoredImage& image, RunOptions& options) {
  const ImageConfig& config = image.config;
  options.rootfs = image.file;
  options.environment = join_environments(config.environment, options.environment);
  if (options.directory.empty()) options.directory = config.directory;
  if (!options.user_given && !config.user.empty())
    TRY(take_command_texts({.user = config.user, .environment = {}}, options));
  if (options.command.empty()) options.command = config.command;
  options.command.insert(options.command.begin(), config.entrypoint.begin(), config.entrypoint.end());
  if (options.command.empty() && !options.detach) {
    return base::fail("the image {} has no command of its own: mayfly run {} -- COMMAND [ARG...]", image.name,
                      image.name);
  }
  return {};
}

}  // namespace mayfly::cli
