// What the tests put in a jail in the VMM's place: static, without a library of ours. Its words after the
// jailer's own are what it does; each answer is a line "NAME: VALUE" on stdout.
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

// A call's outcome: "ok", or the name of its error.
void tell(const char* name, long result) {
  std::printf("%s: %s\n", name, result >= 0 ? "ok" : strerrorname_np(errno));
}

// Every node below `path`: "node PATH: type owner group mode major minor writable|-".
void list(const std::string& path) {
  struct stat what {};
  if (::lstat(path.c_str(), &what) < 0) return tell(("node " + path).c_str(), -1);
  const char type = S_ISDIR(what.st_mode)   ? 'd'
                    : S_ISCHR(what.st_mode) ? 'c'
                    : S_ISREG(what.st_mode) ? 'f'
                                            : '?';
  std::printf(
      "node %s: %c %u %u %o %u %u %s\n", path.c_str(), type, what.st_uid, what.st_gid, what.st_mode & 07777U,
      major(what.st_rdev), minor(what.st_rdev),
      ::faccessat(AT_FDCWD, path.c_str(), W_OK, AT_EACCESS | AT_SYMLINK_NOFOLLOW) == 0 ? "writable" : "-");
  if (type != 'd') return;
  DIR* const folder = ::opendir(path.c_str());
  if (folder == nullptr) return tell(("list " + path).c_str(), -1);
  while (const dirent* const entry = ::readdir(folder)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") list((path == "/" ? "" : path) + "/" + name);
  }
  ::closedir(folder);
}

void print_arguments(int argc, char** argv) {
  for (int i = 0; i < argc; ++i) std::printf("argument %d: %s\n", i, argv[i]);
  int variables = 0;
  for (char** variable = environ; *variable != nullptr; ++variable) ++variables;
  std::printf("variables: %d\n", variables);
}

void print_self() {
  std::printf("pid: %d\nsession: %s\n", ::getpid(), ::getsid(0) == ::getpid() ? "own" : "another's");
  std::printf("securebits: %x\ndumpable: %d\n", static_cast<unsigned>(::prctl(PR_GET_SECUREBITS)),
              ::prctl(PR_GET_DUMPABLE));
  std::printf("umask: %o\n", ::umask(077));
}

int connect_to_abstract(const char* name) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path + 1, name, sizeof address.sun_path - 2);
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + std::strlen(name));
  return ::connect(fd, reinterpret_cast<const sockaddr*>(&address), size);
}

int connect_by_tcp(const char* port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = ::htonl(INADDR_LOOPBACK);
  address.sin_port = ::htons(static_cast<std::uint16_t>(std::atoi(port)));
  return ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address);
}

// In a child, because what would work would be the end of this process.
long in_child(long (*attempt)()) {
  const pid_t child = ::fork();
  if (child == 0) {
    attempt();
    ::_exit(errno & 0xff);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  errno = WIFEXITED(status) ? WEXITSTATUS(status) : ECANCELED;
  return -1;
}

// What an attacker would try. `own` is the executable's name.
void attack(const std::string& own) {
  tell("read the host's files", ::open("/etc/passwd", O_RDONLY));
  tell("go up", ::open("../../../../../../etc/passwd", O_RDONLY));
  tell("make a folder", ::mkdir("/folder", 0700));
  tell("make a device", ::mknod("/disk", S_IFBLK | 0600, makedev(254, 0)));
  tell("make a link", ::symlink("/run", "/link"));
  tell("read the executable", ::open(("/" + own).c_str(), O_RDONLY));
  tell("write the executable", ::open(("/" + own).c_str(), O_WRONLY));
  tell("open the executable to all", ::chmod(("/" + own).c_str(), 0777));
  tell("remove the executable", ::unlink(("/" + own).c_str()));
  tell("replace the executable", ::rename("/run", ("/" + own).c_str()));
  tell("link the executable", ::link(("/" + own).c_str(), "/run/linked"));
  tell("move the devices", ::rename("/dev", "/run/dev"));
  tell("add a device", ::open("/dev/new", O_CREAT | O_WRONLY, 0600));
  const int file = ::open("/program", O_CREAT | O_RDWR, 0700);
  tell("make a file", file);
  tell("map a file for execution",
       ::mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0) == MAP_FAILED ? -1 : 0);
  tell("execute", in_child([] { return static_cast<long>(::execl("/program", "program", nullptr)); }));
  static std::string executable;
  executable = "/" + own;
  tell("execute itself",
       in_child([] { return static_cast<long>(::execl(executable.c_str(), "x", nullptr)); }));
  tell("chroot", ::chroot("/run"));
  tell("mount", ::mount("x", "/run", "tmpfs", 0, nullptr));
  tell("pivot_root", ::syscall(SYS_pivot_root, "/run", "/run"));
  tell("user namespace", ::unshare(CLONE_NEWUSER));
  tell("mount namespace", ::unshare(CLONE_NEWNS));
  tell("open_tree", ::open_tree(AT_FDCWD, "/", OPEN_TREE_CLONE));
  tell("become root", ::setuid(0));
  tell("regain groups", ::setgid(0));
  const rlimit more{.rlim_cur = 65536, .rlim_max = 65536};
  tell("raise limits", ::setrlimit(RLIMIT_NOFILE, &more));
  tell("trace the parent", ::ptrace(PTRACE_SEIZE, ::getppid(), nullptr, nullptr));
  tell("kill process 1", ::kill(1, 0));
  tell("host name", ::sethostname("x", 1));
}

// Works where it is allowed: what a VMM needs.
void work() {
  const int file = ::open("/run/disk", O_CREAT | O_RDWR, 0600);
  tell("make a disk", file);
  tell("size it", ::ftruncate(file, 1 << 20));
  const int server = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, "/run/api.sock");
  tell("make a socket", ::bind(server, reinterpret_cast<const sockaddr*>(&address), sizeof address));
  tell("remove the socket", ::unlink("/run/api.sock"));
  tell("rename", ::rename("/run/disk", "/run/disk2"));
  const int tun = ::open("/dev/net/tun", O_RDWR);
  tell("open tun", tun);
  unsigned features = 0;
  tell("ask tun", ::ioctl(tun, TUNGETFEATURES, &features));
}

// A VM with one page, that writes 'k' to a port and halts; from the descriptor, or from /dev/kvm with -1.
void run_vm(int kvm) {
  if (kvm < 0) kvm = ::open("/dev/kvm", O_RDWR);
  tell("open kvm", kvm);
  const int vm = ::ioctl(kvm, KVM_CREATE_VM, 0);
  tell("create a VM", vm);
  void* const memory = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  const unsigned char code[] = {0xb0, 'k', 0xe6, 0x42, 0xf4};  // mov al,'k'; out 0x42,al; hlt
  std::memcpy(memory, code, sizeof code);
  kvm_userspace_memory_region region{};
  region.guest_phys_addr = 0x1000;
  region.memory_size = 4096;
  region.userspace_addr = reinterpret_cast<std::uint64_t>(memory);
  tell("give it memory", ::ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region));
  const int vcpu = ::ioctl(vm, KVM_CREATE_VCPU, 0);
  tell("create a vCPU", vcpu);
  const auto size = static_cast<std::size_t>(::ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
  auto* const run = static_cast<kvm_run*>(::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0));
  if (run == MAP_FAILED) return tell("map the vCPU", -1);
  kvm_sregs segments{};
  ::ioctl(vcpu, KVM_GET_SREGS, &segments);
  segments.cs.base = 0;
  segments.cs.selector = 0;
  ::ioctl(vcpu, KVM_SET_SREGS, &segments);
  kvm_regs registers{};
  registers.rip = 0x1000;
  registers.rflags = 2;
  ::ioctl(vcpu, KVM_SET_REGS, &registers);
  tell("run it", ::ioctl(vcpu, KVM_RUN, 0));
  const bool said = run->exit_reason == KVM_EXIT_IO && run->io.port == 0x42 &&
                    *(reinterpret_cast<const char*>(run) + run->io.data_offset) == 'k';
  std::printf("the guest: %s\n", said ? "spoke" : "was silent");
}

// ---- Greed: until something stops it, or all of what was wanted is there. ----

void fork_bomb() {
  std::vector<pid_t> children;
  for (int i = 0; i < 100; ++i) {
    const pid_t child = ::fork();
    if (child == 0) ::pause();
    if (child < 0) break;
    children.push_back(child);
  }
  std::printf("processes: %zu\n", children.size());
  for (const pid_t child : children) ::kill(child, SIGKILL);
}

void hog_memory() {
  constexpr std::size_t kWanted = 256U << 20U;
  auto* const memory = static_cast<char*>(
      ::mmap(nullptr, kWanted, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  for (std::size_t at = 0; at < kWanted; at += 4096) memory[at] = 1;
  std::puts("memory: all");
}

void fill_disk() {
  const std::vector<char> block(1U << 20U, 'x');
  const int file = ::open("/run/disk", O_CREAT | O_WRONLY, 0600);
  for (int i = 0; i < 64; ++i) {
    if (::write(file, block.data(), block.size()) < 0) return tell("disk", -1);
  }
  std::puts("disk: all");
}

void wait_for_end() {
  std::puts("ready: yes");
  std::fflush(stdout);
  char byte = 0;
  while (::read(STDIN_FILENO, &byte, 1) > 0) {
  }
}

}  // namespace

int main(int argc, char** argv) {
  constexpr int kJailersWords = 9;  // its name, and four options with a value each
  for (int i = kJailersWords; i < argc; ++i) {
    const std::string word = argv[i];
    const char* const next = i + 1 < argc ? argv[i + 1] : "";
    if (word == "arguments") print_arguments(argc, argv);
    if (word == "self") print_self();
    if (word == "list") list("/");
    if (word == "attack") attack(argv[0]);
    if (word == "work") work();
    if (word == "kvm") run_vm(-1);
    if (word == "kvm-fd") run_vm(std::atoi(next));
    if (word == "abstract") tell("abstract socket", connect_to_abstract(next));
    if (word == "tcp") tell("tcp", connect_by_tcp(next));
    if (word == "shm") tell("shared memory", ::shmget(std::atoi(next), 1, 0));
    if (word == "signal") tell("signal", ::kill(std::atoi(next), 0));
    if (word == "wait") wait_for_end();
    if (word == "pause") ::pause();
    if (word == "bomb") fork_bomb();
    if (word == "hog") hog_memory();
    if (word == "fill") fill_disk();
    if (word == "exit") {
      std::fflush(stdout);
      ::_exit(std::atoi(next));
    }
    std::fflush(stdout);
  }
}
