// mayfly-init: PID 1 of a Mayfly guest.
//
//   init=/sbin/mayfly-init -- [scratch|readonly|writable] [session]
//     [address=ADDRESS/PREFIX gateway=ADDRESS [dns=ADDRESS,…] [search=DOMAIN,…]]
//
// Puts the root file system into its mode, mounts what programs expect, sets up eth0 if it has an address,
// and then is the host's agent: see agent.h. With `session` it opens the first session itself, at once;
// without it, or besides, the host may open sessions by connecting to it.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <string_view>

#include "base/agent_protocol.h"
#include "rootfs/init/agent.h"
#include "rootfs/init/console.h"
#include "rootfs/init/mounts.h"
#include "rootfs/init/network.h"
#include "rootfs/init/power.h"
#include "rootfs/init/vsock.h"

namespace mayfly::init {
namespace {

struct Options {
  RootMode root = RootMode::kAsIs;
  bool session = false;
  NetworkOptions network;
};

// Words that are not ours are left alone: the kernel passes on what it did not understand itself.
Options parse_options(std::span<char*> words) {
  Options options;
  const auto value = [](std::string_view word, std::string_view name, std::string_view& out) {
    if (!word.starts_with(name)) return;
    word.remove_prefix(name.size());
    out = word;
  };
  for (const std::string_view word : words) {
    if (word == "scratch") options.root = RootMode::kScratch;
    if (word == "readonly") options.root = RootMode::kReadOnly;
    if (word == "writable") options.root = RootMode::kWritable;
    if (word == "session") options.session = true;
    value(word, "address=", options.network.address);
    value(word, "gateway=", options.network.gateway);
    value(word, "dns=", options.network.nameservers);
    value(word, "search=", options.network.search);
  }
  return options;
}

// What commands inherit from us.
void set_process_defaults() {
  ::umask(022);
  // As service managers do: programs that use select(2) rely on the lower one, others raise it themselves.
  const rlimit files{.rlim_cur = 1024, .rlim_max = 524288};
  ::setrlimit(RLIMIT_NOFILE, &files);
}

// Signals are read, never delivered. Besides children: what reboot, poweroff and halt programs send to PID 1,
// and what Ctrl-Alt-Del becomes.
base::UniqueFd open_signals() {
  ::signal(SIGPIPE, SIG_IGN);
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int each : {SIGCHLD, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGPWR}) ::sigaddset(&signals, each);
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  return base::UniqueFd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
}

void run(const Options& options, std::uint64_t started) {
  // The host answers while we mount.
  std::array<base::UniqueFd, kStreams> streams;
  if (options.session) streams = connect_to_host<kStreams>(base::agent::kHostPort);
  const int connect_error = errno;

  if (!mount_all(options.root)) return;
  if (!std::ranges::all_of(streams, &base::UniqueFd::valid) && options.session) {
    return complain_errno(connect_error, {"cannot connect to the host over vsock"});
  }
  ::reboot(RB_DISABLE_CAD);
  set_process_defaults();
  ::sethostname("mayfly", 6);
  bring_loopback_up();
  if (!set_up_network(options.network, options.root)) return;

  Agent agent(open_signals(), listen_on(base::agent::kGuestPort));
  if (options.session && !agent.open_boot_session(std::move(streams), started))
    return complain({"out of memory"});
  if (agent.run() == Agent::Ending::kHostGone) complain({"the host closed the connection: ending"});
}

}  // namespace
}  // namespace mayfly::init

int main(int count, char** words) {
  const std::uint64_t started = mayfly::init::now_ns();
  if (::getpid() != 1) {
    mayfly::init::complain({"runs only as process 1 of a Mayfly guest"});
    return 125;
  }
  mayfly::init::open_standard_streams();
  mayfly::init::run(mayfly::init::parse_options(std::span(words, static_cast<std::size_t>(count))), started);
  mayfly::init::end_machine();
}
