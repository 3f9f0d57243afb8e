#include "cli/virtual_machine.h"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/checks.h"

using namespace mayfly::cli;
using Catch::Matchers::Contains;
using Catch::Matchers::EndsWith;

namespace {

// A folder of the test's own, and the environment without MAYFLY_ARTIFACTS.
struct Folder {
  std::string path = "/tmp/mayfly-test.XXXXXX";
  Folder() {
    REQUIRE(::mkdtemp(path.data()) != nullptr);
    ::unsetenv("MAYFLY_ARTIFACTS");
  }
  ~Folder() { std::filesystem::remove_all(path); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string file(const std::string& name, const std::string& content = "x") const {
    std::string full = path + "/" + name;
    std::filesystem::create_directories(std::filesystem::path(full).parent_path());
    std::ofstream(full) << content;
    std::filesystem::permissions(full, std::filesystem::perms::owner_all);
    return full;
  }
};

std::string ext4_head() {
  std::string head(2048, '\0');
  head[0x438] = '\x53';
  head[0x439] = '\xef';
  return head;
}

}  // namespace

TEST_CASE("the configuration says what the options say") {
  RunOptions options;
  options.cpus = 2;
  options.memory_mib = 256;
  const auto text =
      vmm_configuration(options, {.vmm = "v", .kernel = "/k", .rootfs = "/r"}, "/run/x/vsock", nullptr);
  REQUIRE(text.has_value());
  const auto json = nlohmann::json::parse(*text);
  CHECK(json["boot-source"]["kernel_image_path"] == "/k");
  CHECK(json["machine-config"] == nlohmann::json{{"vcpu_count", 2}, {"mem_size_mib", 256}});
  REQUIRE(json["drives"].is_array());
  REQUIRE(json["drives"].size() == 1);
  CHECK(json["drives"][0] == nlohmann::json{{"drive_id", "rootfs"},
                                            {"is_root_device", true},
                                            {"path_on_host", "/r"},
                                            {"is_read_only", true},
                                            {"io_engine", "Sync"}});
  CHECK(json["vsock"] == nlohmann::json{{"guest_cid", 3}, {"uds_path", "/run/x/vsock"}});
}

TEST_CASE("only --writable attaches the image for writing") {
  RunOptions options;
  const auto read_only = [&](RootMode mode) {
    options.root_mode = mode;
    const auto text = vmm_configuration(options, {.vmm = "v", .kernel = "/k", .rootfs = "/r"}, "/v", nullptr);
    return nlohmann::json::parse(*text)["drives"][0]["is_read_only"].get<bool>();
  };
  CHECK(read_only(RootMode::kScratch));
  CHECK_THAT(boot_arguments(options, nullptr), EndsWith(" -- scratch session"));
  CHECK(read_only(RootMode::kReadOnly));
  CHECK_THAT(boot_arguments(options, nullptr), EndsWith(" -- readonly session"));
  CHECK(!read_only(RootMode::kWritable));
  CHECK_THAT(boot_arguments(options, nullptr), EndsWith(" -- writable session"));
}

TEST_CASE("a path that JSON cannot hold is refused") {
  CHECK(!vmm_configuration({}, {.vmm = "v", .kernel = "/k\xff", .rootfs = "/r"}, "/v", nullptr));
}

TEST_CASE("artifacts are found from the build tree, and by --cpus") {
  const Folder tree;
  tree.file("build/dev/bin/mayfly-vmm");
  tree.file("artifacts/vmlinux-smp");
  tree.file("artifacts/rootfs.ext4");
  const std::string bin = tree.path + "/build/dev/bin";
  RunOptions options;
  CHECK(find_files(options, bin)->kernel == tree.path + "/artifacts/vmlinux-smp");
  tree.file("artifacts/vmlinux");
  CHECK(find_files(options, bin)->kernel == tree.path + "/artifacts/vmlinux");
  options.cpus = 2;
  const auto files = find_files(options, bin);
  CHECK(files->kernel == tree.path + "/artifacts/vmlinux-smp");
  CHECK(files->vmm == bin + "/mayfly-vmm");
  CHECK(files->rootfs == tree.path + "/artifacts/rootfs.ext4");
}

TEST_CASE("artifacts are found beside an installation, and where the environment says") {
  const Folder tree;
  tree.file("usr/bin/mayfly-vmm");
  tree.file("usr/share/mayfly/vmlinux");
  tree.file("usr/share/mayfly/rootfs.ext4");
  const std::string bin = tree.path + "/usr/bin";
  CHECK(find_files({}, bin)->kernel == tree.path + "/usr/share/mayfly/vmlinux");
  ::setenv("MAYFLY_ARTIFACTS", (tree.path + "/elsewhere").c_str(), 1);
  const auto missing = find_files({}, bin);
  REQUIRE(!missing);
  CHECK_THAT(missing.error().message, Contains(tree.path + "/elsewhere/vmlinux"));
  CHECK_THAT(missing.error().message, Contains("scripts/quickstart.sh"));
  RunOptions several;
  several.cpus = 2;
  const auto no_smp = find_files(several, bin);
  REQUIRE(!no_smp);
  CHECK_THAT(no_smp.error().message, Contains(tree.path + "/elsewhere/vmlinux-smp"));
  CHECK_THAT(no_smp.error().message, Contains("kernels/build.sh"));
  ::unsetenv("MAYFLY_ARTIFACTS");
}

TEST_CASE("a missing VMM is named") {
  const Folder tree;
  const auto missing = find_files({}, tree.path);
  REQUIRE(!missing);
  CHECK_THAT(missing.error().message, Contains(tree.path + "/mayfly-vmm"));
}

TEST_CASE("kernel and image are told by their first bytes") {
  const Folder folder;
  const std::string kernel = folder.file("vmlinux",
                                         "\x7f"
                                         "ELF and so on");
  const std::string image = folder.file("image", ext4_head());
  CHECK(check_files({.vmm = "", .kernel = kernel, .rootfs = image}, {}));

  const auto error = [&](const std::string& k, const std::string& r) {
    const auto checked = check_files({.vmm = "", .kernel = k, .rootfs = r}, {});
    REQUIRE(!checked);
    return checked.error().message;
  };
  CHECK_THAT(error(folder.path + "/none", image), Contains("/none") && Contains("No such file"));
  CHECK_THAT(error(folder.path, image), Contains("not a file"));
  CHECK_THAT(error(folder.file("text", "hello"), image), Contains("neither a vmlinux"));
  CHECK_THAT(error(folder.file("empty", ""), image), Contains("neither a vmlinux"));
  CHECK_THAT(error(kernel, kernel), Contains("mayfly image build"));
  CHECK_THAT(error(kernel, folder.path), Contains("not a file"));
  CHECK_THAT(error(kernel, "/dev/null"), Contains("not a file"));
}

TEST_CASE("kinds of images") {
  const auto kind = [](const std::string& head) { return image_kind(std::as_bytes(std::span(head))); };
  CHECK(kind(ext4_head()) == "ext4");
  CHECK(kind("hsqs....") == "squashfs");
  CHECK(!kind(""));
  CHECK(!kind(std::string(70000, '\0')));
}

TEST_CASE("a machine that cannot run guests is told why") {
  const Folder folder;
  const std::string kvm = folder.file("kvm");
  const std::string good = folder.file("good", "processor\t: 0\nflags\t\t: fpu svm sse\n");
  const std::string bad = folder.file("bad", "processor\t: 0\nflags\t\t: fpu svm_lock vmxx\n");
  CHECK(check_host_at(kvm, good));
  CHECK(check_host_at(kvm, folder.path + "/none"));
  const auto without = check_host_at(kvm, bad);
  REQUIRE(!without);
  CHECK_THAT(without.error().message, Contains("lab/run") && Contains("hardware virtualization"));
  const auto missing = check_host_at(folder.path + "/none", good);
  REQUIRE(!missing);
  CHECK_THAT(missing.error().message, Contains("lab/run") && Contains("/none"));
}

TEST_CASE("the kind of hardware virtualization is a whole word of the flags") {
  CHECK(hardware_virtualization("a: b\nflags\t: x vmx y\n") == "vmx");
  CHECK(hardware_virtualization("a: b\nflags\t: x svm") == "svm");
  CHECK(!hardware_virtualization("a: b\nflags\t: svm_lock avx512_svmx\nbugs\t: svm\n"));
  CHECK(!hardware_virtualization(""));
}
