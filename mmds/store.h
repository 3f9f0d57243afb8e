// The metadata itself: one JSON object, which the host writes and the guest reads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "base/result.h"

namespace mayfly::mmds {

inline constexpr std::size_t kDefaultSizeLimit = 51200;

enum class Format : std::uint8_t {
  kJson,  // any value, as JSON
  kImds,  // an object is its keys, one a line, those of objects with a / behind; a string is its text
};

enum class Missing : std::uint8_t {
  kNotFound,     // there is nothing at that path
  kUnsupported,  // there is, but the format has no form for it
};

// Any thread.
class Store {
 public:
  // `size_limit`: bytes of the whole as JSON without blanks.
  explicit Store(std::size_t size_limit = kDefaultSizeLimit);
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  // Replaces all of it. An error (no JSON object, nested too deeply, larger than the limit) changes nothing.
  base::Status put(std::string_view text);
  // Applies a JSON merge patch (RFC 7396), an object. Errors as above, and where nothing was put yet.
  base::Status patch(std::string_view text);
  // All of it as JSON; "{}" before the first put().
  [[nodiscard]] std::string get() const;

  // The value at `path`: keys, or indices of arrays, with any number of / before, between and after. In a
  // key, ~1 stands for / and ~0 for ~ (as in RFC 6901).
  [[nodiscard]] std::expected<std::string, Missing> find(std::string_view path, Format format) const;

 private:
  base::Status replace(nlohmann::json value);

  const std::size_t size_limit_;
  mutable std::mutex mutex_;
  std::unique_ptr<nlohmann::json> value_;  // null: nothing was put yet
};

}  // namespace mayfly::mmds
