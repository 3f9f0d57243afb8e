#include "rootfs/init/users.h"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <string>
#include <vector>

namespace mayfly::init {
namespace {

class Files {
 public:
  Files(std::string_view passwd_text, std::string_view group_text)
      : passwd("/tmp/mayfly-passwd-" + std::to_string(::getpid())),
        group("/tmp/mayfly-group-" + std::to_string(::getpid())) {
    std::ofstream(passwd) << passwd_text;
    std::ofstream(group) << group_text;
  }
  ~Files() {
    ::unlink(passwd.c_str());
    ::unlink(group.c_str());
  }
  Files(const Files&) = delete;
  Files& operator=(const Files&) = delete;

  [[nodiscard]] User find(std::uint32_t uid) const { return find_user(uid, passwd.c_str(), group.c_str()); }

  std::string passwd;
  std::string group;
};

std::vector<gid_t> groups_of(const User& user) {
  return {user.groups.begin(), user.groups.begin() + static_cast<std::ptrdiff_t>(user.group_count)};
}

TEST_CASE("a user's home, group and further groups are found") {
  const Files files(
      "root:x:0:0:root:/root:/bin/sh\nanna:x:1000:100:Anna:/home/anna:/bin/sh\nbo:x:1001:101::/srv/bo:/bin/"
      "sh",
      "users:x:100:\naudio:x:29:bo,anna\nvideo:x:44:hanna,annan\nwheel:x:10:anna\n");
  const User anna = files.find(1000);
  CHECK(std::string(anna.home.data()) == "/home/anna");
  CHECK(anna.gid == 100);
  CHECK(groups_of(anna) == std::vector<gid_t>{29, 10});
  const User bo = files.find(1001);
  CHECK(std::string(bo.home.data()) == "/srv/bo");
  CHECK(groups_of(bo) == std::vector<gid_t>{29});
}

TEST_CASE("an unknown user lives in the root folder and has no groups") {
  const Files files("", "");
  const User user = files.find(4242);
  CHECK(std::string(user.home.data()) == "/");
  CHECK(user.gid == 0);
  CHECK(user.group_count == 0);
  CHECK(std::string(find_user(4242, "/nonexistent", "/nonexistent").home.data()) == "/");
}

TEST_CASE("root lives in /root without a look at the files") {
  CHECK(std::string(find_user(0, "/nonexistent", "/nonexistent").home.data()) == "/root");
}

TEST_CASE("files in disorder are survived") {
  const std::string long_home(1000, 'h');
  const Files files(
      "\n::::\nx\nbad:x:1e3:5:::\nneg:x:-1:5::/neg:\nbig:x:99999999999:5::/big:\nwrap:x:4294968296:5::/"
      "wrap:\n"
      "long:x:7:7::/" +
          long_home + ":\nempty:x:8:nonsense:::\n",
      "\n:::\nq:x:zz:long\n" + std::string(2000, ':') + "\n");
  CHECK(std::string(files.find(1000).home.data()) == "/");
  CHECK(std::string(files.find(7).home.data()) == "/");
  CHECK(files.find(7).gid == 7);
  CHECK(files.find(8).gid == 0);
  CHECK(std::string(files.find(8).home.data()) == "/");
}

TEST_CASE("there is an end to a user's groups") {
  std::string group;
  for (int i = 1; i <= 500; ++i) group += "g" + std::to_string(i) + ":x:" + std::to_string(i) + ":anna\n";
  const Files files("anna:x:1000:100::/home/anna:\n", group);
  CHECK(files.find(1000).group_count == kMostGroups);
}

}  // namespace
}  // namespace mayfly::init
