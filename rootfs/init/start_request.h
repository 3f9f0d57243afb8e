// What the host asks to be run, taken out of the body of a kStart frame.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rootfs/init/buffer.h"

namespace mayfly::init {

struct StartRequest {
  bool tty = false;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::uint16_t rows = 0;
  std::uint16_t columns = 0;
  const char* directory = "/";
  // As execve(2) wants them. There is room for one pointer before `arguments` and for kSpareVariables more in
  // `environment`.
  char** arguments = nullptr;
  char** environment = nullptr;
  std::size_t environment_count = 0;

  static constexpr std::size_t kSpareVariables = 3;

  // The value of a variable, or nullptr.
  [[nodiscard]] const char* variable(const char* name) const;

  Buffer body;      // holds the strings
  Buffer pointers;  // holds the two tables
};

// False when the body is not what base/agent_protocol.h says, or memory is short. Takes the body over.
bool parse_start(Buffer body, StartRequest& request);

}  // namespace mayfly::init
