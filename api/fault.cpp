#include "api/fault.h"

#include <nlohmann/json.hpp>

#include "base/json.h"

namespace mayfly::api {

std::string fault(std::string_view message) {
  return base::to_text({{"fault_message", message}});
}

}  // namespace mayfly::api
