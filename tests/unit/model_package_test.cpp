#include "models/model_package.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "deepcache/stable_diffusion.hpp"
#include "expect_error.hpp"
#include "io/files.hpp"
#include "temporary_folder.hpp"

namespace deepcache::model_package_test {
namespace {

namespace fs = std::filesystem;

/// A copy of a good package to spoil.
class ModelPackageTest : public testing::Test {
 protected:
  ModelPackageTest() {
    fs::copy(fs::path(DEEPCACHE_TEST_DATA) / "packages/one_layer", folder_.path(),
             fs::copy_options::recursive | fs::copy_options::overwrite_existing);
  }
  fs::path operator/(const char* name) const { return folder_.path() / name; }

  void edit_manifest(const std::function<void(nlohmann::json&)>& edit) const {
    auto manifest = read_json(*this / "deepcache.json");
    edit(manifest);
    write_file(*this / "deepcache.json", manifest.dump());
  }
  /// Puts the present file into the manifest, so that what is in it comes to be read.
  void accept(const char* name) const {
    edit_manifest([&](auto& manifest) {
      manifest["files"][name] = {{"bytes", fs::file_size(*this / name)}, {"sha256", sha256(*this / name)}};
    });
  }
  void expect_refused(const std::vector<std::string>& parts) const {
    expect_error<std::runtime_error>([&] { StableDiffusionPipeline::load(folder_.path()); }, parts);
  }

 private:
  TemporaryFolder folder_;
};

TEST_F(ModelPackageTest, GoodPackage) {
  const ModelPackage package(*this / "");
  EXPECT_EQ(package.family(), "stable-diffusion");
  EXPECT_EQ(package.dtype(), torch::kFloat);
  for (const auto& weight : package.network("unet/model.pt").parameters())  // stored in half the bytes
    EXPECT_EQ(weight.scalar_type(), torch::kFloat);
}

TEST_F(ModelPackageTest, NoPackage) {
  expect_error<std::runtime_error>([&] { ModelPackage(*this / "absent"); }, {"no such folder", "absent"});
  fs::remove(*this / "deepcache.json");
  expect_refused({"is no model package", "tools/export.py"});
}

TEST_F(ModelPackageTest, ManifestsThatCannotBeUsed) {
  const auto original = read_file(*this / "deepcache.json");
  const auto refuse = [&](const std::function<void(nlohmann::json&)>& edit, const std::vector<std::string>& parts) {
    edit_manifest(edit);
    expect_refused(parts);
    write_file(*this / "deepcache.json", original);
  };
  refuse([](auto& json) { json["format_version"] = 1; }, {"reads package format 2, got 1", "export the model again"});
  refuse([](auto& json) { json["dtype"] = "int8"; }, {"float32, float16 or bfloat16, got \"int8\""});
  refuse([](auto& json) { json["family"] = "svd"; }, {"family \"svd\"", "runs stable-diffusion, stable-diffusion-xl"});
  refuse([](auto& json) { json.erase("files"); }, {"malformed", "files"});
  refuse([](auto& json) { json["files"].erase("unet/model.pt"); }, {"lists no unet/model.pt"});
  write_file(*this / "deepcache.json", "{");
  expect_refused({"isn't valid JSON"});
}

TEST_F(ModelPackageTest, MissingTruncatedOrChangedFiles) {
  for (const char* name : {"unet/model.pt", "text_encoder/model.pt", "vae/decoder.pt", "tokenizer/vocab.json",
                           "tokenizer/merges.txt", "scheduler/scheduler_config.json", "unet/config.json"}) {
    const auto original = read_file(*this / name);
    fs::remove(*this / name);
    expect_refused({"no such file", name});
    write_file(*this / name, original.substr(0, original.size() / 2));
    expect_refused({name, "is damaged: it has"});
    auto changed = original;
    changed[changed.size() / 2] = static_cast<char>(changed[changed.size() / 2] ^ 1);
    write_file(*this / name, changed);
    expect_refused({name, "SHA-256"});
    write_file(*this / name, original);
  }
}

TEST_F(ModelPackageTest, TokenizerFilesThatTheManifestDoesNotKnow) {
  write_file(*this / "tokenizer/added_tokens.json", "{\"<new>\": 7}");
  expect_refused({"lists no tokenizer/added_tokens.json"});
  accept("tokenizer/added_tokens.json");
  write_file(*this / "tokenizer/added_tokens.json", "{\"<new>\": 8}");
  expect_refused({"added_tokens.json", "SHA-256"});
}

TEST_F(ModelPackageTest, FilesThatTheManifestAcceptsButNobodyCanRead) {
  const auto refuse = [&](const char* name, const std::string& content, const std::vector<std::string>& parts) {
    const auto original = read_file(*this / name);
    write_file(*this / name, content);
    accept(name);
    expect_refused(parts);
    write_file(*this / name, original);
    accept(name);
  };
  refuse("unet/model.pt", "hello", {"unet", "isn't a readable TorchScript file"});
  refuse("unet/config.json", "{}", {"unet/config.json: the setting \"in_channels\" is missing"});
  refuse("vae/config.json", R"({"block_out_channels": [], "latent_channels": 4, "scaling_factor": 1})",
         {"vae/config.json: the setting \"block_out_channels\" is []"});
  refuse(
      "vae/config.json",
      R"({"block_out_channels": [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], "latent_channels": 4, "scaling_factor": 1})",
      {"1 to 15 entries, got 16"});
  refuse("vae/config.json", "[]", {"vae/config.json: a configuration must be a JSON object, not array"});
  refuse("text_encoder/config.json", R"({"num_hidden_layers": 0})", {"text_encoder/config.json", "num_hidden_layers"});
  refuse("tokenizer/merges.txt", "#version: 0.2\nzz qq\n", {"vocab and merges disagree", "merges.txt", "'qq'"});
  refuse("scheduler/scheduler_config.json", R"({"_class_name": "NewScheduler"})", {"NewScheduler"});
}

}  // namespace
}  // namespace deepcache::model_package_test
