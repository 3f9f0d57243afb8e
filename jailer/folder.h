// The jail's folder on the host: BASE/NAME/ID/root, and what is put into it.
#pragma once

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "jailer/options.h"
#include "jailer/undo.h"

namespace mayfly::jailer {

// An executable that was looked at: a regular file, not a symbolic link, that only its owner may change, and
// that needs no other file to run.
base::Result<base::UniqueFd> open_executable(const std::string& path);

class Folder {
 public:
  // Makes what is missing of BASE/NAME/ID/root. Each of these below BASE is a real folder that belongs to the
  // caller and that nobody else may change; root may be there already, with files in it. What is made is
  // noted in `undo`.
  static base::Result<Folder> create(const Options& options, Undo& undo);

  [[nodiscard]] int root() const { return root_.get(); }
  [[nodiscard]] int own() const { return own_.get(); }  // BASE/NAME/ID
  [[nodiscard]] const std::string& path() const { return path_; }
  // The copied executable, to be executed by this descriptor.
  [[nodiscard]] int executable() const { return executable_.get(); }
  [[nodiscard]] bool executable_in_memory() const { return noexec_; }

  // Each of these fails where the jail has the node already: it is another's, or is left from one.
  // A copy of the executable of its own (so that no two VMs share its pages), which nobody in the jail can
  // read or change. Where the folder is on a mount from which nothing may be executed (noexec, as /run often
  // is), the copy is a sealed file in memory (memfd_create(2)) and the jail has no file of it.
  base::Status copy_executable(int source, const Options& options, Undo& undo);
  // /dev with kvm, net/tun and, where the host has it, userfaultfd. Owned by uid:gid, as nodes with the
  // host's device numbers; or with Nodes::kPlaces
  // empty files, for mounts on top, of those that the caller may use.
  enum class Nodes { kDevices, kPlaces };
  base::Status make_devices(const Options& options, Nodes nodes, Undo& undo);
  // /run, where the VMM may put its sockets, unless it is there already.
  base::Status make_run_folder(const Options& options, Undo& undo);
  // An empty file of the jailer's own in `folder` (root() or own()), open for writing.
  [[nodiscard]] base::Result<base::UniqueFd> make_file(int folder, const std::string& name, unsigned mode,
                                                       const Options& options, Undo& undo) const;

 private:
  std::string path_;
  base::UniqueFd own_;
  base::UniqueFd root_;
  base::UniqueFd executable_;
  bool noexec_ = false;
};

// A device of the host that a jail gets.
struct Device {
  const char* host;    // its path on the host, and in the jail
  const char* folder;  // where it is in the jail, below /dev; empty: /dev itself
  const char* name;
  bool needed;  // without it, there is no jail
};
inline constexpr Device kDevices[] = {
    {"/dev/kvm", "", "kvm", true},
    {"/dev/net/tun", "net", "tun", false},           // a VM without a network needs none
    {"/dev/userfaultfd", "", "userfaultfd", false},  // for snapshots whose memory another process serves
};

}  // namespace mayfly::jailer
