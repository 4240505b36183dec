#include "cpu/operators.hpp"

#include <torch/library.h>

#include <array>
#include <cstddef>
#include <new>

#include "cpu/kernels.hpp"
#include "cpu/packed_layers.hpp"
#include "cpu/parallel.hpp"

namespace deepcache::cpu {

namespace {

template <typename T>
void geglu_rows(const torch::Tensor& input, const torch::Tensor& output) {
  const auto dim = output.size(-1);
  const auto* read = input.const_data_ptr<T>();
  auto* written = output.mutable_data_ptr<T>();
  parallel_for(output.numel() / dim, [&](std::int64_t begin, std::int64_t end) {
    for (auto row = begin; row < end; ++row)
      kernels<T>().gated_gelu(read + 2 * row * dim, read + (2 * row + 1) * dim, dim, written + row * dim);
  });
}

}  // namespace

torch::Tensor geglu(const torch::Tensor& input) {
  if (!input.is_cpu() || input.numel() == 0 || input.size(-1) % 2 != 0 || !has_kernels(input.scalar_type())) {
    const auto halves = input.chunk(2, -1);
    return halves[0] * at::gelu(halves[1]);
  }
  auto shape = input.sizes().vec();
  shape.back() /= 2;
  const auto output = torch::empty(shape, input.options());
  (input.scalar_type() == torch::kFloat ? geglu_rows<float> : geglu_rows<c10::BFloat16>)(input.contiguous(), output);
  return output;
}

void register_operators() {
  // Never destroyed: graphs may be alive until the process ends.
  alignas(torch::Library) static std::array<std::byte, sizeof(torch::Library)> storage;
  static const bool registered = [] {
    auto* made =
        new (storage.data()) torch::Library(torch::Library::FRAGMENT, "deepcache", std::nullopt, __FILE__, __LINE__);
    made->def("attention(Tensor query, Tensor key, Tensor value, float? scale) -> Tensor", attention);
    made->def("group_norm(Tensor input, int num_groups, Tensor? weight, Tensor? bias, float eps, bool silu) -> Tensor",
              group_norm);
    made->def("geglu(Tensor input) -> Tensor", geglu);
    made->def("linear(Tensor input, Tensor packed, Tensor? bias, int out_features, Tensor? added=None) -> Tensor",
              linear);
    made->def(
        "convolution(Tensor input, Tensor packed, Tensor? bias, int out_channels, int[] kernel_size, int[] stride, "
        "int[] padding, Tensor? added=None) -> Tensor",
        convolution);
    made->def(
        "upsample_convolution(Tensor input, Tensor packed, Tensor? bias, int out_channels, int[]? size) -> Tensor",
        upsample_convolution);
    return true;
  }();
  static_cast<void>(registered);
}

}  // namespace deepcache::cpu
