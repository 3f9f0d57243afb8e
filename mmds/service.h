// What the metadata service answers to a request.
#pragma once

#include <memory>

#include "base/result.h"
#include "mmds/clock.h"
#include "mmds/config.h"
#include "mmds/http.h"
#include "mmds/metrics.h"
#include "mmds/store.h"
#include "mmds/tokens.h"

namespace mayfly::mmds {

// One for a machine, for all interfaces that it is reached by. Any thread.
class Service {
 public:
  // `store` is not null.
  static base::Result<std::shared_ptr<Service>> create(Config config, std::shared_ptr<Store> store);

  [[nodiscard]] const Config& config() const { return config_; }

  // `metrics`: the token counters.
  [[nodiscard]] Response answer(const Request& request, Time now, Metrics& metrics) const;

 private:
  Service(Config config, std::shared_ptr<Store> store, Tokens tokens)
      : config_(std::move(config)), store_(std::move(store)), tokens_(tokens) {}
  [[nodiscard]] Response get(const Request& request, Time now, Metrics& metrics) const;
  [[nodiscard]] Response put(const Request& request, Time now) const;

  const Config config_;
  const std::shared_ptr<Store> store_;
  const Tokens tokens_;
};

}  // namespace mayfly::mmds
