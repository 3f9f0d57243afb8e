// What mayfly-filter wrote when this was built.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace mayfly::jailer::seccomp {

extern const std::span<const std::uint8_t> kEmbeddedFilters;  // as a filter file; empty: none
extern const std::span<const std::string_view> kCallNames;    // by number; "": there is no such call

}  // namespace mayfly::jailer::seccomp
