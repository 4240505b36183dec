#pragma once

#include <list>
#include <memory>

#include "core/backend.hpp"
#include "core/recorder.hpp"

namespace deepcache {

/// `Backend`'s steps with the same results, recorded and replayed. Of the steps of one kind with one set of shapes,
/// dtypes and numbers, the first runs as it is, the second is recorded, and later ones are replayed. What depends on
/// text alone is computed in each.
class RecordedSteps {
 public:
  using Inputs = std::vector<c10::IValue>;

  RecordedSteps(std::shared_ptr<const Backend> backend, std::shared_ptr<Recorder> recorder)
      : backend_(std::move(backend)), recorder_(std::move(recorder)) {}

  c10::IValue run(const Inputs& inputs, std::int64_t cache_branch_id);
  Backend::FullResult run_full(const Inputs& inputs, std::int64_t cache_branch_id);
  /// Quickest with the feature of the latest full step: any other is copied first.
  c10::IValue run_shallow(const Inputs& inputs, const torch::Tensor& feature, std::int64_t cache_branch_id);
  void clear() { sets_.clear(); }

 private:
  using Step = std::function<c10::IValue(const Inputs&)>;
  struct Kind {
    bool seen = false;
    std::unique_ptr<Recording> recording = nullptr;
  };
  /// What inputs of one set of shapes, dtypes and numbers share.
  struct Set {
    std::int64_t cache_branch_id;
    Inputs inputs;                     // on the backend's device, as recordings read them
    torch::Tensor feature = {};        // full steps write it, shallow ones read it
    torch::Tensor equal_feature = {};  // what callers have of it; undefined while there is none
    Kind whole = {}, full = {}, shallow = {};

    void hold(const torch::Tensor& values);
  };
  Set& set_for(const Inputs& inputs, std::int64_t cache_branch_id);
  c10::IValue run(Set& set, Kind& kind, const Inputs& inputs, const Step& step);

  std::shared_ptr<const Backend> backend_;
  std::shared_ptr<Recorder> recorder_;
  std::list<Set> sets_;  // the latest first
};

}  // namespace deepcache
