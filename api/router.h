// The operations of the control socket, and from a request to what it asks for.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "api/controller.h"
#include "base/result.h"

namespace mayfly::api {

// The content of what is answered; empty: there is none.
struct Answer {
  std::string content{};
  std::string_view type = "application/json";
};

// What is to be done on the loop's thread, with everything checked that can be without the controller. An
// error is the fault's text.
using Task = std::function<base::Result<Answer>(Controller&)>;

// `path`: without escapes and query. An error is the fault's text. Pure.
base::Result<Task> route(std::string_view method, std::string_view path, std::string_view body);

struct Operation {
  std::string_view method;
  std::string_view path;  // a segment "{id}" stands for any name
};
// All there are.
std::vector<Operation> operations();

}  // namespace mayfly::api
