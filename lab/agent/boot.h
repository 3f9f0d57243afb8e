// Making the emulated host: from the kernel's first user process to a system that looks like the one outside.
#pragma once

#include <string>

namespace lab {

// A value of `key=value` on the kernel's command line, %XX decoded; "" when it is not there.
std::string boot_option(const std::string& key);

// Loads drivers, mounts the outside's root under a scratch layer, moves into it, and mounts what a host has mounted.
// Any failure ends the lab with a line on the console.
void boot();

}  // namespace lab
