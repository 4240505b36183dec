#include "core/aoti_backend.hpp"

#include <ATen/Version.h>
#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <map>
#include <mutex>
#include <nlohmann/json.hpp>

#include "cpu/processor.hpp"
#include "error.hpp"
#include "io/files.hpp"

namespace deepcache {
namespace {

constexpr int kCompiledFormat = 1;
constexpr const char* kDescription = "extra/deepcache.json";

torch::Dtype dtype_from(const std::string& name, const std::filesystem::path& file) {
  static const std::map<std::string, torch::Dtype> dtypes{
      {"float32", torch::kFloat}, {"bfloat16", torch::kBFloat16}, {"int64", torch::kLong}};
  const auto found = dtypes.find(name);
  check_data(found != dtypes.end(), "{}: an input's dtype must be float32, bfloat16 or int64, got \"{}\"",
             file.string(), name);
  return found->second;
}

Macs macs_from(const nlohmann::json& json) {
  return {.weights = json.at("weights").get<std::int64_t>(), .attention = json.at("attention").get<std::int64_t>()};
}

/// What the exporter says of the file, which is read without running anything of it.
nlohmann::json read_json_record(const std::filesystem::path& file) {
  auto stream = open_file(file);
  try {
    caffe2::serialize::PyTorchStreamReader archive(&stream);
    check_data(archive.hasRecord(kDescription), "{} has no {}: tools/export.py --backend aoti writes it", file.string(),
               kDescription);
    const auto [data, size] = archive.getRecord(kDescription);
    return nlohmann::json::parse(static_cast<const char*>(data.get()), static_cast<const char*>(data.get()) + size);
  } catch (const c10::Error& error) {
    throw std::runtime_error(
        fmt::format("{} isn't a readable .pt2 file: {}", file.string(), error.what_without_backtrace()));
  }
}

std::unique_ptr<torch::inductor::AOTIModelPackageLoader> load(const std::filesystem::path& file, const char* name) {
  static std::mutex mutex;  // LibTorch reads a package's metadata into a static object
  const std::scoped_lock lock(mutex);
  return std::make_unique<torch::inductor::AOTIModelPackageLoader>(file.string(), name);
}

std::string describe(const c10::IValue& value) {
  if (!value.isTensor()) return value.tagKind();
  const auto& tensor = value.toTensor();
  return fmt::format("{} [{}]", c10::toString(tensor.scalar_type()), fmt::join(tensor.sizes(), ", "));
}

}  // namespace

AotiBackend::AotiBackend(const std::filesystem::path& file, torch::Device device, std::optional<torch::Dtype> dtype) {
  try {
    read_description(file, device, dtype);
  } catch (const nlohmann::json::exception& error) {
    throw std::runtime_error(fmt::format("{}: {} is malformed: {}", file.string(), kDescription, error.what()));
  }
  try {
    full_ = load(file, "full");
    shallow_ = load(file, "shallow");
  } catch (const c10::Error& error) {
    throw std::runtime_error(
        fmt::format("{} can't be loaded by this LibTorch: {}", file.string(), error.what_without_backtrace()));
  } catch (const std::exception& error) {
    throw std::runtime_error(fmt::format("{} can't be loaded by this LibTorch: {}", file.string(), error.what()));
  }
}

AotiBackend::~AotiBackend() = default;

void AotiBackend::read_description(const std::filesystem::path& file, torch::Device device,
                                   std::optional<torch::Dtype> dtype) {
  const auto json = read_json_record(file);
  const auto version = json.at("format_version").get<int>();
  check_data(version == kCompiledFormat, "{}: this library reads format {} of compiled UNets, got {}; export it again",
             file.string(), kCompiledFormat, version);
  check_argument(device.is_cpu(), "{} was compiled for the device \"cpu\", got \"{}\"", file.string(), device.str());
  const auto processor = json.at("cpu_capability").get<std::string>();
  check_data(processor == at::get_cpu_capability(),
             "{} was compiled for a processor with {}, this one has {}: export it on a machine of this kind",
             file.string(), processor, at::get_cpu_capability());
  for (const auto& name : json.at("instructions"))
    check_data(cpu::has_instructions(name.get<std::string>()),
               "{} was compiled for a processor with {}, which this one lacks: export it on a machine of this kind",
               file.string(), name.get<std::string>());

  cache_branch_id_ = json.at("cache_branch_id").get<std::int64_t>();
  for (const auto& input : json.at("inputs"))
    inputs_.push_back({.name = input.at("name").get<std::string>(),
                       .dtype = dtype_from(input.at("dtype").get<std::string>(), file),
                       .shape = input.at("shape").get<std::vector<std::int64_t>>()});
  const auto num_branches = static_cast<std::int64_t>(json.at("branches").size());
  check_data(!inputs_.empty() && cache_branch_id_ >= 0 && cache_branch_id_ < num_branches,
             "{}: {} is malformed: {} inputs, branch {} of {}", file.string(), kDescription, inputs_.size(),
             cache_branch_id_, num_branches);
  const auto compute = inputs_[0].dtype;
  check_argument(!dtype || *dtype == compute, "{} was compiled for {}, got {}: a compiled UNet keeps its dtype",
                 file.string(), c10::toString(compute), c10::toString(dtype.value_or(compute)));

  for (const auto& branch : json.at("branches")) {
    auto shape = branch.at("feature_shape").get<std::vector<std::int64_t>>();
    const auto bytes = c10::multiply_integers(shape) * static_cast<std::int64_t>(c10::elementSize(compute));
    branch_names_.push_back(branch.at("name").get<std::string>());
    branches_.push_back({.cache_branch_id = static_cast<std::int64_t>(branches_.size()),
                         .name = branch_names_.back(),
                         .feature_shape = std::move(shape),
                         .feature_bytes = bytes,
                         .full_step = macs_from(json.at("full_step")),
                         .cached_step = macs_from(branch.at("cached_step"))});
  }
}

void AotiBackend::prepare_branch(std::int64_t cache_branch_id) const {
  check_argument(cache_branch_id == cache_branch_id_,
                 "this UNet was compiled with cache_branch_id {} (\"{}\") alone, got {}; the traced one has all",
                 cache_branch_id_, branch_names_.at(static_cast<std::size_t>(cache_branch_id_)), cache_branch_id);
}

void AotiBackend::check_inputs(const std::vector<c10::IValue>& inputs) const {
  check_argument(inputs.size() == inputs_.size(), "the UNet takes {} inputs ({}), got {}", inputs_.size(),
                 fmt::join(input_names(), ", "), inputs.size());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const auto& [name, dtype, shape] = inputs_[i];
    const auto fits = [&](const torch::Tensor& tensor) {
      // A number's dtype doesn't matter: timesteps are int64 in some schedulers, and float32 in others.
      return tensor.sizes() == shape && (tensor.scalar_type() == dtype || shape.empty());
    };
    check_argument(inputs[i].isTensor() && fits(inputs[i].toTensor()),
                   "this UNet was compiled for \"{}\" {} [{}] alone, got {}; the traced one takes all sizes", name,
                   c10::toString(dtype), fmt::join(shape, ", "), describe(inputs[i]));
  }
}

std::vector<torch::Tensor> AotiBackend::tensors(const std::vector<c10::IValue>& inputs) const {
  std::vector<torch::Tensor> result;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const auto& tensor = inputs[i].toTensor();
    // The compiled code would read the memory of whatever it is given.
    check_argument(tensor.device().is_cpu(), "the UNet was compiled for the device \"cpu\"; \"{}\" is on \"{}\"",
                   inputs_[i].name, tensor.device().str());
    result.push_back(tensor.to(inputs_[i].dtype).contiguous());
  }
  return result;
}

c10::IValue AotiBackend::run(std::vector<c10::IValue> inputs, Conditioning& conditioning) const {
  return run_full(std::move(inputs), conditioning, cache_branch_id_).output;
}

Backend::FullResult AotiBackend::run_full(std::vector<c10::IValue> inputs, Conditioning& /*conditioning*/,
                                          std::int64_t cache_branch_id) const {
  prepare_branch(cache_branch_id);
  const torch::NoGradGuard no_grad;
  auto outputs = full_->boxed_run(tensors(inputs));
  return {outputs.at(0), outputs.at(1).contiguous()};
}

c10::IValue AotiBackend::run_shallow(std::vector<c10::IValue> inputs, Conditioning& /*conditioning*/,
                                     const torch::Tensor& feature, std::int64_t cache_branch_id) const {
  prepare_branch(cache_branch_id);
  const torch::NoGradGuard no_grad;
  auto all = tensors(inputs);
  all.push_back(feature);
  return shallow_->boxed_run(std::move(all)).at(0);
}

std::vector<std::string> AotiBackend::input_names() const {
  std::vector<std::string> names;
  for (const auto& input : inputs_) names.push_back(input.name);
  return names;
}

std::vector<BranchProfile> AotiBackend::profile(const std::vector<c10::IValue>&,
                                                const std::vector<std::int64_t>& branches) const {
  std::vector<BranchProfile> profiles;
  for (const auto branch : branches) profiles.push_back(branches_.at(static_cast<std::size_t>(branch)));
  return profiles;
}

std::shared_ptr<const Backend> AotiBackend::with_controlnets(const std::vector<torch::jit::Module>& controlnets) const {
  throw std::invalid_argument(
      fmt::format("ControlNets become part of a traced UNet, and this one is compiled: allowed are none, got {}",
                  controlnets.size()));
}

}  // namespace deepcache
