#include "cli/image.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string_view>

#include "base/file.h"
#include "cli/image_tree.h"
#include "cli/tool.h"
#include "cli/workshop.h"

namespace mayfly::cli {
namespace {

namespace fs = std::filesystem;
using base::fail;
using base::fail_because;
using base::fail_errno;
using base::Result;
using base::Status;

constexpr std::uint64_t kMiB = 1U << 20U;
constexpr std::uint64_t kInodeBytes = 256;
constexpr std::uint64_t kSpareInodes = 2048;
constexpr std::uint64_t kSpareBytes = 32 * kMiB;  // a hole in the file until the guest writes there
constexpr std::uint64_t kMostMiB = 16ULL << 20U;  // 16 TiB: what 32-bit block numbers reach
constexpr const char* kInitName = "mayfly-init";
// Not random where images are to be the same each time.
constexpr const char* kFixedUuid = "6d61796f-666c-4900-8000-000000000001";
constexpr const char* kFixedHashSeed = "6d61796f-666c-4900-8000-000000000002";
// What a mount need not read or start is left out: a journal, checksums, room to grow, lazily made tables.
constexpr const char* kFeatures =
    "none,dir_index,dir_nlink,ext_attr,extent,extra_isize,filetype,flex_bg,large_file,sparse_super";

class Builder {
 public:
  Builder(const ImageRequest& request, const Workshop& workshop, const HeldSignals& signals)
      : request_(request), workshop_(workshop), signals_(signals) {}

  Result<ImageSummary> build();

 private:
  Status choose_disguise();
  Status choose_date();
  Status unpack();
  Status choose_size(const Tree& tree);
  Status make_file_system(const Tree& tree);
  Status finish_file_system(const Tree& tree);
  Result<std::string> finishing_script(const Tree& tree) const;
  Status run(std::vector<std::string> words, bool with_owners);
  [[nodiscard]] bool disk_is_full() const;

  const ImageRequest& request_;
  const Workshop& workshop_;
  const HeldSignals& signals_;
  ImageSummary summary_;
  bool root_ = ::geteuid() == 0;
  bool fakeroot_ = false;             // else, without root, a user namespace
  std::optional<std::int64_t> date_;  // SOURCE_DATE_EPOCH
  std::string tree_;                  // the folder that is put into the image
  std::uint64_t inodes_ = 0;
};

std::string folder_of(const std::string& file) {
  const std::string folder = fs::path(file).parent_path();
  return folder.empty() ? "." : folder;
}

Status check_output(const ImageRequest& request) {
  const std::string folder = folder_of(request.output);
  struct stat found {};
  if (::stat(folder.c_str(), &found) != 0 || !S_ISDIR(found.st_mode)) {
    return fail("cannot write {}: there is no folder {}", request.output, folder);
  }
  if (::stat(request.output.c_str(), &found) != 0) return {};
  if (!S_ISREG(found.st_mode))
    return fail("cannot write {}: it exists and is no regular file", request.output);
  std::error_code error;
  if (fs::equivalent(request.source, request.output, error))
    return fail("{} is the source itself", request.output);
  return {};
}

Result<bool> source_is_folder(const std::string& source) {
  if (source == "-") return false;
  struct stat found {};
  if (::stat(source.c_str(), &found) != 0) return fail_errno(errno, "cannot read {}", source);
  if (S_ISDIR(found.st_mode)) return true;
  if (S_ISREG(found.st_mode)) return false;
  return fail("{} is neither a folder nor a tar archive", source);
}

// The program to put in, and that it is one.
Result<std::string> find_init(const ImageRequest& request) {
  std::string init = request.init;
  if (init.empty()) init = TRY(base::executable_folder()) + "/" + kInitName;
  auto content = base::read_file(init);
  if (!content)
    return fail_because(std::move(content).error(), "no guest agent to put in (--init says where it is)");
  if (!content->starts_with("\x7f"
                            "ELF"))
    return fail("{} is no program for a guest", init);
  return init;
}

Status Builder::choose_disguise() {
  if (root_) return {};
  fakeroot_ = has_tool("fakeroot");
  if (fakeroot_) return {};
  if (!has_tool("unshare")) return fail("without root this needs fakeroot: apt-get install fakeroot");
  summary_.warnings.emplace_back("fakeroot is missing, so everything in the image belongs to root");
  return {};
}

Status Builder::choose_date() {
  const char* const text = std::getenv("SOURCE_DATE_EPOCH");
  if (text == nullptr || *text == '\0') return {};
  char* end = nullptr;
  errno = 0;
  const long long seconds = std::strtoll(text, &end, 10);
  if (errno != 0 || *end != '\0' || seconds <= 0)
    return fail("SOURCE_DATE_EPOCH is no number of seconds: {}", text);
  date_ = seconds;
  return {};
}

bool Builder::disk_is_full() const {
  struct statvfs disk {};
  return ::statvfs(folder_of(request_.output).c_str(), &disk) == 0 && disk.f_bavail * disk.f_frsize < kMiB;
}

// Owners other than ours: as root they are real, else fakeroot remembers them from one program to the next.
Status Builder::run(std::vector<std::string> words, bool with_owners) {
  std::vector<std::string> prefix;
  if (with_owners && fakeroot_) {
    prefix = {"fakeroot", "-s", workshop_.path("owners")};
    if (::access(workshop_.path("owners").c_str(), F_OK) == 0)
      prefix.insert(prefix.end(), {"-i", workshop_.path("owners")});
    prefix.emplace_back("--");
  } else if (with_owners && !root_) {
    prefix = {"unshare", "--user", "--map-root-user", "--"};
  }
  Tool tool;
  tool.reads_stdin = words.front() == "tar";
  tool.words = std::move(prefix);
  tool.words.insert(tool.words.end(), words.begin(), words.end());
  if (!has_tool(words.front())) tool.words = {words.front()};  // its own message, not the wrapper's
  if (date_) tool.environment.push_back("E2FSPROGS_FAKE_TIME=" + std::to_string(*date_));
  auto report = run_tool(tool, signals_);
  if (report) return {};
  if (disk_is_full()) return fail("the disk of {} is full", folder_of(request_.output));
  return std::unexpected(std::move(report).error());
}

Status Builder::unpack() {
  tree_ = workshop_.path("tree");
  if (::mkdir(tree_.c_str(), 0755) != 0)
    return fail_errno(errno, "make a folder in {}", folder_of(request_.output));
  std::vector<std::string> words{"tar",
                                 "--extract",
                                 "--file",
                                 request_.source,
                                 "--directory",
                                 tree_,
                                 "--preserve-permissions",
                                 "--numeric-owner",
                                 "--xattrs",
                                 "--xattrs-include=*"};
  words.emplace_back(root_ || fakeroot_ ? "--same-owner" : "--no-same-owner");
  auto done = run(std::move(words), true);
  if (!done) return fail_because(std::move(done).error(), "cannot unpack {}", request_.source);
  return {};
}

Status Builder::choose_size(const Tree& tree) {
  inodes_ = tree.entries.size() + tree.entries.size() / 8 + kSpareInodes;
  // Contents, the table of inodes, and for each 128 MiB the two bitmaps and a descriptor, generously.
  const std::uint64_t content = tree.blocks * kImageBlock + inodes_ * kInodeBytes;
  const std::uint64_t least = content + content / 64 + 2 * kMiB;
  std::uint64_t size = least + std::max(kSpareBytes, content / 4);
  if (request_.size_mib > kMostMiB) return fail("--size {}: more than {} MiB", request_.size_mib, kMostMiB);
  if (request_.size_mib > 0) {
    size = request_.size_mib * kMiB;
    if (size < least) {
      return fail("--size {} is too small: the content needs {} MiB", request_.size_mib,
                  (least + kMiB - 1) / kMiB);
    }
  }
  summary_.size_bytes = (size + kMiB - 1) / kMiB * kMiB;
  struct statvfs disk {};
  if (::statvfs(folder_of(request_.output).c_str(), &disk) != 0) return {};
  const std::uint64_t free = disk.f_bavail * disk.f_frsize;
  if (free < content) {
    return fail("the disk of {} is too full: {} MiB are needed and {} MiB free", folder_of(request_.output),
                (content + kMiB - 1) / kMiB, free / kMiB);
  }
  return {};
}

Status Builder::make_file_system(const Tree& tree) {
  TRY(choose_size(tree));
  std::string extended = "lazy_itable_init=0,nodiscard,root_owner=0:0";
  if (date_) extended += std::string(",hash_seed=") + kFixedHashSeed;
  std::vector<std::string> words{"mke2fs",
                                 "-q",
                                 "-F",
                                 "-t",
                                 "ext4",
                                 "-b",
                                 std::to_string(kImageBlock),
                                 "-I",
                                 std::to_string(kInodeBytes),
                                 "-m",
                                 "0",
                                 "-L",
                                 "rootfs",
                                 "-O",
                                 kFeatures,
                                 "-N",
                                 std::to_string(inodes_),
                                 "-E",
                                 extended,
                                 "-d",
                                 tree_};
  if (date_) words.insert(words.end(), {"-U", kFixedUuid});
  words.push_back(workshop_.path("image"));
  words.push_back(std::to_string(summary_.size_bytes / kImageBlock));
  auto made = run(std::move(words), true);
  if (!made) return fail_because(std::move(made).error(), "cannot make the image");
  return {};
}

// A word of debugfs.
std::string debugfs_word(std::string_view word) {
  std::string out = "\"";
  for (const char each : word) out.append(each == '"' ? 2 : 1, each);
  return out + "\"";
}

bool same_content(const std::string& one, const std::string& other) {
  const auto first = base::read_file(one);
  const auto second = base::read_file(other);
  return first && second && *first == *second;
}

// What debugfs is to do after mke2fs, which only copies: put in what every guest needs, and set the times.
Result<std::string> Builder::finishing_script(const Tree& tree) const {
  std::string script;
  const auto exists = [&](const std::string& path) {
    std::error_code error;
    return fs::symlink_status(tree_ + path, error).type() != fs::file_type::not_found;
  };
  const auto add_folder = [&](const std::string& path, std::string_view mode) {
    if (exists(path)) return;
    script += fmt::format("mkdir {0}\nset_inode_field {0} mode {1}\n", path, mode);
  };
  for (const char* const each : {"/dev", "/proc", "/sys", "/run", "/sbin"}) add_folder(each, "040755");
  add_folder("/tmp", "041777");

  const std::string init = fs::absolute(TRY(find_init(request_)));
  const std::string folder = TRY(resolve_in_tree(tree_, "/sbin"));
  const std::string old = folder + "/" + kInitName;
  if (exists("/sbin") && !fs::is_directory(tree_ + folder))
    return fail("/sbin of the source leads to no folder");
  if (!exists(old) || !same_content(tree_ + old, init)) {
    script += "cd " + debugfs_word(folder) + "\n";
    if (exists(old)) script += fmt::format("rm {}\n", kInitName);
    script += fmt::format("write {} {}\n", debugfs_word(init), kInitName);
  }
  script += "cd " + debugfs_word(folder) + "\n";
  for (const char* const field : {"mode 0100755", "uid 0", "gid 0"}) {
    script += fmt::format("set_inode_field {} {}\n", kInitName, field);
  }
  for (const FileOwner& owner : request_.owners) {
    if (owner.path.find('\n') != std::string::npos) continue;  // debugfs has no word for it
    const std::string path = debugfs_word(owner.path);
    script +=
        fmt::format("set_inode_field {0} uid {1}\nset_inode_field {0} gid {2}\n", path, owner.uid, owner.gid);
  }
  if (!date_) return script;
  for (const TreeEntry& entry : tree.entries) {
    if (entry.path.find('\n') != std::string::npos) continue;
    const std::string path = debugfs_word(entry.path);
    for (const char* const field : {"atime", "ctime"}) {
      script += fmt::format("set_inode_field {} {} @{}\n", path, field, *date_);
    }
    if (entry.modified > *date_) script += fmt::format("set_inode_field {} mtime @{}\n", path, *date_);
  }
  return script;
}

Status Builder::finish_file_system(const Tree& tree) {
  const std::string script = TRY(finishing_script(tree));
  TRY(base::write_file_atomically(workshop_.path("script"), script));
  Tool tool{.words = {"debugfs", "-w", "-f", workshop_.path("script"), workshop_.path("image")},
            .environment = {}};
  if (date_) tool.environment.push_back("E2FSPROGS_FAKE_TIME=" + std::to_string(*date_));
  const std::string report = TRY(run_tool(tool, signals_));
  // It always ends with status 0; after its name, what it says are errors.
  const std::size_t errors = report.find('\n');
  if (errors == std::string::npos || errors + 1 >= report.size()) return {};
  if (disk_is_full()) return fail("the disk of {} is full", folder_of(request_.output));
  return fail("cannot complete the image: {}",
              report.substr(errors + 1, report.find('\n', errors + 1) - errors - 1));
}

Result<ImageSummary> Builder::build() {
  TRY(choose_disguise());
  TRY(choose_date());
  tree_ = fs::absolute(request_.source).lexically_normal();
  if (!TRY(source_is_folder(request_.source))) TRY(unpack());
  while (tree_.size() > 1 && tree_.ends_with('/')) tree_.pop_back();
  const Tree tree = TRY(survey_tree(tree_));
  if (tree.entries.empty()) return fail("{} is empty", request_.source);
  TRY(make_file_system(tree));
  TRY(finish_file_system(tree));

  const base::UniqueFd image = TRY(base::open_file(workshop_.path("image"), O_RDONLY));
  struct stat made {};
  if (::fsync(image.get()) != 0 || ::fstat(image.get(), &made) != 0)
    return fail_errno(errno, "write {}", request_.output);
  if (HeldSignals::stop_asked()) return fail("interrupted");
  if (::rename(workshop_.path("image").c_str(), request_.output.c_str()) != 0) {
    return fail_errno(errno, "write {}", request_.output);
  }
  summary_.entries = tree.entries.size();
  summary_.disk_bytes = static_cast<std::uint64_t>(made.st_blocks) * 512;
  return summary_;
}

}  // namespace

Result<ImageSummary> build_image(const ImageRequest& request) {
  const HeldSignals signals;
  return build_image(request, signals);
}

Result<ImageSummary> build_image(const ImageRequest& request, const HeldSignals& signals) {
  TRY(source_is_folder(request.source));
  TRY(check_output(request));
  TRY(find_init(request));
  const Workshop workshop = TRY(Workshop::create(folder_of(request.output)));
  return Builder(request, workshop, signals).build();
}

}  // namespace mayfly::cli
