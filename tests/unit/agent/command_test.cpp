// Commands: how they are found, what they inherit, how they end.
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "tests/unit/agent/guest.h"

namespace mayfly::test {
namespace {

using base::agent::Frame;

// A folder that goes with the test.
class Folder {
 public:
  Folder() {
    std::string name = "/tmp/mayfly-agent-XXXXXX";
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  [[nodiscard]] std::string write(const std::string& name, std::string_view content, mode_t mode) const {
    const std::string file = path_ / name;
    std::ofstream(file) << content;
    REQUIRE(::chmod(file.c_str(), mode) == 0);
    return file;
  }
  [[nodiscard]] std::string path() const { return path_; }

 private:
  std::filesystem::path path_;
};

std::string output_of(const Request& request) {
  Guest guest;
  guest.boot.start(request);
  guest.boot.end_input();
  std::string output = read_to_end(guest.boot.output);
  CHECK(read_to_end(guest.boot.errors).empty());
  CHECK(guest.boot.expect_exit().exit_status == 0);
  return output;
}

TEST_CASE("a command's exit status is reported") {
  for (const int status : {0, 1, 7, 125, 255}) {
    Guest guest;
    guest.boot.start(Request::shell("exit " + std::to_string(status)));
    const auto exited = guest.boot.expect_exit();
    CHECK(exited.exit_status == static_cast<std::uint32_t>(status));
    CHECK(exited.signal == 0);
  }
}

TEST_CASE("a command that a signal killed ends with 128 and the signal") {
  for (const int signal : {SIGKILL, SIGTERM, SIGSEGV}) {
    Guest guest;
    guest.boot.start(Request::shell("kill -" + std::to_string(signal) + " $$"));
    const auto exited = guest.boot.expect_exit();
    CHECK(exited.exit_status == static_cast<std::uint32_t>(128 + signal));
    CHECK(exited.signal == static_cast<std::uint32_t>(signal));
  }
}

TEST_CASE("the start of a command is reported with its process") {
  Guest guest;
  guest.boot.start(Request::shell("echo $$"));
  base::agent::Started started;
  const std::string body = guest.boot.expect(Frame::kStarted);
  REQUIRE(body.size() == sizeof(started));
  std::memcpy(&started, body.data(), sizeof(started));
  CHECK(started.now_ns != 0);
  CHECK(read_to_end(guest.boot.output) == std::to_string(started.pid) + "\n");
}

TEST_CASE("signals from the host reach the command's process group") {
  Guest guest;
  guest.boot.start(
      Request::shell("trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.05; done"));
  CHECK(read_until(guest.boot.output, "ready\n") == "ready\n");
  guest.boot.send_signal(SIGTERM);
  CHECK(guest.boot.expect_exit().exit_status == 9);
  CHECK(read_to_end(guest.boot.output) == "caught\n");
}

TEST_CASE("a signal without a handler kills the command and its children") {
  Guest guest;
  // The pipeline's output ends only when all of it has ended.
  guest.boot.start(Request::shell("echo ready; sleep 600 | sleep 600; :"));
  CHECK(read_until(guest.boot.output, "ready\n") == "ready\n");
  guest.boot.send_signal(SIGINT);
  CHECK(guest.boot.expect_exit().signal == SIGINT);
  CHECK(read_to_end(guest.boot.output).empty());
}

TEST_CASE("a command is in a session of its own with standard signal handling") {
  CHECK(output_of(Request::shell("grep -E '^Sig(Blk|Ign)' /proc/self/status; "
                                 "set -- $(cat /proc/$$/stat); [ $5 = $$ ] && [ $6 = $$ ] && echo leader")) ==
        "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nleader\n");
}

TEST_CASE("a command inherits nothing but its standard streams") {
  CHECK(output_of(Request::shell("ls /proc/self/fd | tr '\\n' ' '")) ==
        "0 1 2 3 ");  // 3: ls reading the folder
}

TEST_CASE("the environment is what was given and the defaults") {
  Request request({"env"});
  SECTION("defaults are added") {
    request.environment = {"A=1", "B=two words"};
    const std::string home = ::getuid() == 0 ? "/root" : "";
    if (::getuid() == 0) {
      CHECK(output_of(request) ==
            "A=1\nB=two "
            "words\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nHOME=/root\n");
    }
  }
  SECTION("what is given stays") {
    request.environment = {"PATH=/bin:/usr/bin", "HOME=/nowhere", "EMPTY="};
    CHECK(output_of(request) == "PATH=/bin:/usr/bin\nHOME=/nowhere\nEMPTY=\n");
  }
}

TEST_CASE("the working directory is the one asked for, or the root") {
  Request request({"pwd"});
  CHECK(output_of(request) == "/\n");
  request.directory = "/usr/bin";
  CHECK(output_of(request) == "/usr/bin\n");
}

TEST_CASE("arguments arrive as they are") {
  CHECK(output_of(Request({"printf", "%s|", "", " ", "a\nb", "$HOME", "\xff\xfe", "*"})) ==
        "|"
        " |a\nb|$HOME|\xff\xfe|*|");
}

TEST_CASE("a command is looked for in the PATH it is given") {
  const Folder folder;
  (void)folder.write("tool", "#!/bin/sh\necho found\n", 0755);
  Request request({"tool"});
  request.environment = {"PATH=/nonexistent::" + folder.path() + ":/bin:/usr/bin"};
  CHECK(output_of(request) == "found\n");
}

TEST_CASE("a file that cannot be executed does not hide one later in PATH") {
  const Folder first;
  const Folder second;
  (void)first.write("tool", "#!/bin/sh\necho wrong\n", 0644);
  (void)second.write("tool", "#!/bin/sh\necho right\n", 0755);
  Request request({"tool"});
  request.environment = {"PATH=" + first.path() + ":" + second.path() + ":/bin"};
  CHECK(output_of(request) == "right\n");
}

TEST_CASE("a script that does not say what it is for runs in the shell") {
  const Folder folder;
  const std::string script = folder.write("script", "echo \"$0 $1\"\n", 0755);
  CHECK(output_of(Request({script, "argument"})) == script + " argument\n");
}

struct Unstartable {
  const char* title;
  Request request;
  std::uint32_t status;
  const char* message;
};

TEST_CASE("a command that cannot be started says why") {
  const Folder folder;
  const std::string plain = folder.write("plain", "no program", 0644);
  const std::string orphan = folder.write("orphan", "#!/nonexistent/interpreter\n", 0755);
  Request elsewhere({"true"});
  elsewhere.directory = "/nonexistent";
  const Unstartable cases[] = {
      {"not in PATH", Request({"no-such-command"}), 127, "command not found: no-such-command"},
      {"no such file", Request({"/no/such/file"}), 127, "command not found: /no/such/file"},
      {"below a file", Request({plain + "/x"}), 127, "command not found"},
      {"empty name", Request({""}), 127, "command not found"},
      {"not executable", Request({plain}), 126, "Permission denied"},
      {"a folder", Request({"/usr"}), 126, "cannot run /usr"},
      {"interpreter missing", Request({orphan}), 126, "its interpreter or loader is missing"},
      {"name too long", Request({"/" + std::string(5000, 'x')}), 126, "cannot run"},
      {"folder missing", elsewhere, 125, "cannot change to the folder /nonexistent"},
  };
  for (const Unstartable& each : cases) {
    DYNAMIC_SECTION(each.title) {
      Guest guest;
      guest.boot.start(each.request);
      const auto failure = guest.boot.expect_failure();
      CHECK(failure.exit_status == each.status);
      CHECK_THAT(failure.message, Catch::Contains(each.message));
      CHECK(read_to_end(guest.boot.output).empty());
      CHECK(read_to_end(guest.boot.errors).empty());
    }
  }
}

TEST_CASE("an executable of another format is refused") {
  const Folder folder;
  // An ELF header of a machine that is not this one, which no shell would take for a script either.
  std::string elf(
      "\x7f"
      "ELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xff\0\x01\0\0\0",
      24);
  elf.resize(64, '\0');
  Guest guest;
  guest.boot.start(Request({folder.write("elf", elf, 0755)}));
  // The shell that is asked next says so, with its own status.
  const auto frame = guest.boot.receive();
  REQUIRE(frame.has_value());
  if (frame->type == Frame::kStarted) CHECK(guest.boot.expect_exit().exit_status != 0);
}

TEST_CASE("a command can be another user's") {
  if (::getuid() != 0) return;
  Request request = Request::shell("id -u; id -g; id -G; echo through > /dev/stderr; : < /dev/stdin");
  request.uid = 12345;
  request.gid = 54321;
  Guest guest;
  guest.boot.start(request);
  CHECK(read_to_end(guest.boot.output) == "12345\n54321\n54321\n");
  CHECK(read_to_end(guest.boot.errors) == "through\n");
  CHECK(guest.boot.expect_exit().exit_status == 0);
}

TEST_CASE("the group of a user comes from the guest's files when it is asked for") {
  if (::getuid() != 0) return;
  Request request({"id", "-g"});
  request.uid = 65534;  // nobody
  request.gid = base::agent::kGroupOfUser;
  CHECK(output_of(request) == "65534\n");
}

TEST_CASE("orphans are reaped") {
  Guest guest;
  guest.boot.start(Request::shell("(sleep 0.2 & echo $!) ; sleep 0.5"));
  const std::string orphan = read_to_end(guest.boot.output);
  CHECK(guest.boot.expect_exit().exit_status == 0);
  // A zombie would still have its folder.
  HostSession session = guest.open_session(1);
  session.start(
      Request::shell("while [ -e /proc/" + orphan.substr(0, orphan.size() - 1) + " ]; do sleep 0.05; done"));
  CHECK(session.expect_exit().exit_status == 0);
}

}  // namespace
}  // namespace mayfly::test
