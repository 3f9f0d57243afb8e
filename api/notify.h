// Tells whoever started the process how far it is, so that nobody has to poll.
#pragma once

#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace mayfly::api {

// Any thread.
class Notifier {
 public:
  // `fd`: gets a line for each event; -1: none does. $NOTIFY_SOCKET is systemd's (sd_notify(3)).
  static base::Result<Notifier> create(int fd);

  // "socket": the control socket answers. "started": the machine runs. "guest": the guest told the boot
  // timer. `ready`: systemd counts the service as started from then on. Never waits, and whether it arrives
  // is the reader's affair.
  void tell(std::string_view event, bool ready) const;

 private:
  Notifier(base::UniqueFd fd, base::UniqueFd systemd) : fd_(std::move(fd)), systemd_(std::move(systemd)) {}
  base::UniqueFd fd_;
  base::UniqueFd systemd_;  // connected; invalid: not started by systemd
};

}  // namespace mayfly::api
