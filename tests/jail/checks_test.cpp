// What may stand on a command line, and what may not.
#include "jailer/checks.h"

#include <sys/resource.h>

#include <catch2/catch.hpp>

using namespace mayfly;
using namespace mayfly::jailer;

TEST_CASE("ids are letters, digits and dashes") {
  for (const std::string& good :
       {std::string("a"), std::string("Vm-1"), std::string("-"), std::string(64, 'x')}) {
    CHECK(check_id(good).has_value());
  }
  for (const std::string& bad : {std::string(), std::string(65, 'x'), std::string("a/b"), std::string(".."),
                                 std::string("."), std::string("a_b"), std::string("a b"),
                                 std::string("a\nb"), std::string("ä"), std::string("a\0b", 3)}) {
    INFO(bad);
    CHECK_FALSE(check_id(bad).has_value());
  }
}

TEST_CASE("the name of an executable is one that a folder can have") {
  CHECK(*executable_name("/usr/bin/mayfly-vmm") == "mayfly-vmm");
  CHECK(*executable_name("mayfly-vmm_2.0+x") == "mayfly-vmm_2.0+x");
  for (const char* bad : {"", "/", "/usr/bin/", "/usr/bin/..", ".", "/x/.hidden", "a b", "a\nb", "a=b"}) {
    INFO(bad);
    CHECK_FALSE(executable_name(bad).has_value());
  }
  CHECK_FALSE(executable_name(std::string(129, 'x')).has_value());
}

TEST_CASE("no path goes up") {
  for (const char* good : {"/srv/jailer", "jails", "/a/..b/c..", "/"})
    CHECK(check_plain_path(good).has_value());
  for (const char* bad : {"", "..", "/srv/../etc", "../x", "/srv/..", "a\nb"}) {
    INFO(bad);
    CHECK_FALSE(check_plain_path(bad).has_value());
  }
}

TEST_CASE("a parent cgroup is a path below the hierarchy") {
  for (const char* good : {"a", "a/b", "machine.slice/x@1.service", "a\\x2db"}) {
    CHECK(check_parent_cgroup(good).has_value());
  }
  for (const char* bad : {"/a", "a/", "a//b", "..", "a/../b", "./a", "a\nb"}) {
    INFO(bad);
    CHECK_FALSE(check_parent_cgroup(bad).has_value());
  }
}

TEST_CASE("a cgroup setting is a file of a controller and a value") {
  const auto setting = parse_cgroup_setting("hugetlb.2MB.max=a=b");
  REQUIRE(setting.has_value());
  CHECK(setting->controller() == "hugetlb");
  CHECK(setting->file == "hugetlb.2MB.max");
  CHECK(setting->value == "a=b");
  CHECK(parse_cgroup_setting("cgroup.max.depth=1").has_value());
  for (const char* bad : {"", "memory.max", "memory=1", ".max=1", "memory.=1", "memory.max=",
                          "../memory.max=1", "memory./../x=1", "memory..max=1", "a/b.c=1", "memory.max=1\n2",
                          "cgroup.procs=1", "tasks=1", "cgroup.kill=1", "cgroup.subtree_control=-memory"}) {
    INFO(bad);
    CHECK_FALSE(parse_cgroup_setting(bad).has_value());
  }
}

TEST_CASE("a resource limit is fsize or no-file") {
  CHECK(parse_resource_limit("fsize=0")->resource == RLIMIT_FSIZE);
  CHECK(parse_resource_limit("no-file=2048")->resource == RLIMIT_NOFILE);
  CHECK(parse_resource_limit("no-file=2048")->value == 2048);
  for (const char* bad : {"", "fsize", "fsize=", "fsize=-1", "fsize=1k", "core=1",
                          "no-file=18446744073709551615", "no-file=18446744073709551616", "=1", "fsize= 1"}) {
    INFO(bad);
    CHECK_FALSE(parse_resource_limit(bad).has_value());
  }
}

TEST_CASE("users are numbers, and none of them means nobody at all") {
  CHECK(*parse_user("0") == 0);
  CHECK(*parse_user("4294967294") == 4294967294U);
  for (const char* bad : {"", "root", "-1", "4294967295", "4294967296", "1 ", "0x1", "+1", "1.0"}) {
    INFO(bad);
    CHECK_FALSE(parse_user(bad).has_value());
  }
}
