// Errors as values: every function of ours that can fail returns Result<T>.
#pragma once

#include <fmt/format.h>

#include <cstring>
#include <expected>
#include <string>
#include <utility>

namespace mayfly::base {

// What went wrong, in words a person can act on. `code` is an errno value, or 0 where none applies.
struct Error {
  int code = 0;
  std::string message;
};

template <typename T>
using Result = std::expected<T, Error>;
using Status = Result<void>;

// fail("drive {}: not a regular file", path): an error that no system call reported.
template <typename... Args>
[[nodiscard]] std::unexpected<Error> fail(fmt::format_string<Args...> format, Args&&... args) {
  return std::unexpected(Error{0, fmt::format(format, std::forward<Args>(args)...)});
}

// fail_errno(errno, "open {}", path): the text of the errno value is appended after a colon.
template <typename... Args>
[[nodiscard]] std::unexpected<Error> fail_errno(int code, fmt::format_string<Args...> format,
                                                Args&&... args) {
  std::string message = fmt::format(format, std::forward<Args>(args)...);
  message += ": ";
  message += strerrordesc_np(code) != nullptr ? strerrordesc_np(code) : "unknown error";
  return std::unexpected(Error{code, std::move(message)});
}

// The same error with what was being attempted put before it.
template <typename... Args>
[[nodiscard]] std::unexpected<Error> fail_because(Error cause, fmt::format_string<Args...> format,
                                                  Args&&... args) {
  cause.message = fmt::format(format, std::forward<Args>(args)...) + ": " + cause.message;
  return std::unexpected(std::move(cause));
}

template <typename T>
T take(Result<T>&& result) {
  return std::move(*result);
}
inline void take(Status&&) {}

}  // namespace mayfly::base

// The value of a Result, or return its error from the enclosing function.
#define TRY(...)                                                                          \
  __extension__({                                                                         \
    auto mayfly_try_result = (__VA_ARGS__);                                               \
    if (!mayfly_try_result) return std::unexpected(std::move(mayfly_try_result).error()); \
    ::mayfly::base::take(std::move(mayfly_try_result));                                   \
  })
