#include "core/recorded_steps.hpp"

#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <utility>

namespace deepcache {
namespace {

constexpr std::size_t kMostSets = 4;

/// What is kept is written by later steps, whichever mode they are called in.
struct NormalTensors {
  c10::InferenceMode inference_mode{false};
  torch::NoGradGuard no_grad;
};

std::vector<torch::Tensor> tensors_of(const std::vector<c10::IValue>& values) {
  std::vector<torch::Tensor> tensors;
  for (const auto& value : values)
    map_tensors(value, [&](const torch::Tensor& tensor) { return tensors.emplace_back(tensor); });
  return tensors;
}

bool same_shape(const torch::Tensor& a, const torch::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes();
}

bool is_alike(const c10::IValue& a, const c10::IValue& b) {
  return alike(a, b, same_shape);
}

/// Copies without waiting, but for pinned memory, which the caller may write into before it is read.
void copy_into(const std::vector<c10::IValue>& buffers, const std::vector<c10::IValue>& inputs) {
  const auto to = tensors_of(buffers), from = tensors_of(inputs);
  for (std::size_t i = 0; i < to.size(); ++i) {
    if (from[i].dim() == 0)
      to[i].fill_(from[i]);  // of a timestep on the CPU, a kernel's argument
    else
      to[i].copy_(from[i], /*non_blocking=*/!from[i].is_pinned());
  }
}

}  // namespace

void RecordedSteps::Set::hold(std::size_t term, const torch::Tensor& values) {
  if (!terms[term].defined()) terms[term] = torch::empty_like(values);
  terms[term].copy_(values);
}

RecordedSteps::Set& RecordedSteps::set_for(const Inputs& inputs, std::int64_t cache_branch_id) {
  const auto found = std::ranges::find_if(sets_, [&](const Set& set) {
    return set.cache_branch_id == cache_branch_id && std::ranges::equal(inputs, set.inputs, is_alike);
  });
  if (found != sets_.end()) {
    sets_.splice(sets_.begin(), sets_, found);
    return sets_.front();
  }
  Inputs buffers;
  for (const auto& input : inputs)
    buffers.push_back(map_tensors(input, [&](const torch::Tensor& tensor) {
      return torch::empty_like(tensor, tensor.options().device(backend_->device()));
    }));
  if (sets_.size() == kMostSets) sets_.pop_back();
  return sets_.emplace_front(Set{.cache_branch_id = cache_branch_id, .inputs = std::move(buffers)});
}

c10::IValue RecordedSteps::run(Set& set, Kind& kind, const Inputs& inputs, const Step& step) {
  if (!kind.seen) {
    auto output = step(inputs);
    kind.seen = true;
    return output;
  }
  copy_into(set.inputs, inputs);
  if (!kind.recording) kind.recording = recorder_->record([step, &set] { return step(set.inputs); });
  kind.recording->replay();
  return map_tensors(kind.recording->output(), [](const torch::Tensor& tensor) { return tensor.clone(); });
}

c10::IValue RecordedSteps::run(const Inputs& inputs, std::int64_t cache_branch_id) {
  const NormalTensors mode;
  auto& set = set_for(inputs, cache_branch_id);
  return run(set, set.whole, inputs, [this](const Inputs& from) {
    Conditioning unused;
    return backend_->run(from, unused);
  });
}

Backend::FullResult RecordedSteps::run_full(const Inputs& inputs, std::int64_t cache_branch_id) {
  const NormalTensors mode;
  auto& set = set_for(inputs, cache_branch_id);
  set.held[0].reset();
  auto output = run(set, set.full, inputs, [this, &set](const Inputs& from) {
    Conditioning unused;
    auto result = backend_->run_full(from, unused, set.cache_branch_id);
    set.hold(0, result.feature);
    return std::move(result.output);
  });
  set.held[0] = set.terms[0].clone();
  return {std::move(output), set.held[0]};
}

c10::IValue RecordedSteps::run_shallow(const Inputs& inputs, const WeightedTerms& feature, const SumShape& shape,
                                       std::int64_t cache_branch_id) {
  const NormalTensors mode;
  auto& set = set_for(inputs, cache_branch_id);
  const auto num_terms = shape.num_terms;
  if (set.terms.size() < num_terms) {
    set.terms.resize(num_terms);
    set.held.resize(num_terms);
  }
  for (std::size_t k = 0; k < num_terms; ++k) {
    const auto& term = feature.terms[k < feature.terms.size() ? k : 0];  // what isn't there yet has no weight
    if (set.held[k].is_same(term)) continue;
    set.hold(k, term);
    set.held[k] = term;
  }
  const bool is_sum = num_terms > 1 || feature.weights[0] != 1;
  auto& shallow = set.shallow[is_sum ? shape : SumShape{.num_terms = 0}];
  if (is_sum) {
    const auto coefficients = sum_coefficients(feature.weights, feature.shares, static_cast<std::int64_t>(num_terms),
                                               feature.terms[0].size(0), shape.of_halves);
    if (!shallow.coefficients.defined())
      shallow.coefficients = torch::empty_like(coefficients, coefficients.options().device(backend_->device()));
    shallow.coefficients.copy_(coefficients, /*non_blocking=*/true);
  }
  return run(set, shallow.kind, inputs, [this, &set, &shallow, num_terms, is_sum](const Inputs& from) {
    Conditioning unused;
    const auto sum =
        is_sum ? weighted_sum_by(shallow.coefficients, std::span(set.terms).first(num_terms)) : set.terms[0];
    return backend_->run_shallow(from, unused, sum, set.cache_branch_id);
  });
}

}  // namespace deepcache
