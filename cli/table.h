// Columns of text for people.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mayfly::cli {

// Rows as lines, columns as wide as their widest cell and two blanks between them; the first row is the
// heading. Cells are printable UTF-8. A column whose name in `right` is true stands on the right.
std::string as_columns(const std::vector<std::vector<std::string>>& rows,
                       const std::vector<bool>& right = {});

// "1.5 MiB", "640 KiB", "12 B".
std::string as_amount(std::uint64_t bytes);

// "12 s", "3 min 5 s", "2 h 10 min", "4 d 3 h".
std::string as_span(std::uint64_t seconds);

// Words as a shell would take them back, control characters as "?", cut off after `limit` characters.
std::string as_command(const std::vector<std::string>& words, std::size_t limit);

}  // namespace mayfly::cli
