// The registers of a 16550, by the names of its data sheet.
#pragma once

#include <cstdint>

namespace mayfly::test {

enum UartRegister : std::uint64_t { kData, kIer, kIir, kLcr, kMcr, kLsr, kMsr, kScr };

}  // namespace mayfly::test
