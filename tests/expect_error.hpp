#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace deepcache {

/// Expects `act` to throw an `Error` whose message holds every one of `parts`.
template <typename Error, typename Act>
void expect_error(Act act, const std::vector<std::string>& parts) {
  try {
    act();
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    for (const auto& part : parts) EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

}  // namespace deepcache
