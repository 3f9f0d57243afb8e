// The command lines of `mayfly`.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cli/ipv4.h"
#include "cli/publish.h"

namespace mayfly::cli {

inline constexpr unsigned kMostCpus = 32;
inline constexpr std::uint64_t kLeastMemoryMib = 32;  // a Linux guest with less does not get far
inline constexpr std::uint64_t kMostMemoryMib = 1024 * 1024;
inline constexpr std::uint64_t kDefaultMemoryMib = 128;
inline constexpr std::chrono::seconds kDefaultBootTimeout{120};

enum class TimingReport : std::uint8_t { kNone, kTable, kJson };

// What becomes of what the command writes to its root file system.
enum class RootMode : std::uint8_t {
  kScratch,   // kept in the guest's memory, gone with it
  kReadOnly,  // refused
  kWritable,  // written to the image
};

// What stands behind the guest's network interface.
enum class NetworkMode : std::uint8_t {
  kNone,   // it has none
  kAuto,   // kTap as root, else kPasst
  kTap,    // a tap and address translation, which take root
  kPasst,  // passt, which takes nothing
};

// A command in a guest.
struct CommandOptions {
  std::vector<std::string> environment;  // K=V
  std::string directory;
  std::uint32_t uid = 0;
  std::optional<std::uint32_t> gid;  // absent: the guest's /etc/passwd says
  bool tty = false;
  std::vector<std::string> command;
};

struct RunOptions : CommandOptions {
  bool detach = false;
  std::string name;  // of a detached machine; empty: one is made up
  unsigned cpus = 1;
  std::uint64_t memory_mib = kDefaultMemoryMib;
  std::string kernel;  // empty: the one that was built
  std::string rootfs;  // likewise
  std::string image;   // of the image store, in place of rootfs
  bool user_given = false;
  bool no_jail = false;
  RootMode root_mode = RootMode::kScratch;
  std::optional<std::chrono::milliseconds> timeout;
  std::chrono::milliseconds boot_timeout = kDefaultBootTimeout;
  bool console = false;
  TimingReport timing = TimingReport::kNone;
  NetworkMode network = NetworkMode::kNone;
  std::vector<Publish> publishes;
  std::vector<Ipv4> nameservers;  // empty: the host's
};

struct DoctorOptions {
  bool json = false;
  bool quiet = false;  // only the exit status
};

// Options, or a text to print and leave with success (--help).
template <typename T>
struct Parsed {
  std::optional<T> options;
  std::string help;
};

// `words`: what follows the name of the subcommand. Errors are one line and name the option.
base::Result<Parsed<RunOptions>> parse_run(std::span<const std::string> words);
base::Result<Parsed<DoctorOptions>> parse_doctor(std::span<const std::string> words);

std::string_view main_help();

}  // namespace mayfly::cli
