#pragma once

namespace CLI {
class App;
}

namespace deepcache::apps {

/// `deepcache inspect PACKAGE|FILE.pt`: what each branch of a UNet would hold and save.
void add_inspect(CLI::App& app);

}  // namespace deepcache::apps
