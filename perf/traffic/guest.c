// The init of the guests that perf/devices measures. It takes orders on the serial console, a line each, and
// answers each with
// "+ BYTES OPERATIONS NANOSECONDS" or "! WHY":
//   block read|write SEQUENTIAL SIZE DEPTH MILLISECONDS     /dev/vda, O_DIRECT
//   net|vsock send|receive MILLISECONDS                     one stream from or to the guest
//   net|vsock turns MILLISECONDS                            one byte to and fro
//   net packets MILLISECONDS                                UDP from the guest; counts what arrives
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <linux/vm_sockets.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "traffic.h"

enum { kMostDepth = 128 };

typedef struct {
  uint64_t bytes, operations, nanoseconds;
} Result;

// What went wrong first; 0 or text.
static const char* why;

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int failed(const char* what) {
  static char text[128];
  snprintf(text, sizeof text, "%s: %s", what, strerror(errno));
  why = text;
  return -1;
}

// ---- Block ----

typedef struct {
  int fd, write, sequential;
  uint64_t size, blocks, next;
} Disk;

static int64_t next_offset(Disk* disk) {
  static uint64_t random = 88172645463325252U;
  if (disk->sequential) return (int64_t)(disk->next++ % disk->blocks * disk->size);
  random ^= random << 13;
  random ^= random >> 7;
  random ^= random << 17;
  return (int64_t)(random % disk->blocks * disk->size);
}

static int one_by_one(Disk* disk, void* buffer, int64_t end, Result* result) {
  do {
    const int64_t offset = next_offset(disk);
    const ssize_t n = disk->write ? pwrite(disk->fd, buffer, disk->size, offset)
                                  : pread(disk->fd, buffer, disk->size, offset);
    if (n != (ssize_t)disk->size) return failed("pread or pwrite");
    ++result->operations;
  } while (now() < end);
  return 0;
}

// Keeps `depth` requests on their way; the buffers follow one another.
static int many(Disk* disk, char* buffer, unsigned depth, int64_t end, Result* result) {
  aio_context_t context = 0;
  if (syscall(SYS_io_setup, depth, &context) < 0) return failed("io_setup");
  struct iocb requests[kMostDepth], *wanted[kMostDepth];
  struct io_event events[kMostDepth];
  memset(requests, 0, sizeof requests);
  for (unsigned i = 0; i < depth; i++) {
    requests[i].aio_fildes = (uint32_t)disk->fd;
    requests[i].aio_lio_opcode = disk->write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
    requests[i].aio_buf = (uint64_t)(uintptr_t)(buffer + i * disk->size);
    requests[i].aio_nbytes = disk->size;
    wanted[i] = &requests[i];
  }
  long ready = depth, in_flight = 0;
  while (ready > 0) {
    for (long i = 0; i < ready; i++) wanted[i]->aio_offset = next_offset(disk);
    for (long done = 0; done < ready;) {
      const long n = syscall(SYS_io_submit, context, ready - done, wanted + done);
      if (n <= 0) return failed("io_submit");
      done += n;
    }
    in_flight += ready;
    do {
      const long n = syscall(SYS_io_getevents, context, 1, depth, events, NULL);
      if (n <= 0) return failed("io_getevents");
      for (long i = 0; i < n; i++) {
        errno = events[i].res < 0 ? (int)-events[i].res : EIO;
        if (events[i].res != (int64_t)disk->size) return failed("a request");
        wanted[i] = (struct iocb*)(uintptr_t)events[i].obj;
      }
      result->operations += (uint64_t)n;
      in_flight -= n;
      ready = n;
    } while (now() >= end && (ready = 0, in_flight > 0));
  }
  syscall(SYS_io_destroy, context);
  return 0;
}

static int block(const char* what, unsigned sequential, unsigned size, unsigned depth, unsigned milliseconds,
                 Result* result) {
  uint64_t bytes = 0;
  Disk disk = {.write = strcmp(what, "write") == 0, .sequential = (int)sequential, .size = size};
  disk.fd = open("/dev/vda", O_RDWR | O_DIRECT | O_CLOEXEC);
  if (disk.fd < 0 || ioctl(disk.fd, BLKGETSIZE64, &bytes) < 0) return failed("/dev/vda");
  errno = EINVAL;
  disk.blocks = size == 0 ? 0 : bytes / size;
  if (disk.blocks == 0 || depth == 0 || depth > kMostDepth) return failed("block");
  char* buffer = aligned_alloc(4096, (size_t)size * depth);
  if (buffer == NULL) return failed("aligned_alloc");
  memset(buffer, 0x5a, (size_t)size * depth);
  const int64_t start = now(), end = start + (int64_t)milliseconds * 1000000;
  const int status =
      depth == 1 ? one_by_one(&disk, buffer, end, result) : many(&disk, buffer, depth, end, result);
  result->nanoseconds = (uint64_t)(now() - start);
  result->bytes = result->operations * size;
  free(buffer);
  close(disk.fd);
  return status;
}

// ---- Streams and packets ----

static struct in_addr host_address(void) {
  struct in_addr address = {0};
  const char* text = getenv("perf_host");  // of the kernel's command line
  if (text != NULL) inet_aton(text, &address);
  return address;
}

static int dial_host(int vsock, char mode) {
  struct sockaddr_vm vm = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = kPort};
  struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(kPort), .sin_addr = host_address()};
  const int fd = socket(vsock ? AF_VSOCK : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return failed("socket");
  const int on = 1;
  if (!vsock) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  const struct sockaddr* address = vsock ? (const struct sockaddr*)&vm : (const struct sockaddr*)&in;
  if (connect(fd, address, vsock ? sizeof vm : sizeof in) < 0) return failed("connect");
  if (write(fd, &mode, 1) != 1) return failed("write");
  return fd;
}

static int receive_count(int fd, uint64_t* count) {
  if (recv(fd, count, sizeof *count, MSG_WAITALL) != sizeof *count) return failed("the count");
  return 0;
}

static int stream(int vsock, char mode, int64_t milliseconds, Result* result) {
  static char buffer[kChunk];
  const int fd = dial_host(vsock, mode);
  if (fd < 0) return -1;
  int status = 0;
  const int64_t start = now(), end = start + milliseconds * 1000000;
  do {
    ssize_t n = 0;
    if (mode == kSink) n = write(fd, buffer, sizeof buffer);
    if (mode == kSource) n = read(fd, buffer, sizeof buffer);
    if (mode == kEcho) n = write(fd, buffer, 1) == 1 ? read(fd, buffer, 1) : -1;
    if (n <= 0) status = failed("the stream");
    result->bytes += n > 0 ? (uint64_t)n : 0;
    ++result->operations;
  } while (status == 0 && now() < end);
  // What counts is what arrived.
  if (mode == kSink && status == 0) {
    shutdown(fd, SHUT_WR);
    status = receive_count(fd, &result->bytes);
  }
  result->nanoseconds = (uint64_t)(now() - start);
  close(fd);
  return status;
}

static int packets(int64_t milliseconds, Result* result) {
  static char packet[kPacket];
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(kPort), .sin_addr = host_address()};
  const int control = dial_host(0, kCount);
  if (control < 0) return -1;
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, (struct sockaddr*)&to, sizeof to) < 0) return failed("socket");
  uint64_t before = 0;
  if (receive_count(control, &before) < 0) return -1;
  const int64_t start = now(), end = start + milliseconds * 1000000;
  do {
    if (write(fd, packet, sizeof packet) < 0 && errno != ENOBUFS && errno != ECONNREFUSED)
      return failed("a packet");
  } while (now() < end);
  // This byte comes behind them.
  if (write(control, packet, 1) != 1 || receive_count(control, &result->operations) < 0)
    return failed("the count");
  result->nanoseconds = (uint64_t)(now() - start);
  result->operations -= before;
  result->bytes = result->operations * kPacket;
  close(fd);
  close(control);
  return 0;
}

// ---- Orders ----

static int obey(const char* order, Result* result) {
  char device[8], what[8];
  unsigned n[4] = {0};
  errno = EINVAL;
  const int words = sscanf(order, "%7s %7s %u %u %u %u", device, what, &n[0], &n[1], &n[2], &n[3]);
  if (words == 6 && strcmp(device, "block") == 0) return block(what, n[0], n[1], n[2], n[3], result);
  if (words != 3) return failed("order");
  const int vsock = strcmp(device, "vsock") == 0;
  if (strcmp(what, "send") == 0) return stream(vsock, kSink, n[0], result);
  if (strcmp(what, "receive") == 0) return stream(vsock, kSource, n[0], result);
  if (strcmp(what, "turns") == 0) return stream(vsock, kEcho, n[0], result);
  if (strcmp(what, "packets") == 0) return packets(n[0], result);
  return failed("order");
}

// Has the host give us nearly all of our memory now: a first touch costs much, and is no device's doing.
static void touch_memory(void) {
  struct sysinfo memory;
  if (sysinfo(&memory) < 0) return;
  const size_t size = (size_t)memory.freeram * memory.mem_unit / 16 * 15;
  void* all = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (all != MAP_FAILED) munmap(all, size);
}

int main(void) {
  signal(SIGPIPE, SIG_IGN);
  touch_memory();
  mkdir("/dev", 0755);
  mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
  struct termios terminal;
  if (tcgetattr(0, &terminal) == 0) {
    terminal.c_lflag &= ~(tcflag_t)(ECHO | ECHONL);
    tcsetattr(0, TCSANOW, &terminal);
  }
  puts("guest is ready");
  fflush(stdout);
  for (char order[128]; fgets(order, sizeof order, stdin) != NULL;) {
    Result result = {0};
    why = NULL;
    if (obey(order, &result) == 0) {
      printf("+ %llu %llu %llu\n", (unsigned long long)result.bytes, (unsigned long long)result.operations,
             (unsigned long long)result.nanoseconds);
    } else {
      printf("! %s\n", why);
    }
    fflush(stdout);
  }
  for (;;) pause();
}
