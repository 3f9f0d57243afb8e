// The file systems of the guest.
#pragma once

namespace mayfly::init {

enum class RootMode {
  kAsIs,      // as the kernel mounted it
  kScratch,   // an overlay: writes go to memory and are gone with the machine
  kReadOnly,  // writes fail; /tmp and /run are in memory
  kWritable,  // writes go to the drive
};

// Makes standard input, output and error exist, on /dev/console if there is one, so that no later descriptor
// becomes one of them.
void open_standard_streams();

// Puts the root into its mode and mounts what programs expect: /proc, /sys, /dev and what is in it, /run,
// /tmp, cgroups. What an image has no mount point for is left out, with a word on the console if programs
// will miss it. False when the root itself could not be put into its mode.
bool mount_all(RootMode mode);

}  // namespace mayfly::init
