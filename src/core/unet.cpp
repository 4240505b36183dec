#include "deepcache/unet.hpp"

#include <numeric>

#include "core/aoti_backend.hpp"
#include "core/torchscript_backend.hpp"
#include "core/unet_impl.hpp"
#include "cpu/operators.hpp"
#include "error.hpp"

namespace deepcache {

UNet::UNet(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

UNet::UNet(const torch::jit::Module& module)
    : UNet(std::make_shared<Impl>(Impl{.backend = std::make_shared<TorchScriptBackend>(module, std::nullopt)})) {}

std::shared_ptr<UNet::Impl> UNet::Impl::with(std::shared_ptr<const Backend> other) const {
  const auto device = other->device();
  return std::make_shared<Impl>(
      Impl{.backend = std::move(other), .recorder = recorder ? make_recorder(device) : nullptr});
}

void check_compute_dtype(std::optional<torch::Dtype> dtype) {
  check_argument(!dtype || *dtype == torch::kFloat || *dtype == torch::kBFloat16 || *dtype == torch::kHalf,
                 "compute_dtype must be float32, bfloat16 or float16, got {}",
                 c10::toString(dtype.value_or(torch::kFloat)));
}

std::optional<torch::Dtype> fastest_dtype(torch::Device device) {
  if (!device.is_cpu()) return std::nullopt;
  return cpu::has_kernels(torch::kBFloat16) ? torch::kBFloat16 : torch::kFloat;
}

UNet UNet::load(const std::filesystem::path& file, torch::Device device, std::optional<torch::Dtype> dtype) {
  return load(file, UNetOptions{.device = device, .dtype = dtype});
}

UNet UNet::load(const std::filesystem::path& file, const UNetOptions& options) {
  check_device(options.device);
  check_compute_dtype(options.compute_dtype);
  if (file.extension() == ".pt2") {
    check_argument(options.trust_native_code,
                   "{} holds native code, which can do all that this program can: it is loaded only where "
                   "trust_native_code (--trust-native-code) says that the file comes from somebody whom you trust",
                   file.string());
    check_argument(!options.cuda_graphs,
                   "cuda_graphs must be false for a *.pt2, which runs on the CPU, got true for {}", file.string());
    const auto dtype = options.compute_dtype ? options.compute_dtype : options.dtype;
    return UNet(std::make_shared<Impl>(Impl{.backend = std::make_shared<AotiBackend>(file, options.device, dtype)}));
  }
  std::shared_ptr<Recorder> recorder = options.cuda_graphs ? make_recorder(options.device) : nullptr;
  auto module = load_module(file, options.dtype);
  try {
    return UNet(std::make_shared<Impl>(
        Impl{.backend = std::make_shared<TorchScriptBackend>(std::move(module), options.device, options.compute_dtype),
             .recorder = std::move(recorder)}));
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(fmt::format("{}: {}", file.string(), error.what()));
  }
}

UNet UNet::share_weights() const {
  return UNet(impl_->with(impl_->backend));
}

UNet UNet::with_controlnets(const std::vector<torch::jit::Module>& controlnets) const {
  return UNet(impl_->with(impl_->backend->with_controlnets(controlnets)));
}

UNet UNet::with_controlnet_files(const std::vector<std::filesystem::path>& files,
                                 std::optional<torch::Dtype> dtype) const {
  std::vector<torch::jit::Module> controlnets;
  std::vector<std::string> names;
  for (const auto& file : files) {
    controlnets.push_back(load_module(file, dtype));
    names.push_back(file.string());
  }
  try {
    return with_controlnets(controlnets);
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(fmt::format("{}: {}", fmt::join(names, ", "), error.what()));
  }
}

c10::IValue UNet::forward(std::vector<c10::IValue> inputs) const {
  if (impl_->hook != nullptr) return impl_->hook->forward(std::move(inputs));
  impl_->backend->check_inputs(inputs);
  Conditioning unused;
  return impl_->backend->run(std::move(inputs), unused);
}

void UNet::begin_run(const torch::Tensor& timesteps, const RunTraits& traits) const {
  if (impl_->hook == nullptr) return;
  if (!timesteps.defined()) return impl_->hook->begin_run({}, traits);
  check_argument(timesteps.dim() == 1, "timesteps must be [N], got {} dimensions", timesteps.dim());
  const auto schedule = timesteps.to(torch::kCPU, torch::kDouble).contiguous();
  impl_->hook->begin_run({schedule.data_ptr<double>(), static_cast<std::size_t>(schedule.numel())}, traits);
}

std::vector<std::string> UNet::input_names() const {
  return impl_->backend->input_names();
}

std::int64_t UNet::num_branches() const {
  return static_cast<std::int64_t>(impl_->backend->branch_names().size());
}

std::vector<std::string> UNet::branch_names() const {
  return impl_->backend->branch_names();
}

std::vector<BranchProfile> UNet::profile(const std::vector<c10::IValue>& inputs) const {
  impl_->backend->check_inputs(inputs);
  std::vector<std::int64_t> branches(static_cast<std::size_t>(num_branches()));
  std::iota(branches.begin(), branches.end(), 0);
  return impl_->backend->profile(inputs, branches);
}

torch::Device UNet::device() const {
  return impl_->backend->device();
}

torch::Tensor UNet::first_tensor(const c10::IValue& output) {
  return deepcache::first_tensor(output);
}

}  // namespace deepcache
