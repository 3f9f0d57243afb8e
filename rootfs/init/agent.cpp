#include "rootfs/init/agent.h"

#include <errno.h>
#include <linux/vm_sockets.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <utility>

namespace mayfly::init {
namespace {

// Only the host gives orders: not another machine, and not a process of this one over vsock's loopback.
bool is_host(const sockaddr_storage& peer) {
  if (peer.ss_family != AF_VSOCK) return true;
  sockaddr_vm address{};
  std::memcpy(&address, &peer, sizeof(address));
  return address.svm_cid == VMADDR_CID_HOST;
}

}  // namespace

Agent::Agent(base::UniqueFd signals, base::UniqueFd listener, std::uint64_t patience)
    : signals_(std::move(signals)), listener_(std::move(listener)), patience_(patience) {}

bool Agent::open_boot_session(std::array<base::UniqueFd, kStreams> connecting, std::uint64_t init_started) {
  sessions_[0] = Owned<Session>::make();
  if (!sessions_[0]) return false;
  sessions_[0]->open_boot(std::move(connecting), init_started, now_ns());
  return true;
}

void Agent::watch() {
  polls_.clear();
  signals_slot_ = polls_.add(signals_.get(), POLLIN);
  bool room = false;
  for (Pending& pending : pending_) {
    room = room || !pending.fd.valid();
    if (!pending.fd.valid()) continue;
    pending.slot = polls_.add(pending.fd.get(), POLLIN);
    polls_.wake_by(pending.deadline);
  }
  // With no room for another, connections wait in the listener's queue.
  listener_slot_ = listener_.valid() && room ? polls_.add(listener_.get(), POLLIN) : PollSet::kNoSlot;
  for (const auto& session : sessions_) {
    if (session) session->watch(polls_);
  }
}

Agent::Ending Agent::run() {
  for (;;) {
    watch();
    polls_.wait();
    const std::uint64_t now = now_ns();
    for (auto& session : sessions_) {
      if (!session) continue;
      const Session::Turn turn = session->serve(polls_, now);
      if (turn == Session::Turn::kShutdown) return Ending::kAsked;
      if (turn != Session::Turn::kEnded) continue;
      if (session->is_boot()) return Ending::kHostGone;
      session = Owned<Session>();
    }
    // After the sessions: what a command wrote before it ended has had its chance to be moved.
    if (polls_.seen(signals_slot_) != 0 && serve_signals(now)) return Ending::kAsked;
    for (Pending& pending : pending_) {
      if (pending.fd.valid()) serve_pending(pending, now);
    }
    if (polls_.seen(listener_slot_) != 0) accept_connections(now);
  }
}

bool Agent::serve_signals(std::uint64_t now) {
  signalfd_siginfo info;
  bool asked = false;
  while (::read(signals_.get(), &info, sizeof(info)) == sizeof(info)) {
    if (info.ssi_signo != SIGCHLD) asked = true;
  }
  reap(now);
  return asked;
}

void Agent::reap(std::uint64_t now) {
  for (;;) {
    int status = 0;
    const pid_t pid = ::waitpid(-1, &status, WNOHANG);
    if (pid <= 0) return;
    for (const auto& session : sessions_) {
      if (session && session->pid() == pid) session->command_ended(status, now);
    }
  }
}

void Agent::accept_connections(std::uint64_t now) {
  for (Pending& pending : pending_) {
    if (pending.fd.valid()) continue;
    sockaddr_storage peer{};
    socklen_t size = sizeof(peer);
    // The layout of every address begins with the same sa_family_t; the cast is how the call is made.
    base::UniqueFd fd(::accept4(listener_.get(), static_cast<sockaddr*>(static_cast<void*>(&peer)), &size,
                                SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd.valid()) return;
    if (!is_host(peer)) continue;
    pending.fd = std::move(fd);
    pending.have = 0;
    pending.deadline = now + patience_;
    pending.slot = PollSet::kNoSlot;
  }
}

void Agent::serve_pending(Pending& pending, std::uint64_t now) {
  if (now >= pending.deadline) return pending.fd.reset();
  if (polls_.seen(std::exchange(pending.slot, PollSet::kNoSlot)) == 0) return;
  const ssize_t count = ::read(pending.fd.get(), pending.preamble.data() + pending.have,
                               pending.preamble.size() - pending.have);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) return pending.fd.reset();
  pending.have += static_cast<std::size_t>(count);
  if (pending.have == pending.preamble.size()) route(pending, now);
}

void Agent::route(Pending& pending, std::uint64_t now) {
  base::UniqueFd fd = std::move(pending.fd);
  base::agent::Preamble preamble;
  std::memcpy(&preamble, pending.preamble.data(), sizeof(preamble));
  if (preamble.magic != base::agent::kMagic || preamble.version != base::agent::kVersion) return;
  if (preamble.stream >= kStreams) return;
  Session* const session = session_for(preamble.session, now);
  if (session == nullptr) return;
  session->adopt(static_cast<base::agent::Stream>(std::uint16_t{preamble.stream}), std::move(fd));
}

Session* Agent::session_for(std::uint32_t id, std::uint64_t now) {
  Owned<Session>* free = nullptr;
  for (auto& session : sessions_) {
    if (session && !session->is_boot() && session->id() == id) return session.get();
    if (!session) free = &session;
  }
  if (free == nullptr) return nullptr;
  *free = Owned<Session>::make();
  if (*free) (*free)->open(id, now + patience_);
  return free->get();
}

}  // namespace mayfly::init
