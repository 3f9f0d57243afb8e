// Making the emulated host: from the kernel's first user process to a system that looks like the one outside.
#pragma once

#include <string>

namespace lab {

struct Configuration {
  int slots = 0;
  std::string results;  // the folder that reaches the outside
  std::string modules;  // where the modules of the lab's kernel lie outside
};

// What can be done before the outside is known: drivers and CPUs. The lab is saved after this, and every lab
// starts there. Any failure ends the lab with a line on the console.
void boot_machine();

// Waits for the keeper to say what this lab is to be.
Configuration receive_configuration();

// Mounts the outside's root under a scratch layer, moves into it, and mounts what a host has mounted.
void enter_outside(const Configuration& configuration);

}  // namespace lab
