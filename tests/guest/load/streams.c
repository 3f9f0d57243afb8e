// Both ends of the vsock connections that tests/guest/load_test.sh makes: the guest's over AF_VSOCK to the host, the host's on the
// unix sockets that the VMM connects to. Each end makes the same bytes from the same seed, and compares what arrives with them.
//   streams serve PATH                 on the host: PATH_5001 and PATH_5002, until killed; "ready" when it listens
//   streams connections COUNT          in the guest: so many, one after another, 64 bytes to and fro on each
//   streams send|receive BYTES         in the guest: in one connection
// The guest's print "ok" or what went wrong, and exit with 0 or 1.
#define _GNU_SOURCE
#include <linux/vm_sockets.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { kStreamPort = 5001, kEchoPort = 5002, kMessage = 64, kChunk = 64 << 10 };

// What the guest asks a stream's other end for.
typedef struct {
  uint64_t guest_sends, bytes;
} Order;

static void die(const char *what) {
  perror(what);
  exit(1);
}

// xorshift64, whose state is the next word.
static void fill(uint64_t *state, uint64_t *words, size_t count) {
  uint64_t x = *state;
  for (size_t i = 0; i < count; ++i) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    words[i] = x;
  }
  *state = x;
}

// 0 when all was moved.
static int all(int fd, void *data, size_t size, int writing) {
  for (char *at = data; size > 0;) {
    const ssize_t n = writing ? send(fd, at, size, MSG_NOSIGNAL) : read(fd, at, size);
    if (n <= 0) return -1;
    at += n, size -= (size_t)n;
  }
  return 0;
}

// One end of a stream; returns NULL or what went wrong.
static const char *move(int fd, uint64_t bytes, int sending) {
  static __thread uint64_t ours[kChunk / 8], theirs[kChunk / 8];
  uint64_t state = 0x9e3779b97f4a7c15;
  for (uint64_t done = 0; done < bytes;) {
    const size_t size = bytes - done < kChunk ? bytes - done : kChunk;
    fill(&state, ours, kChunk / 8);
    if (all(fd, sending ? ours : theirs, size, sending) != 0) return sending ? "the receiver went away" : "the sender went away";
    if (!sending && memcmp(ours, theirs, size) != 0) return "other bytes came than were sent";
    done += size;
  }
  return NULL;
}

// ---- The host ----

static void *serve_stream(void *argument) {
  const int fd = (int)(intptr_t)argument;
  Order order;
  if (all(fd, &order, sizeof order, 0) == 0) {
    const char *wrong = move(fd, order.bytes, !order.guest_sends);
    if (wrong) fprintf(stderr, "streams: %s\n", wrong);
    // The last word: the guest waits for it when it has sent.
    char end = wrong ? '!' : '+';
    if (order.guest_sends) all(fd, &end, 1, 1);
    read(fd, &end, 1);
  }
  close(fd);
  return NULL;
}

static void *serve_echo(void *argument) {
  const int fd = (int)(intptr_t)argument;
  char message[kMessage];
  if (all(fd, message, sizeof message, 0) == 0 && all(fd, message, sizeof message, 1) == 0) read(fd, message, 1);
  close(fd);
  return NULL;
}

typedef struct {
  int listener;
  void *(*each)(void *);
} Service;

static _Noreturn void serve(const Service *service) {
  for (;;) {
    const int fd = accept(service->listener, NULL, NULL);
    if (fd < 0) die("accept");
    pthread_t thread;
    if (pthread_create(&thread, NULL, service->each, (void *)(intptr_t)fd) != 0) die("pthread_create");
    pthread_detach(thread);
  }
}

static void *serve_beside(void *argument) { serve(argument); }

static int listen_at(const char *path, int port) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%s_%d", path, port);
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 1024) != 0) die(address.sun_path);
  return fd;
}

// ---- The guest ----

static int dial(unsigned port) {
  const struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = port};
  const int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
  if (fd < 0) die("socket");
  if (connect(fd, (const struct sockaddr *)&address, sizeof address) != 0) die("connect");
  return fd;
}

static const char *connections(uint64_t count) {
  uint64_t state = 1, sent[kMessage / 8], got[kMessage / 8];
  for (uint64_t i = 0; i < count; ++i) {
    const int fd = dial(kEchoPort);
    fill(&state, sent, kMessage / 8);
    if (all(fd, sent, kMessage, 1) != 0 || all(fd, got, kMessage, 0) != 0) return "a connection broke";
    if (memcmp(sent, got, kMessage) != 0) return "another message came back";
    close(fd);
  }
  return NULL;
}

static const char *stream(uint64_t bytes, int sending) {
  Order order = {.guest_sends = (uint64_t)sending, .bytes = bytes};
  const int fd = dial(kStreamPort);
  if (all(fd, &order, sizeof order, 1) != 0) return "the order was not taken";
  const char *wrong = move(fd, bytes, sending);
  char end = '+';
  if (!wrong && sending && (all(fd, &end, 1, 0) != 0 || end != '+')) wrong = "the host got other bytes";
  close(fd);
  return wrong;
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  if (strcmp(argv[1], "serve") == 0) {
    static Service echo = {.each = serve_echo}, streams = {.each = serve_stream};
    echo.listener = listen_at(argv[2], kEchoPort);
    streams.listener = listen_at(argv[2], kStreamPort);
    pthread_t thread;
    if (pthread_create(&thread, NULL, serve_beside, &echo) != 0) die("pthread_create");
    puts("ready");
    fflush(stdout);
    serve(&streams);
  }
  const uint64_t number = strtoull(argv[2], NULL, 10);
  const char *wrong = strcmp(argv[1], "connections") == 0 ? connections(number) : stream(number, strcmp(argv[1], "send") == 0);
  puts(wrong ? wrong : "ok");
  return wrong != NULL;
}
