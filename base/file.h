// Whole files, and whole reads and writes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace mayfly::base {

// The N of "/dev/fd/N": a descriptor that this process was started with, such as one passed into a jail.
std::optional<int> passed_descriptor(std::string_view path);

// open(2) with O_CLOEXEC; the error names the path. A passed descriptor is duplicated instead, which works
// without /proc and whatever file it is; it must be open for the access that is asked for.
Result<UniqueFd> open_file(const std::string& path, int flags, unsigned mode = 0600);

// What lines are added to without ever waiting: a file (made if missing, appended to) or a FIFO (opened
// without a reader, which may come later). The descriptor does not block; the error names the path.
Result<UniqueFd> open_to_append(const std::string& path);

// All bytes of a file of at most `limit` bytes.
Result<std::string> read_file(const std::string& path, std::size_t limit = 16U << 20U);

// Fills `out` from `offset`; a file that ends early is an error.
Status read_exactly_at(int fd, std::span<std::byte> out, std::uint64_t offset);

// Writes all of it to a blocking fd.
Status write_all(int fd, std::span<const std::byte> bytes);
Status write_all(int fd, std::string_view text);

// Replaces `path` by way of a temporary name in the same folder, synced, then renamed.
Status write_file_atomically(const std::string& path, std::string_view content, unsigned mode = 0644);

// The folder that the running program's executable is in.
Result<std::string> executable_folder();

}  // namespace mayfly::base
