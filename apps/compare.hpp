#pragma once

namespace CLI {
class App;
}

namespace deepcache::apps {

/// `deepcache compare PACKAGE`: ways of running a model, side by side.
void add_compare(CLI::App& app);

}  // namespace deepcache::apps
