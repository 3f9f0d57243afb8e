// What the subcommands that are about machines are made of, apart from the machines.
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "cli/completion.h"
#include "cli/copy.h"
#include "cli/lifecycle_options.h"
#include "cli/machine_stats.h"
#include "cli/tool.h"
#include "tests/support/temporary_folder.h"

using namespace mayfly;
using namespace mayfly::cli;
using Catch::Matchers::Contains;
using Words = std::vector<std::string>;

// ---- Command lines ----

TEST_CASE("exec takes a name and then a command, untouched") {
  for (const Words& words : {Words{"-it", "web", "--", "ls", "-l"}, Words{"-i", "-t", "web", "ls", "-l"},
                             Words{"-ti", "--", "web", "ls", "-l"}}) {
    const auto parsed = parse_exec(words);
    REQUIRE(parsed.has_value());
    REQUIRE(parsed->options.has_value());
    CHECK(parsed->options->name == "web");
    CHECK(parsed->options->command == Words{"ls", "-l"});
    CHECK(parsed->options->input);
    CHECK(parsed->options->tty);
  }
  const auto inner =
      parse_exec(Words{"-e", "A=b", "-w", "/tmp", "-u", "5:6", "web", "sh", "-c", "x", "--", "y"});
  REQUIRE(inner.has_value());
  CHECK(inner->options->command == Words{"sh", "-c", "x", "--", "y"});
  CHECK(inner->options->environment == Words{"A=b"});
  CHECK(inner->options->uid == 5);
  CHECK(inner->options->gid == 6);
  CHECK(!inner->options->input);
}

TEST_CASE("command lines that are wrong say so on one line") {
  const auto one_line = [](const auto& parsed, const char* text) {
    INFO(text);
    REQUIRE(!parsed.has_value());
    CHECK(parsed.error().message.find('\n') == std::string::npos);
    CHECK_THAT(parsed.error().message, Contains(text));
  };
  one_line(parse_exec(Words{}), "no machine");
  one_line(parse_exec(Words{"web"}), "no command");
  one_line(parse_exec(Words{"web", "--"}), "no command");
  one_line(parse_exec(Words{"--bogus", "web", "ls"}), "--bogus");
  one_line(parse_stop(Words{}), "NAME");
  one_line(parse_stop(Words{"--timeout", "x", "web"}), "--timeout");
  one_line(parse_logs(Words{"--tail", "-1", "web"}), "--tail");
  one_line(parse_names(NamesCommand::kConsole, Words{"a", "b"}), "one machine");
  one_line(parse_copy(Words{"a"}), "TO");
  one_line(parse_ps(Words{"extra"}), "extra");
}

TEST_CASE("every subcommand has a help text with its exit status") {
  const Words help = {"--help"};
  CHECK_THAT(parse_ps(help)->help, Contains("Exit status"));
  CHECK_THAT(parse_stop(help)->help, Contains("Exit status"));
  CHECK_THAT(parse_logs(help)->help, Contains("Exit status"));
  CHECK_THAT(parse_exec(help)->help, Contains("Exit status"));
  CHECK_THAT(parse_stats(help)->help, Contains("Exit status"));
  CHECK_THAT(parse_copy(help)->help, Contains("Exit status"));
  for (const auto command : {NamesCommand::kKill, NamesCommand::kWait, NamesCommand::kInspect,
                             NamesCommand::kPause, NamesCommand::kResume, NamesCommand::kConsole}) {
    CHECK_THAT(parse_names(command, help)->help, Contains("xit status"));
  }
}

// ---- stats ----

TEST_CASE("counters are summed over devices") {
  const auto counters = parse_metrics(
      "# TYPE mayfly_block_read_bytes counter\n"
      "mayfly_block_read_bytes{instance=\"a\",device=\"root\"} 10\n"
      "mayfly_block_read_bytes{instance=\"a\",device=\"x y\"} 5\n"
      "plain 7\nbroken\nbroken x\nbroken 99999999999999999999999\n\nlast 1");
  CHECK(counters ==
        std::map<std::string, std::uint64_t>{{"mayfly_block_read_bytes", 15}, {"plain", 7}, {"last", 1}});
  CHECK(parse_metrics("").empty());
}

TEST_CASE("CPU time is that of the child only, whatever it is called") {
  const std::string stat = "12 (a ) b) S 7 1 1 0 -1 4194560 1 2 3 4 150 50 9 9 20 0 3 0 1 2 3";
  CHECK(parse_cpu_ms(stat, 7, 100) == 2000U);
  CHECK(!parse_cpu_ms(stat, 8, 100).has_value());
  CHECK(!parse_cpu_ms("", 7, 100).has_value());
  CHECK(!parse_cpu_ms("12 (a) S 7 1", 7, 100).has_value());
}

TEST_CASE("what machines use, as a table and as JSON") {
  MachineStats now;
  now.facts.name = "web";
  now.facts.cpus = 1;
  now.facts.memory_mib = 128;
  now.facts.started_ms = 1'000;
  now.state = MachineState::kRunning;
  now.at_ms = 11'000;
  now.cpu_ms = 2'500;
  now.memory_bytes = 64U << 20U;
  now.counters = {{"mayfly_block_read_bytes", 2048}};
  MachineStats before = now;
  before.at_ms = 10'000;
  before.cpu_ms = 2'000;
  CHECK(now.cpu_percent(nullptr) == Approx(25));
  CHECK(now.cpu_percent(&before) == Approx(50));
  CHECK(before.cpu_percent(&now) == 0);
  CHECK(as_table({now}, {before}) ==
        "NAME  STATE      UP     CPU  CPU TIME              MEMORY  DISK READ  WRITTEN  NET IN  OUT\n"
        "web   running  10 s  50.0 %    2.50 s  64.0 MiB / 128 MiB    2.0 KiB      0 B     0 B  0 B\n");
  const auto json = as_json(now, nullptr);
  CHECK(json["cpu_percent"] == Approx(25));
  CHECK(json["counters"]["mayfly_block_read_bytes"] == 2048);
}

// ---- cp ----

TEST_CASE("which end of a copy is a machine's") {
  const auto is = [](const char* text, const char* machine, const char* path) {
    const CopyEnd end = parse_copy_end(text);
    CHECK(end.machine == machine);
    CHECK(end.path == path);
  };
  is("web:/a", "web", "/a");
  is("web:a:b", "web", "a:b");
  is("/a:b", "", "/a:b");
  is("./web:a", "", "./web:a");
  is("a", "", "a");
  is(":a", "", ":a");
  CHECK(!copy_files(parse_copy_end("a"), parse_copy_end("b")).has_value());
  CHECK(!copy_files(parse_copy_end("a:b"), parse_copy_end("c:d")).has_value());
}

TEST_CASE("what a guest sent is looked through") {
  const test::TemporaryFolder folder;
  const std::string outside = folder.file("outside", "mine");
  const std::string box = folder.path("box");
  namespace fs = std::filesystem;
  fs::create_directories(box + "/site/sub");
  base::write_file_atomically(box + "/site/sub/file", "x").value();

  SECTION("files, folders and links are welcome") {
    fs::create_symlink("/etc/passwd", box + "/site/link");
    fs::create_directory_symlink("/", box + "/site/sub/root");
    CHECK(check_unpacked(box, "site").has_value());
  }
  SECTION("privileges are taken away, and links are not followed for that") {
    ::chmod((box + "/site/sub/file").c_str(), 06755);
    ::chmod(outside.c_str(), 04755);
    fs::create_symlink(outside, box + "/site/link");
    CHECK(check_unpacked(box, "site").has_value());
    struct stat status {};
    REQUIRE(::stat((box + "/site/sub/file").c_str(), &status) == 0);
    CHECK((status.st_mode & 07777) == 0755);
    REQUIRE(::stat(outside.c_str(), &status) == 0);
    CHECK((status.st_mode & 07777) == 04755);
  }
  SECTION("a FIFO is not") {
    REQUIRE(::mkfifo((box + "/site/sub/pipe").c_str(), 0600) == 0);
    CHECK_THAT(check_unpacked(box, "site").error().message, Contains("pipe"));
  }
  SECTION("nor what was not asked for") {
    CHECK_THAT(check_unpacked(box, "other").error().message, Contains("site"));
    base::write_file_atomically(box + "/\033[31m", "x").value();
    const auto checked = check_unpacked(box, "site");
    REQUIRE(!checked.has_value());
    CHECK(checked.error().message.find('\033') == std::string::npos);
  }
  SECTION("nor nothing at all") {
    fs::remove_all(box + "/site");
    CHECK_THAT(check_unpacked(box, "site").error().message, Contains("nothing"));
  }
}

// ---- Completion ----

namespace {

Words words_of(const std::vector<Candidate>& candidates) {
  Words out;
  for (const Candidate& each : candidates) out.push_back(each.word);
  return out;
}

const CompletionSource kSource = {.help = [](std::span<const std::string> words) -> std::string {
                                    if (words.front() == "exec") return parse_exec(Words{"--help"})->help;
                                    return words.size() == 2 ? "  -o,--output FILE  The " + words[1] + "\n"
                                                             : "";
                                  },
                                  .names =
                                      [] {
                                        return Words{"main", "web-1", "web-2"};
                                      },
                                  .images =
                                      [] {
                                        return Words{"alpine", "debian:12"};
                                      }};

Words completed(const Words& words) {
  return words_of(complete(words, kSource));
}

}  // namespace

TEST_CASE("subcommands, options and names of machines are completed") {
  CHECK(completed({"st"}) == Words{"stats", "stop"});
  CHECK(completed({""}).size() == subcommands().size());
  CHECK(completed({"stop", "web"}) == Words{"web-1", "web-2"});
  CHECK(completed({"stop", "web-1", ""}) == Words{"main", "web-1", "web-2"});
  CHECK(completed({"exec", "-i", "m"}) == Words{"main"});
  CHECK(completed({"exec", "main", "l"}).empty());
  CHECK(completed({"exec", "main", "--", "-"}).empty());
  CHECK(completed({"exec", "--t"}) == Words{"--tty"});
  CHECK(completed({"exec", "--"}) ==
        Words{"--help", "--interactive", "--tty", "--env", "--workdir", "--user"});
  CHECK(completed({"cp", "web-1"}) == Words{"web-1:"});
  CHECK(completed({"drive", "s"}) == Words{"show"});
  CHECK(completed({"image", "build", "-"}) == Words{"--output"});
  CHECK(completed({"completion", ""}) == Words{"bash", "zsh", "fish"});
  CHECK(completed({"run", "fil"}).empty());
  CHECK(completed({"run", "--net", "alp"}) == Words{"alpine"});
  CHECK(completed({"run", "alpine", "d"}).empty());
  CHECK(completed({"image", ""}) == Words{"build", "import", "ls", "rm"});
  CHECK(completed({"image", "rm", ""}) == Words{"alpine", "debian:12"});
  CHECK(completed({"nonesuch", ""}).empty());
  CHECK(completed({}).empty());
}

TEST_CASE("options are found in help texts, with what they do") {
  const auto found = options_in(parse_run(Words{"--help"})->help);
  const auto words = words_of(found);
  for (const char* option : {"--detach", "--name", "--cpus", "--net", "--timing", "--publish", "--help"}) {
    CHECK(std::ranges::find(words, option) != words.end());
  }
  CHECK(std::ranges::all_of(words, [](const std::string& word) {
    return word.starts_with("--") && word.find_first_of("[{,") == std::string::npos;
  }));
  const auto detach = std::ranges::find(found, "--detach", &Candidate::word);
  REQUIRE(detach != found.end());
  CHECK_THAT(detach->summary, Contains("Leave the machine running"));
}

// In the test's stead of mayfly, a function that answers as it would.
TEST_CASE("the script for bash gets what it asks for") {
  const test::TemporaryFolder folder;
  const std::string script = folder.path("script");
  const pid_t pid = ::fork();
  REQUIRE(pid >= 0);
  if (pid == 0) {
    const bool opened = std::freopen(script.c_str(), "w", stdout) != nullptr;
    const auto printed = completion_command(Words{"bash"});
    std::fflush(stdout);
    ::_exit(opened && printed.has_value() ? 0 : 1);
  }
  int status = -1;
  ::waitpid(pid, &status, 0);
  REQUIRE(status == 0);
  const HeldSignals signals;
  const auto out = run_tool(
      {.words = {"bash", "-c",
                 "mayfly() { echo \"asked:$#:$*\"; printf 'two words\\tsummary\\n'; }; source \"$0\"; "
                 "COMP_WORDS=(mayfly stop ''); COMP_CWORD=2; _mayfly; printf '%s|' \"${COMPREPLY[@]}\"",
                 script},
       .environment = {},
       .returns_output = true},
      signals);
  REQUIRE(out.has_value());
  CHECK(*out == "asked:3:__complete stop |two words|");
}
