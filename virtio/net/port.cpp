#include "virtio/net/port.h"

#include <sys/epoll.h>

#include <cerrno>
#include <cstring>

namespace mayfly::virtio::net {

void Port::set_features(std::uint64_t features) {
  if (link_ == Link::kGone) return;
  if (auto set = backend_->set_features(features); !set) fail(Link::kGone, set.error().code);
}

// ---- Events ----

void Port::watch(bool readable, bool writable) {
  if (link_ == Link::kGone) return unwatch();
  std::uint32_t events = EPOLLOUT;
  if (link_ == Link::kUp) {
    events = (readable ? EPOLLIN : 0U) | (writable || backend_->unsent() ? EPOLLOUT : 0U);
  }
  if (watched_ == events) return;
  const base::Status done =
      watched_ ? loop_.modify(backend_->fd(), events)
               : loop_.add(
                     backend_->fd(), events, [this](std::uint32_t what) { happened(what); }, &mutex_);
  if (done) {
    watched_ = events;
  } else {
    fail(Link::kGone, done.error().code);
    unwatch();
  }
}

void Port::unwatch() {
  if (!watched_) return;
  loop_.remove(backend_->fd());
  watched_.reset();
}

void Port::happened(std::uint32_t events) {
  if ((events & (EPOLLERR | EPOLLHUP)) != 0) {
    fail(Link::kGone, ENODEV);
    return unwatch();
  }
  const bool writable = (events & EPOLLOUT) != 0;
  if (writable && link_ == Link::kDown) set_link(Link::kUp);
  if (writable && backend_->unsent()) {
    if (const auto flushed = backend_->flush(); !flushed) not_written(flushed.error());
  }
  owner_.ready((events & EPOLLIN) != 0, writable && !backend_->unsent());
}

// ---- Frames ----

Backend::Moved Port::read(std::span<const iovec> pieces) {
  const Backend::Moved done = backend_->read(pieces);
  if (!done && done.error() != EAGAIN && done.error() != EINVAL) fail(Link::kGone, done.error());
  return done;
}

Backend::Moved Port::write(std::span<const iovec> pieces) {
  const Backend::Moved done = backend_->write(pieces);
  if (!done) not_written(done.error());
  return done;
}

void Port::not_written(int error) {
  switch (error) {
    case EIO:
      fail(Link::kDown, EIO);
      break;
    case EBADF:
    case EBADFD:
    case ENODEV:
    case ENXIO:
      fail(Link::kGone, error);
      break;
    default:
      break;  // this frame's own fault, or EAGAIN
  }
}

// ---- The link ----

void Port::fail(Link link, int code) {
  if (limiter_.allow()) {
    const char* name = strerrorname_np(code);
    base::log::warning("the network {} is {} ({})", name_, link == Link::kDown ? "down" : "gone",
                       name != nullptr ? name : "unknown error");
  }
  set_link(link);
}

void Port::set_link(Link link) {
  const bool was_up = link_up();
  link_ = link;
  if (link_up() != was_up) owner_.link_changed();
}

}  // namespace mayfly::virtio::net
