#pragma once

namespace CLI {
class App;
}

namespace deepcache::apps {

/// `deepcache generate`: paints with any package.
void add_generate(CLI::App& app);

}  // namespace deepcache::apps
