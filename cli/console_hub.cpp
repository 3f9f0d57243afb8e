#include "cli/console_hub.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

namespace mayfly::cli {

using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;

Result<std::unique_ptr<ConsoleHub>> ConsoleHub::create(base::EventLoop& loop, const std::string& folder,
                                                       UniqueFd input) {
  std::unique_ptr<ConsoleHub> hub(new ConsoleHub(loop, std::move(input)));
  hub->listener_ = TRY(Listener::create(loop, folder + "/console",
                                        [raw = hub.get()](UniqueFd fd) { raw->add(std::move(fd)); }));
  return hub;
}

ConsoleHub::~ConsoleHub() {
  for (const Client& each : clients_) loop_.remove(each.fd.get());
}

void ConsoleHub::add(UniqueFd fd) {
  if (clients_.size() >= kMostClients) return;
  const Place client =
      clients_.insert(clients_.end(), Client{.fd = std::move(fd), .held = tail_.text(), .input = nullptr});
  const Status watched = loop_.add(client->fd.get(), EPOLLOUT, [this, client](std::uint32_t events) {
    if ((events & (EPOLLHUP | EPOLLERR)) != 0 || !send(*client)) remove(client);
  });
  if (!watched || !take_input(*client)) remove(client);
}

// With descriptors of its own, as it ends by itself: who types no more may go on to read.
Status ConsoleHub::take_input(Client& client) {
  UniqueFd source(::fcntl(client.fd.get(), F_DUPFD_CLOEXEC, 3));
  UniqueFd sink(::fcntl(input_.get(), F_DUPFD_CLOEXEC, 3));
  if (!source.valid() || !sink.valid()) return fail_errno(errno, "duplicate a file descriptor");
  client.input = TRY(Pump::create(loop_, ByteEnd::own(std::move(source)), ByteEnd::own(std::move(sink)),
                                  {.on_end = [&client](Pump::Ending, int) {
                                    client.input->source().close();
                                    client.input->sink().close();
                                  }}));
  return {};
}

bool ConsoleHub::send(Client& client) {
  while (!client.held.empty()) {
    const ssize_t n =
        ::send(client.fd.get(), client.held.data(), client.held.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) break;
    if (n < 0) return false;
    client.held.erase(0, static_cast<std::size_t>(n));
  }
  const std::uint32_t events = client.held.empty() ? 0U : static_cast<std::uint32_t>(EPOLLOUT);
  return client.held.size() <= kMostHeld && loop_.modify(client.fd.get(), events).has_value();
}

void ConsoleHub::remove(Place client) {
  loop_.remove(client->fd.get());
  clients_.erase(client);
}

void ConsoleHub::show(std::string_view text) {
  tail_.add(text);
  for (Place client = clients_.begin(); client != clients_.end();) {
    const Place each = client++;
    each->held.append(text);
    if (!send(*each)) remove(each);
  }
}

}  // namespace mayfly::cli
