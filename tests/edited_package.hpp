#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "io/files.hpp"
#include "temporary_folder.hpp"

namespace deepcache {

/// A copy of one of the recorded packages, one of whose JSON files is changed, and so in its manifest.
inline std::filesystem::path edited_package(const TemporaryFolder& folder, const std::string& source,
                                            const std::string& name, const std::function<void(nlohmann::json&)>& edit) {
  const auto package = folder.path() / source;
  std::filesystem::remove_all(package);
  std::filesystem::copy(std::filesystem::path(DEEPCACHE_TEST_DATA) / "packages" / source, package,
                        std::filesystem::copy_options::recursive);
  auto json = read_json(package / name);
  edit(json);
  write_file(package / name, json.dump());
  if (name == "deepcache.json") return package;
  auto manifest = read_json(package / "deepcache.json");
  manifest["files"][name] = {{"bytes", json.dump().size()}, {"sha256", sha256(package / name)}};
  write_file(package / "deepcache.json", manifest.dump());
  return package;
}

}  // namespace deepcache
