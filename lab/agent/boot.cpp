#include "boot.h"

#include <fcntl.h>
#include <linux/random.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "port.h"

namespace lab {
namespace {

[[noreturn]] void fail(const std::string& what) {
  dprintf(STDERR_FILENO, "lab: boot failed: %s: %s\n", what.c_str(), strerror(errno));
  reboot(RB_AUTOBOOT);
  _exit(1);
}

std::string read_file(const std::string& path) {
  std::string text;
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  char buffer[4096];
  for (ssize_t got = 0; fd >= 0 && (got = read(fd, buffer, sizeof buffer)) > 0;) {
    text.append(buffer, static_cast<std::size_t>(got));
  }
  if (fd >= 0) {
    close(fd);
  }
  return text;
}

void make_folders(const std::string& path) {
  for (std::size_t slash = 1; slash != std::string::npos;) {
    slash = path.find('/', slash + 1);
    mkdir(path.substr(0, slash).c_str(), 0755);
  }
}

void mount_at(const char* source, const std::string& target, const char* type, unsigned long flags,
              const char* data) {
  if (mount(source, target.c_str(), type, flags, data) < 0) {
    fail("mount " + target);
  }
}

void load_module(const std::string& name) {
  const std::string path = "/modules/" + name;
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)) {
    fail("load " + name);
  }
  close(fd);
}

// /modules/order has a module a line.
void load_modules() {
  const std::string names = read_file("/modules/order");
  for (std::size_t begin = 0, end = 0; (end = names.find('\n', begin)) != std::string::npos;
       begin = end + 1) {
    load_module(names.substr(begin, end - begin));
  }
}

void mount_outside_root() {
  const char* options = "trans=virtio,version=9p2000.L,msize=1048576,cache=loose";
  for (const char* folder : {"/outside", "/scratch", "/new"}) {
    mkdir(folder, 0755);
  }
  mount_at("root", "/outside", "9p", MS_RDONLY, options);
  mount_at("scratch", "/scratch", "tmpfs", 0, "mode=0755,size=75%");
  mkdir("/scratch/upper", 0755);
  mkdir("/scratch/work", 0755);
  mount_at("lab", "/new", "overlay", 0, "lowerdir=/outside,upperdir=/scratch/upper,workdir=/scratch/work");
}

void move_mounts_and_root() {
  for (const char* folder : {"/dev", "/proc", "/sys"}) {
    const std::string target = std::string("/new") + folder;
    make_folders(target);
    mount_at(folder, target, nullptr, MS_MOVE, nullptr);
  }
  if (chdir("/new") < 0 || mount(".", "/", nullptr, MS_MOVE, nullptr) < 0 || chroot(".") < 0 ||
      chdir("/") < 0) {
    fail("change root");
  }
}

void mount_the_usual() {
  make_folders("/dev/pts");
  make_folders("/dev/shm");
  mount_at("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "mode=620,gid=5,ptmxmode=666");
  mount_at("shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
  unlink("/dev/ptmx");
  (void)!symlink("pts/ptmx", "/dev/ptmx");
  (void)!symlink("/proc/self/fd", "/dev/fd");
  (void)!symlink("/proc/self/fd/0", "/dev/stdin");
  (void)!symlink("/proc/self/fd/1", "/dev/stdout");
  (void)!symlink("/proc/self/fd/2", "/dev/stderr");
  make_folders("/run");
  mount_at("run", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755");
  mkdir("/run/lock", 01777);
  mount_at("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr);
  mount_at("tracefs", "/sys/kernel/tracing", "tracefs", 0, nullptr);
  mount("debugfs", "/sys/kernel/debug", "debugfs", 0, nullptr);
}

// The one folder whose files reach the outside.
void mount_results(const std::string& folder) {
  make_folders(folder);
  mount_at("out", folder, "9p", 0, "trans=virtio,version=9p2000.L,msize=1048576,cache=mmap");
}

// So that modprobe, and the kernel asking for a module, find what the initrd did not bring.
void mount_modules(const std::string& folder) {
  utsname name{};
  uname(&name);
  const std::string target = std::string("/lib/modules/") + name.release;
  make_folders(target);
  mount(folder.c_str(), target.c_str(), nullptr, MS_BIND, nullptr);
}

void bring_up_loopback() {
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  ifreq request{};
  std::strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  ioctl(fd, SIOCSIFFLAGS, &request);
  close(fd);
}

// The kernel starts with one CPU: it patches itself a thousand times over while it starts and loads drivers,
// and each time interrupts all CPUs it has.
void start_other_cpus() {
  for (int cpu = 1;; ++cpu) {
    const std::string path = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/online";
    const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
      return;
    }
    (void)!write(fd, "1", 1);
    close(fd);
  }
}

// All labs are copies of one that was saved, and so is what their kernels have in store for /dev/random.
void mix_in(std::string_view seed) {
  const int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
  (void)!write(fd, seed.data(), seed.size());
  ioctl(fd, RNDRESEEDCRNG);
  close(fd);
}

Configuration parse(std::string_view message) {
  mix_in(message.substr(0, kSeedSize));
  message.remove_prefix(std::min(message.size(), kSeedSize));
  const auto next = [&] {
    const std::size_t end = std::min(message.find('\0'), message.size());
    std::string text(message.substr(0, end));
    message.remove_prefix(std::min(end + 1, message.size()));
    return text;
  };
  Configuration configuration;
  configuration.slots = std::atoi(next().c_str());
  configuration.results = next();
  configuration.modules = next();
  return configuration;
}

}  // namespace

void boot_machine() {
  for (const char* folder : {"/dev", "/proc", "/sys"}) {
    mkdir(folder, 0755);
  }
  mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755");  // the kernel may have done it
  mount_at("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr);
  mount_at("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr);
  load_modules();
  chmod("/dev/kvm", 0666);
  start_other_cpus();
  sethostname("lab", 3);
  bring_up_loopback();
}

Configuration receive_configuration() {
  Port port(1);
  dprintf(STDERR_FILENO, "lab: waiting for its configuration\n");
  Configuration configuration;
  while (configuration.slots == 0) {
    port.fill();
    for (Received frame; port.next(frame);) {
      if (frame.type == Frame::kConfigure) {
        configuration = parse(frame.payload);
      }
    }
    if (configuration.slots == 0) {
      port.wait_while_idle();
    }
  }
  return configuration;
}

void enter_outside(const Configuration& configuration) {
  mount_outside_root();
  move_mounts_and_root();
  mount_the_usual();
  mount_results(configuration.results);
  mount_modules(configuration.modules);
  const rlimit files{.rlim_cur = 1024, .rlim_max = 1'048'576};
  setrlimit(RLIMIT_NOFILE, &files);
  umask(022);
}

}  // namespace lab
