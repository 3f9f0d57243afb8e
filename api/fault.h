// How the control socket says no.
#pragma once

#include <string>
#include <string_view>

namespace mayfly::api {

// {"fault_message": …}
std::string fault(std::string_view message);

}  // namespace mayfly::api
