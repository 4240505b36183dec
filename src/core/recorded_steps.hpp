#pragma once

#include <compare>
#include <list>
#include <map>
#include <memory>
#include <vector>

#include "core/backend.hpp"
#include "core/recorder.hpp"
#include "core/weighted_sum.hpp"

namespace deepcache {

/// `Backend`'s steps with the same results, recorded and replayed. Of the steps of one kind with one set of shapes,
/// dtypes and numbers, the first runs as it is, the second is recorded, and later ones are replayed. What depends on
/// text alone is computed in each.
class RecordedSteps {
 public:
  using Inputs = std::vector<c10::IValue>;
  /// What is alike of all sums that a run's shallow steps make of features.
  struct SumShape {
    std::size_t num_terms = 1;  ///< at most
    bool of_halves = false;     ///< whether an item's partner may have a share

    auto operator<=>(const SumShape&) const = default;
  };

  RecordedSteps(std::shared_ptr<const Backend> backend, std::shared_ptr<Recorder> recorder)
      : backend_(std::move(backend)), recorder_(std::move(recorder)) {}

  c10::IValue run(const Inputs& inputs, std::int64_t cache_branch_id);
  Backend::FullResult run_full(const Inputs& inputs, std::int64_t cache_branch_id);
  /// With a sum of features, which is part of the recording. Quickest with that of the latest full step: any other that
  /// the step before didn't have in the same place is copied first.
  c10::IValue run_shallow(const Inputs& inputs, const WeightedTerms& feature, const SumShape& shape,
                          std::int64_t cache_branch_id);
  void clear() { sets_.clear(); }

 private:
  using Step = std::function<c10::IValue(const Inputs&)>;
  struct Kind {
    bool seen = false;
    std::unique_ptr<Recording> recording = nullptr;
  };
  struct Shallow {
    Kind kind = {};
    torch::Tensor coefficients = {};  // on the backend's device, as the recording reads them
  };
  /// What inputs of one set of shapes, dtypes and numbers share.
  struct Set {
    std::int64_t cache_branch_id;
    Inputs inputs;  // on the backend's device, as recordings read them
    std::vector<torch::Tensor> terms =
        std::vector<torch::Tensor>(1);  // full steps write the first, shallow ones read all
    std::vector<torch::Tensor> held =
        std::vector<torch::Tensor>(1);  // what callers have of each; undefined: nobody has
    Kind whole = {}, full = {};
    std::map<SumShape, Shallow> shallow = {};  // of no terms: with the first as it is

    void hold(std::size_t term, const torch::Tensor& values);
  };
  Set& set_for(const Inputs& inputs, std::int64_t cache_branch_id);
  c10::IValue run(Set& set, Kind& kind, const Inputs& inputs, const Step& step);

  std::shared_ptr<const Backend> backend_;
  std::shared_ptr<Recorder> recorder_;
  std::list<Set> sets_;  // the latest first
};

}  // namespace deepcache
