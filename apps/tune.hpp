#pragma once

namespace CLI {
class App;
}

namespace deepcache::apps {

/// `deepcache tune PACKAGE`: finds which steps to compute in full.
/// @param exit_code  becomes 3 if what was asked for can't be reached
void add_tune(CLI::App& app, int& exit_code);

}  // namespace deepcache::apps
