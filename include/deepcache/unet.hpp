#pragma once

#include <ATen/core/ivalue.h>
#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace torch::jit {
struct Module;
}

/// A traced UNet, ready to be cached.
///
///   auto unet = deepcache::UNet::load("unet.pt", torch::kCUDA);
///   torch::Tensor noise = unet(latents, timestep, text_embeddings);
///   for (const auto& place : unet.profile({latents, timestep, text_embeddings}))
///     std::cout << place.name << ": a cached step does " << place.cached_step.total() << " multiply-accumulates\n";
///
/// Not for training, and not for scripted modules whose skip concatenations sit inside control flow.
namespace deepcache {

/// Multiply-accumulates, by kind of operator.
struct Macs {
  std::int64_t weights = 0;    ///< convolutions and linear layers
  std::int64_t attention = 0;  ///< products of queries with keys, and of attention with values
  std::int64_t total() const { return weights + attention; }
  bool operator==(const Macs&) const = default;
};

/// What a helper is told of a run besides its timesteps.
struct RunTraits {
  bool continues = false;   ///< it is a further part of the run before: the cache is emptied and steps are counted from
                            ///< 0, but the statistics go on
  bool adds_noise = false;  ///< its scheduler adds noise in its steps (`Scheduler::adds_noise`)
  /// Each batch is of two halves of one size, for classifier-free guidance: item i without the prompt, and i + B / 2
  /// with it. Forecasts then are judged of what the two have in common and what they differ in, and wait until they can
  /// be judged; with `adds_noise` too there are none. False where the halves are two calls (`Helper::set_context`).
  bool guided = false;
  std::int64_t schedule_size = 0;  ///< timesteps from noise to picture, if the run is a part of that; 0: all
};

/// A skip concatenation: a place where the UNet can be cut.
struct BranchProfile {
  std::int64_t cache_branch_id = 0;  ///< counted back from the output, 0 is the shallowest
  std::string name;                  ///< of the submodule that reads the concatenation, such as "up_blocks.3.resnets.2"
  std::vector<std::int64_t> feature_shape;  ///< of what would be cached, [B, C, H, W]
  std::int64_t feature_bytes = 0;
  Macs full_step;  ///< of a step that computes everything
  /// Of a step that reads the cached feature. What depends neither on the sample nor on the timestep, the text's keys
  /// and values and a ControlNet's first layers, counts in each step, though a helper computes it once in a run.
  Macs cached_step;
};

/// How a UNet is read from a file.
struct UNetOptions {
  torch::Device device = torch::kCPU;
  /// What the weights become, for files whose weights are stored in another dtype than was traced. Default: as stored.
  std::optional<torch::Dtype> dtype = std::nullopt;
  /// What the layers compute in: float32, bfloat16 or float16, such as `fastest_dtype`. Inputs and output keep the
  /// dtype of the traced network. Default: that dtype.
  std::optional<torch::Dtype> compute_dtype = std::nullopt;
  /// Whether a *.pt2 may be loaded: it can do all that the program can.
  bool trust_native_code = false;
  /// Whether the steps of an enabled helper are recorded as CUDA graphs, one a kind of step (full, shallow, whole), and
  /// replayed: the CPU then launches a step at once instead of each kernel. Needs a CUDA device and a LibTorch with
  /// CUDA. It has never run on a GPU, only with a stand-in for CUDA on a CPU: so it is off. docs/performance.md has
  /// more.
  bool cuda_graphs = false;
};

/// What UNets are fastest in: bfloat16 on CPUs that compute with it (avx512_bf16; twice as fast, where it was
/// measured), float32 on others. Nothing for CUDA, where it wasn't measured: what the model was traced in.
std::optional<torch::Dtype> fastest_dtype(torch::Device device);

/// Keeps the memory that operators free for those after them, instead of giving it back to the system, which hands it
/// out again page by page: of pictures of 512x512 pixels, that takes a tenth of a step's time and up to a third of
/// decoding's. For the whole process and for good, so that the app decides; the peak was up to 8 % higher. To be called
/// when models are loaded: what loading frees would be kept too.
/// @returns whether it is so: false if the C library isn't glibc
bool keep_freed_memory();

/// A UNet behind a handle: copies are the same network, and a helper enabled on one acts on all of them.
class UNet {
 public:
  /// Reads a file written by `torch.jit.trace(...).save(...)` and moves it to `device`; or one named *.pt2 that
  /// `tools/export.py --backend aoti` compiled: native code for one branch, and for inputs of one set of shapes and
  /// dtypes, on a CPU. Where others are asked for, std::invalid_argument says which.
  /// @throws std::runtime_error if the file is missing, isn't a TorchScript module, or was compiled for another kind of
  ///         processor.
  /// @throws std::invalid_argument as the constructor does, or if a *.pt2 isn't trusted, or made for this device or
  ///         dtype, or if `cuda_graphs` can't be had.
  static UNet load(const std::filesystem::path& file, const UNetOptions& options);
  static UNet load(const std::filesystem::path& file, torch::Device device = torch::kCPU,
                   std::optional<torch::Dtype> dtype = std::nullopt);

  /// Takes a module that the app has loaded already, on the device of its weights, which are shared, not copied; but on
  /// CPUs with AVX2 or AVX-512 it keeps them in another layout, and the app's may be freed.
  /// @throws std::invalid_argument if it is in training mode, if it has no skip concatenation (`cat` of two
  ///         tensors along dimension 1), or if one sits inside control flow.
  explicit UNet(const torch::jit::Module& module);

  /// Runs the network on the inputs of the traced `forward`, and returns its (first) output tensor.
  template <typename... Inputs>
  torch::Tensor operator()(Inputs&&... inputs) const {
    return first_tensor(forward({c10::IValue(std::forward<Inputs>(inputs))...}));
  }

  /// The same for any kind of inputs; returns exactly what the module returns (a tensor, a tuple, a dictionary).
  /// While a helper is enabled on this UNet, the helper decides what is computed.
  /// @throws std::invalid_argument if number or types of the inputs aren't those of the traced `forward`; of an enabled
  ///         helper: if full steps need the run's timesteps and `begin_run` didn't give them, if a guided batch is odd,
  ///         if `SkipMode::kAdaptive` gets no sample, or if the whole output of several tensors should be cached.
  c10::IValue forward(std::vector<c10::IValue> inputs) const;

  /// Tells the enabled helper, if there is one, that the next call begins a run. Pipelines call this themselves.
  /// @param timesteps  of the run's calls, [N] of any dtype, as `Scheduler::timesteps()`; SkipMode::kEven, kQuad,
  ///                   kCenter and kTimesteps, `full_first`, `full_last` and StepCounting::kTimesteps need them.
  ///                   Undefined: not known
  /// @throws std::invalid_argument if `CacheParams::strict` refuses the run, if a tuned policy is for another number of
  ///         calls, or if full steps can't be placed as kQuad and kCenter are asked to.
  void begin_run(const torch::Tensor& timesteps = {}, const RunTraits& traits = {}) const;

  /// The names of the inputs, as the arguments of the traced `forward` are called.
  std::vector<std::string> input_names() const;

  /// Places where this UNet can be cut.
  std::int64_t num_branches() const;

  /// The submodule names of the branches by cache_branch_id. Empty strings where the module hierarchy is gone (frozen).
  std::vector<std::string> branch_names() const;

  /// What each branch would hold and save for inputs of these shapes. Shapes alone are propagated, nothing is computed,
  /// unless an operator of the UNet has no kernel for that: then each branch costs a full and a cached step.
  /// @throws std::invalid_argument as `forward` does; what the network throws if it can't run on these shapes.
  std::vector<BranchProfile> profile(const std::vector<c10::IValue>& inputs) const;

  /// Another network on the same weights, with no helper: for a second thread.
  UNet share_weights() const;

  /// Another network on the same weights, with no helper, and with ControlNets (arXiv 2302.05543) in it. They read
  /// those inputs of the UNet that the arguments of their traced `forward` name (sample, timestep,
  /// encoder_hidden_states, ...) and return their residuals as a tuple: those of the skip connections from the first to
  /// the last, then the middle one. The UNet's own inputs are followed by two of each ControlNet:
  /// `controlnet_cond_<i>`, the control image [B, 3, H, W] in [0, 1], and the number `conditioning_scale_<i>`, by which
  /// its residuals are multiplied. Branches stay what they are; a cached step runs those first layers of the
  /// ControlNets that reach what is computed anew.
  /// @throws std::invalid_argument if a ControlNet wasn't made for such a UNet (the message says what differs), is in
  ///         training mode, or if this UNet has ControlNets already.
  UNet with_controlnets(const std::vector<torch::jit::Module>& controlnets) const;

  /// The same with ControlNets from files, as `load` reads them.
  UNet with_controlnet_files(const std::vector<std::filesystem::path>& files,
                             std::optional<torch::Dtype> dtype = std::nullopt) const;

  torch::Device device() const;

 private:
  friend class Helper;
  struct Impl;
  explicit UNet(std::shared_ptr<Impl> impl);
  static torch::Tensor first_tensor(const c10::IValue& output);
  std::shared_ptr<Impl> impl_;
};

}  // namespace deepcache
