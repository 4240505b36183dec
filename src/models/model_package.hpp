#pragma once

#include <torch/types.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include "core/torchscript.hpp"
#include "io/config_reader.hpp"
#include "io/files.hpp"

namespace deepcache {

/// A folder that tools/export.py wrote (docs/export.md). Files are checked against the manifest when they are opened.
class ModelPackage {
 public:
  /// Reads deepcache.json.
  /// @throws std::runtime_error if it is missing or malformed, of another format version, or names an unknown dtype.
  explicit ModelPackage(std::filesystem::path folder);

  const std::string& family() const { return family_; }
  /// That the networks run in.
  torch::Dtype dtype() const { return dtype_; }

  /// That one of them runs in, where it needs another. @throws std::runtime_error if it isn't in the manifest.
  torch::Dtype dtype(const std::string& name) const;

  /// The path of one of the package's files, such as "unet/config.json".
  /// @throws std::runtime_error if it isn't in the manifest, is missing, or has another size or SHA-256 than it says.
  std::filesystem::path file(const std::string& name) const;

  /// The path of one of the package's folders, such as "tokenizer", whose files somebody else will read.
  /// @throws std::runtime_error as `file` for each of its files; JSON files must all be in the manifest.
  std::filesystem::path folder(const std::string& name) const;

  bool has(const std::string& name) const { return files_.contains(name); }

  /// What `function` makes of one of the package's JSON files, read as diffusers' configurations are.
  /// @throws std::runtime_error as `file`, or naming the file and the setting that isn't as it should be.
  template <typename Function>
  auto read(const std::string& name, const Function& function) const {
    const auto path = file(name);
    const auto json = read_json(path);
    try {
      return function(ConfigReader(json));
    } catch (const std::runtime_error& error) {
      throw std::runtime_error(path.string() + ": " + error.what());
    }
  }

  /// A network, on the CPU, weights in `dtype(name)`. @throws std::runtime_error as `file`, or if it can't be read.
  torch::jit::Module network(const std::string& name) const;

 private:
  struct Entry {
    std::uint64_t bytes = 0;
    std::string sha256;
    torch::Dtype dtype = torch::kFloat;
  };
  const Entry& entry(const std::string& name) const;

  std::filesystem::path folder_;
  std::string family_;
  torch::Dtype dtype_ = torch::kFloat;
  std::map<std::string, Entry> files_;
};

}  // namespace deepcache
