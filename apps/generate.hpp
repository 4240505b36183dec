#pragma once

namespace CLI {
class App;
}

namespace deepcache::apps {

/// `deepcache generate`: paints with any package of a Stable Diffusion family.
void add_generate(CLI::App& app);

}  // namespace deepcache::apps
