// Images out of folders and archives, looked at with e2fsprogs.
#include "cli/image.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

namespace mayfly::cli {
namespace {

namespace fs = std::filesystem;

struct Outcome {
  int status;
  std::string text;  // both outputs
};

Outcome shell(const std::string& command) {
  Outcome outcome{};
  FILE* const pipe = ::popen(("PATH=$PATH:/usr/sbin:/sbin; (" + command + ") 2>&1").c_str(), "r");
  REQUIRE(pipe != nullptr);
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) outcome.text += static_cast<char>(c);
  outcome.status = ::pclose(pipe);
  return outcome;
}

// A folder of the test's own with a source in it, and a program to stand for mayfly-init.
class Bench {
 public:
  Bench() {
    std::string name = "/tmp/mayfly-image-test-XXXXXX";
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
    fs::create_directories(path_ + "/source/etc");
    fs::create_directories(path_ + "/source/bin");
    write("source/etc/motd", "hello\n");
    write("source/bin/tool", std::string(100'000, 't'));
    fs::permissions(path_ + "/source/bin/tool", fs::perms(04755));
    fs::create_hard_link(path_ + "/source/bin/tool", path_ + "/source/bin/same");
    fs::create_symlink("/bin/tool", path_ + "/source/bin/link");
    fs::create_symlink(std::string(200, 'x'), path_ + "/source/bin/longlink");
    write("source/etc/na \"me", "quoted");
    write("init", std::string("\x7f"
                              "ELF and so on"));
  }
  ~Bench() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  void write(const std::string& name, std::string_view content) const {
    std::ofstream(path_ + "/" + name, std::ios::binary) << content;
  }
  [[nodiscard]] std::string path(const std::string& name = "") const { return path_ + "/" + name; }
  [[nodiscard]] ImageRequest request() const {
    return {.source = path("source"), .output = path("image"), .size_mib = 0, .init = path("init")};
  }
  [[nodiscard]] ImageSummary build(const ImageRequest& request) const {
    auto built = build_image(request);
    INFO((built ? "" : built.error().message));
    REQUIRE(built.has_value());
    const Outcome check = shell("e2fsck -fn " + request.output);
    INFO(check.text);
    REQUIRE(check.status == 0);
    return *built;
  }
  [[nodiscard]] std::string debugfs(const std::string& command) const {
    return shell("debugfs -R '" + command + "' " + path("image") + " 2>/dev/null").text;
  }
  // Nothing besides what the bench put there.
  [[nodiscard]] bool is_clean() const {
    for (const fs::directory_entry& entry : fs::directory_iterator(path_)) {
      if (entry.path().filename().string().starts_with(".mayfly-image")) return false;
    }
    return true;
  }

 private:
  std::string path_;
};

void check_refused(const ImageRequest& request, const std::string& message) {
  const auto built = build_image(request);
  REQUIRE(!built.has_value());
  CHECK_THAT(built.error().message, Catch::Contains(message));
  CHECK(built.error().message.find('\n') == std::string::npos);
}

TEST_CASE("a folder becomes an image with all that is in it") {
  const Bench bench;
  const ImageSummary summary = bench.build(bench.request());
  CHECK(summary.entries == 8);
  CHECK(summary.size_bytes == fs::file_size(bench.path("image")));
  CHECK(summary.disk_bytes < summary.size_bytes);
  CHECK(bench.debugfs("cat /etc/motd") == "hello\n");
  CHECK(bench.debugfs("cat /bin/tool") == std::string(100'000, 't'));
  CHECK(bench.debugfs("cat \"/etc/na \"\"me\"") == "quoted");
  CHECK_THAT(bench.debugfs("stat /bin/tool"), Catch::Contains("Mode:  04755") && Catch::Contains("Links: 2"));
  CHECK_THAT(bench.debugfs("stat /bin/link"), Catch::Contains("Fast link dest: \"/bin/tool\""));
  CHECK(bench.is_clean());
}

TEST_CASE("an image is made for quick mounting") {
  const Bench bench;
  (void)bench.build(bench.request());
  const std::string head = bench.debugfs("stats -h");
  CHECK_THAT(head, Catch::Contains("extent"));
  for (const char* const each : {"has_journal", "metadata_csum", "64bit", "resize_inode", "needs_recovery"}) {
    CHECK_THAT(head, !Catch::Contains(each));
  }
}

TEST_CASE("mayfly-init and the folders that are mounted upon are added") {
  const Bench bench;
  (void)bench.build(bench.request());
  CHECK(bench.debugfs("cat /sbin/mayfly-init") ==
        "\x7f"
        "ELF and so on");
  CHECK_THAT(bench.debugfs("stat /sbin/mayfly-init"),
             Catch::Contains("Mode:  0755") && Catch::Contains("User:     0   Group:     0"));
  for (const char* const each : {"/dev", "/proc", "/sys", "/run"}) {
    CHECK_THAT(bench.debugfs(std::string("stat ") + each), Catch::Contains("Type: directory    Mode:  0755"));
  }
  CHECK_THAT(bench.debugfs("stat /tmp"), Catch::Contains("Mode:  01777"));
  CHECK(!fs::exists(bench.path("source/sbin")));
}

TEST_CASE("mayfly-init goes where /sbin leads to") {
  const Bench bench;
  fs::create_directories(bench.path("source/usr/lib/programs"));
  SECTION("over a relative link") {
    fs::create_symlink("usr/sbin", bench.path("source/sbin"));
  }
  SECTION("over one that is absolute in the image") {
    fs::create_symlink("/usr/sbin", bench.path("source/sbin"));
  }
  fs::create_symlink("../usr/lib/./programs", bench.path("source/usr/sbin"));
  (void)bench.build(bench.request());
  CHECK(bench.debugfs("cat /usr/lib/programs/mayfly-init") ==
        "\x7f"
        "ELF and so on");
}

TEST_CASE("another mayfly-init in the source is replaced, the same one is kept") {
  const Bench bench;
  fs::create_directory(bench.path("source/sbin"));
  SECTION("another") {
    bench.write("source/sbin/mayfly-init", "old");
  }
  SECTION("the same") {
    fs::copy_file(bench.path("init"), bench.path("source/sbin/mayfly-init"));
  }
  (void)bench.build(bench.request());
  CHECK(bench.debugfs("cat /sbin/mayfly-init") ==
        "\x7f"
        "ELF and so on");
  CHECK_THAT(bench.debugfs("stat /sbin/mayfly-init"), Catch::Contains("Mode:  0755"));
}

TEST_CASE("an archive becomes an image with its owners and devices") {
  const Bench bench;
  // Written by hand as another user's, so that the test itself needs no root.
  REQUIRE(shell("cd " + bench.path("source") + " && tar --owner=1234 --group=4321 -cf ../a.tar .").status ==
          0);
  ImageRequest request = bench.request();
  request.source = bench.path("a.tar");
  SECTION("plain") {}
  SECTION("compressed") {
    REQUIRE(shell("gzip " + bench.path("a.tar")).status == 0);
    request.source += ".gz";
  }
  (void)bench.build(request);
  CHECK(bench.debugfs("cat /etc/motd") == "hello\n");
  CHECK_THAT(bench.debugfs("stat /bin/tool"), Catch::Contains("User:  1234   Group:  4321") &&
                                                  Catch::Contains("Mode:  04755") &&
                                                  Catch::Contains("Links: 2"));
  CHECK(bench.is_clean());
}

TEST_CASE("a size that is asked for is kept to") {
  const Bench bench;
  ImageRequest request = bench.request();
  request.size_mib = 200;
  CHECK(bench.build(request).size_bytes == 200U << 20U);
  CHECK(fs::file_size(bench.path("image")) == 200U << 20U);
}

TEST_CASE("many and large files fit into the size that was computed") {
  const Bench bench;
  for (int i = 0; i < 5000; ++i) bench.write("source/etc/file" + std::to_string(i), "x");
  bench.write("source/big", std::string(30U << 20U, 'b'));
  const ImageSummary summary = bench.build(bench.request());
  CHECK(summary.entries == 5009);
}

TEST_CASE("holes stay holes") {
  const Bench bench;
  bench.write("source/hole", "x");
  fs::resize_file(bench.path("source/hole"), 4ULL << 30U);
  const ImageSummary summary = bench.build(bench.request());
  CHECK(summary.disk_bytes < 8U << 20U);
  CHECK_THAT(bench.debugfs("stat /hole"), Catch::Contains("Size: 4294967296"));
}

TEST_CASE("with a date the same source gives the same image") {
  const Bench bench;
  ::setenv("SOURCE_DATE_EPOCH", "1700000000", 1);
  ImageRequest request = bench.request();
  (void)bench.build(request);
  // Reading changes access times, and the clock goes on.
  (void)shell("cat " + bench.path("source/etc/motd") + "; sleep 1.1; chmod 4755 " +
              bench.path("source/bin/tool"));
  request.output = bench.path("second");
  (void)bench.build(request);
  ::unsetenv("SOURCE_DATE_EPOCH");
  CHECK(shell("cmp " + bench.path("image") + " " + bench.path("second")).text.empty());
}

TEST_CASE("what cannot be made into an image is refused in one line, and nothing is left") {
  const Bench bench;
  ImageRequest request = bench.request();
  const std::string output = request.output;
  SECTION("no source") {
    request.source = bench.path("nowhere");
    check_refused(request, "nowhere: No such file");
  }
  SECTION("no archive") {
    bench.write("text", "this is no archive");
    request.source = bench.path("text");
    check_refused(request, "does not look like a tar archive");
  }
  SECTION("empty archive file") {
    bench.write("empty", "");
    request.source = bench.path("empty");
    check_refused(request, "does not look like a tar archive");
  }
  SECTION("truncated archive") {
    REQUIRE(shell("cd " + bench.path("source") + " && tar -cf ../a.tar .").status == 0);
    fs::resize_file(bench.path("a.tar"), 40'000);
    request.source = bench.path("a.tar");
    check_refused(request, "Unexpected EOF");
  }
  SECTION("empty folder") {
    fs::create_directory(bench.path("empty"));
    request.source = bench.path("empty");
    check_refused(request, "is empty");
  }
  SECTION("device") {
    request.source = "/dev/null";
    check_refused(request, "neither a folder nor a tar archive");
  }
  SECTION("no output folder") {
    request.output = bench.path("nowhere/image");
    check_refused(request, "there is no folder");
  }
  SECTION("output is a folder") {
    request.output = bench.path("source");
    check_refused(request, "no regular file");
  }
  SECTION("output is the source") {
    REQUIRE(shell("cd " + bench.path("source") + " && tar -cf ../a.tar .").status == 0);
    request.source = request.output = bench.path("a.tar");
    check_refused(request, "is the source itself");
    CHECK(fs::file_size(bench.path("a.tar")) > 100'000);
  }
  SECTION("no init") {
    request.init = bench.path("nowhere");
    check_refused(request, "--init");
  }
  SECTION("init is no program") {
    request.init = bench.path("source/etc/motd");
    check_refused(request, "no program");
  }
  SECTION("too small") {
    request.size_mib = 1;
    check_refused(request, "too small: the content needs");
  }
  SECTION("too large") {
    request.size_mib = UINT64_MAX;
    check_refused(request, "more than");
  }
  SECTION("sbin is a file") {
    bench.write("source/sbin", "file");
    check_refused(request, "/sbin");
  }
  SECTION("sbin leads in circles") {
    fs::create_symlink("sbin", bench.path("source/sbin"));
    check_refused(request, "symbolic links");
  }
  SECTION("a date that is none") {
    ::setenv("SOURCE_DATE_EPOCH", "yesterday", 1);
    check_refused(request, "SOURCE_DATE_EPOCH");
    ::unsetenv("SOURCE_DATE_EPOCH");
  }
  CHECK(!fs::exists(output));
  CHECK(bench.is_clean());
}

TEST_CASE("an image that exists stays as it is when a new one fails") {
  const Bench bench;
  bench.write("image", "precious");
  ImageRequest request = bench.request();
  request.size_mib = 1;
  check_refused(request, "too small");
  CHECK(fs::file_size(bench.path("image")) == 8);
}

TEST_CASE("an interruption leaves nothing behind") {
  const Bench bench;
  REQUIRE(::mkfifo(bench.path("fifo").c_str(), 0600) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::signal(SIGTERM, SIG_DFL);
    ImageRequest request = bench.request();
    // An archive that does not come to its end by itself.
    request.source = "-";
    const int fifo = ::open(bench.path("fifo").c_str(), O_RDONLY);
    ::dup2(fifo, STDIN_FILENO);
    const auto built = build_image(request);
    ::_exit(!built && built.error().message == "interrupted" ? 0 : 1);
  }
  const int fifo = ::open(bench.path("fifo").c_str(), O_WRONLY);
  while (bench.is_clean()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  ::kill(child, SIGTERM);
  ::close(fifo);
  int status = 0;
  ::waitpid(child, &status, 0);
  // The child's end is that of the signal it had held, or of what it said.
  CHECK((WIFSIGNALED(status) || WEXITSTATUS(status) == 0));
  CHECK(bench.is_clean());
  CHECK(!fs::exists(bench.path("image")));
}

// A disk of few megabytes, where the tests may mount one.
class TinyDisk {
 public:
  explicit TinyDisk(std::string path) : path_(std::move(path)) {
    fs::create_directory(path_);
    mounted_ = ::mount("tmpfs", path_.c_str(), "tmpfs", 0, "size=3m") == 0;
  }
  ~TinyDisk() {
    if (mounted_) ::umount2(path_.c_str(), MNT_DETACH);
  }
  TinyDisk(const TinyDisk&) = delete;
  TinyDisk& operator=(const TinyDisk&) = delete;
  [[nodiscard]] bool mounted() const { return mounted_; }

 private:
  std::string path_;
  bool mounted_ = false;
};

TEST_CASE("a full disk is an error, and nothing is left on it") {
  const Bench bench;
  const TinyDisk disk(bench.path("disk"));
  if (!disk.mounted()) {
    WARN("not allowed to mount: skipped");
    return;
  }
  bench.write("source/big", std::string(5U << 20U, 'b'));
  ImageRequest request = bench.request();
  request.output = bench.path("disk/image");
  SECTION("noticed beforehand") {
    check_refused(request, "MiB are needed and");
  }
  SECTION("noticed while unpacking") {
    REQUIRE(shell("cd " + bench.path("source") + " && tar -cf ../a.tar .").status == 0);
    request.source = bench.path("a.tar");
    check_refused(request, "is full");
  }
  SECTION("noticed while writing") {
    // Many holes do not count as content, yet a little of each is written.
    fs::resize_file(bench.path("source/big"), 2'400'000);
    bench.write("disk/filler", std::string(400'000, 'f'));
    check_refused(request, "disk");
  }
  std::size_t left = 0;
  for (const auto& entry : fs::directory_iterator(bench.path("disk")))
    left += entry.path().filename() != "filler";
  CHECK(left == 0);
}

TEST_CASE("a caller who is not root makes images whose files are root's") {
  if (::getuid() != 0) return;  // then all the other cases show it
  const Bench bench;
  fs::permissions(bench.path(), fs::perms(0777));
  REQUIRE(
      shell("cd " + bench.path("source") +
            " && mkdir locked && touch locked/in && chmod 500 locked && chown -R 65534:65534 . && cd .. && "
            "mknod null c 1 3 && tar --owner=77 --group=88 -cf a.tar source/etc source/locked null")
          .status == 0);
  fs::permissions(bench.path("a.tar"), fs::perms(0644));
  const bool archive = GENERATE(false, true);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    if (::setgid(65534) != 0 || ::setuid(65534) != 0) ::_exit(2);
    ImageRequest request = bench.request();
    if (archive) request.source = bench.path("a.tar");
    const auto built = build_image(request);
    if (!built) std::fputs((built.error().message + "\n").c_str(), stderr);
    ::_exit(built && built->warnings.empty() ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  REQUIRE(WEXITSTATUS(status) == 0);
  CHECK(shell("e2fsck -fn " + bench.path("image")).status == 0);
  if (archive) {
    CHECK_THAT(bench.debugfs("stat /source/locked/in"), Catch::Contains("User:    77   Group:    88"));
    CHECK_THAT(bench.debugfs("stat /null"), Catch::Contains("character special") && Catch::Contains("01:03"));
  } else {
    CHECK_THAT(bench.debugfs("stat /etc/motd"), Catch::Contains("User:     0   Group:     0"));
    CHECK_THAT(bench.debugfs("stat /locked"), Catch::Contains("Mode:  0500"));
  }
  CHECK(bench.is_clean());
}

}  // namespace
}  // namespace mayfly::cli
