#include "models/model_package.hpp"

#include <nlohmann/json.hpp>

#include "error.hpp"
#include "io/files.hpp"

namespace deepcache {
namespace {

constexpr const char* kManifest = "deepcache.json";
constexpr int kPackageFormat = 2;

torch::Dtype dtype_from(const std::string& name, const std::filesystem::path& manifest) {
  static const std::map<std::string, torch::Dtype> dtypes{
      {"float32", torch::kFloat}, {"float16", torch::kHalf}, {"bfloat16", torch::kBFloat16}};
  const auto found = dtypes.find(name);
  check_data(found != dtypes.end(), "{}: dtype must be float32, float16 or bfloat16, got \"{}\"", manifest.string(),
             name);
  return found->second;
}

}  // namespace

ModelPackage::ModelPackage(std::filesystem::path folder) : folder_(std::move(folder)) {
  const auto manifest = folder_ / kManifest;
  check_data(std::filesystem::is_directory(folder_), "no such folder: {}", folder_.string());
  check_data(std::filesystem::exists(manifest), "{} is no model package: it has no {}; tools/export.py makes packages",
             folder_.string(), kManifest);
  const auto json = read_json(manifest);
  try {
    const auto version = json.at("format_version").get<int>();
    check_data(version == kPackageFormat, "{}: this library reads package format {}, got {}; export the model again",
               manifest.string(), kPackageFormat, version);
    family_ = json.at("family").get<std::string>();
    dtype_ = dtype_from(json.at("dtype").get<std::string>(), manifest);
    for (const auto& [name, entry] : json.at("files").items())
      files_[name] = {
          .bytes = entry.at("bytes").get<std::uint64_t>(),
          .sha256 = entry.at("sha256").get<std::string>(),
          .dtype = entry.contains("dtype") ? dtype_from(entry["dtype"].get<std::string>(), manifest) : dtype_};
  } catch (const nlohmann::json::exception& error) {
    throw std::runtime_error(fmt::format("{} is malformed: {}", manifest.string(), error.what()));
  }
}

const ModelPackage::Entry& ModelPackage::entry(const std::string& name) const {
  const auto found = files_.find(name);
  check_data(found != files_.end(), "{} lists no {}: the package is of another family, or incomplete",
             (folder_ / kManifest).string(), name);
  return found->second;
}

std::filesystem::path ModelPackage::file(const std::string& name) const {
  const auto& listed = entry(name);
  const auto path = folder_ / name;
  check_data(std::filesystem::is_regular_file(path), "no such file: {}", path.string());
  const auto bytes = std::filesystem::file_size(path);
  check_data(bytes == listed.bytes, "{} is damaged: it has {} bytes, the manifest says {}", path.string(), bytes,
             listed.bytes);
  check_data(sha256(path) == listed.sha256, "{} is damaged: its SHA-256 isn't the manifest's", path.string());
  return path;
}

std::filesystem::path ModelPackage::folder(const std::string& name) const {
  const auto path = folder_ / name;
  for (const auto& [listed, entry] : files_)
    if (listed.starts_with(name + "/")) file(listed);
  if (std::filesystem::is_directory(path))
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      const auto present = name + "/" + entry.path().filename().string();
      if (entry.path().extension() == ".json" && !has(present)) file(present);  // refuses it
    }
  return path;
}

torch::jit::Module ModelPackage::network(const std::string& name) const {
  return load_module(file(name), dtype(name));
}

torch::Dtype ModelPackage::dtype(const std::string& name) const {
  return entry(name).dtype;
}

}  // namespace deepcache
