// Words for whoever reads the machine's console.
#pragma once

#include <initializer_list>
#include <string_view>

namespace mayfly::init {

// One line, with our name before it. Each byte is an exit from the guest: for trouble only.
void complain(std::initializer_list<std::string_view> parts);

// The same with the text of an errno value behind it.
void complain_errno(int error, std::initializer_list<std::string_view> parts);

}  // namespace mayfly::init
