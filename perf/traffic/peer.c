// The host's end of what perf/devices measures: serves TCP and UDP on every address, a unix socket, and vsock
// where there is any.
//   peer UNIX-SOCKET: says "peer is ready" once it listens
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/vm_sockets.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "traffic.h"

static uint64_t packets_received;

static void die(const char* what) {
  perror(what);
  exit(1);
}

static void start(void* (*function)(void*), int fd) {
  pthread_t thread;
  if (pthread_create(&thread, NULL, function, (void*)(intptr_t)fd) != 0) die("pthread_create");
  pthread_detach(thread);
}

static void* count_packets(void* argument) {
  enum { kBatch = 64 };
  static char data[kBatch][2 * kPacket];
  struct iovec pieces[kBatch];
  struct mmsghdr messages[kBatch];
  memset(messages, 0, sizeof messages);
  for (int i = 0; i < kBatch; i++) {
    pieces[i] = (struct iovec){data[i], sizeof data[i]};
    messages[i].msg_hdr.msg_iov = &pieces[i];
    messages[i].msg_hdr.msg_iovlen = 1;
  }
  for (;;) {
    const int n = recvmmsg((int)(intptr_t)argument, messages, kBatch, MSG_WAITFORONE, NULL);
    if (n > 0) __atomic_fetch_add(&packets_received, (uint64_t)n, __ATOMIC_RELAXED);
  }
  return NULL;
}

static int send_count(int fd, uint64_t count) {
  return write(fd, &count, sizeof count) == sizeof count;
}

static void* serve(void* argument) {
  const int fd = (int)(intptr_t)argument;
  char mode = 0, *buffer = calloc(1, kChunk);
  uint64_t received = 0;
  ssize_t n = 0;
  if (buffer == NULL || read(fd, &mode, 1) != 1) mode = 0;
  switch (mode) {
    case kSink:
      while ((n = read(fd, buffer, kChunk)) > 0) received += (uint64_t)n;
      if (n == 0) send_count(fd, received);
      break;
    case kSource:
      while (write(fd, buffer, kChunk) > 0) {
      }
      break;
    case kEcho:
      while (read(fd, buffer, 1) == 1 && write(fd, buffer, 1) == 1) {
      }
      break;
    case kCount:
      while (send_count(fd, __atomic_load_n(&packets_received, __ATOMIC_RELAXED)) &&
             read(fd, buffer, 1) == 1) {
      }
      break;
    default:
      break;
  }
  free(buffer);
  close(fd);
  return NULL;
}

static void* accept_all(void* argument) {
  for (;;) {
    const int fd = accept4((int)(intptr_t)argument, NULL, NULL, SOCK_CLOEXEC), on = 1;
    if (fd < 0 && errno != EINTR && errno != ECONNABORTED) die("accept");
    if (fd < 0) continue;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);  // others refuse it
    start(serve, fd);
  }
  return NULL;
}

static int bound(int family, int type, const void* address, socklen_t size) {
  const int fd = socket(family, type | SOCK_CLOEXEC, 0);
  if (fd >= 0 && bind(fd, address, size) == 0 && (type == SOCK_DGRAM || listen(fd, 16) == 0)) return fd;
  if (fd >= 0) close(fd);
  return -1;
}

int main(int argc, char** argv) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  signal(SIGPIPE, SIG_IGN);
  struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(kPort)};
  struct sockaddr_un un = {.sun_family = AF_UNIX};
  struct sockaddr_vm vm = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = kPort};
  if (argc != 2 || strlen(argv[1]) >= sizeof un.sun_path) return 2;
  strcpy(un.sun_path, argv[1]);

  const int streams[] = {bound(AF_INET, SOCK_STREAM, &in, sizeof in),
                         bound(AF_UNIX, SOCK_STREAM, &un, sizeof un)};
  const int datagrams = bound(AF_INET, SOCK_DGRAM, &in, sizeof in);
  if (streams[0] < 0 || streams[1] < 0 || datagrams < 0) die("bind");
  const int vsock = bound(AF_VSOCK, SOCK_STREAM, &vm, sizeof vm);  // not on every kernel
  const int room = 4 << 20;
  setsockopt(datagrams, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
  start(count_packets, datagrams);
  start(accept_all, streams[0]);
  start(accept_all, streams[1]);
  if (vsock >= 0) start(accept_all, vsock);
  puts("peer is ready");
  fflush(stdout);
  for (;;) pause();
}
