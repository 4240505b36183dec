#include "core/peak_memory.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <unordered_map>

namespace deepcache {

struct MemoryMeter::Held {
  std::unordered_map<const c10::StorageImpl*, std::pair<c10::weak_intrusive_ptr<c10::StorageImpl>, std::int64_t>>
      storages;
  std::int64_t before = 0;  // bytes held when the operator that runs began
  std::int64_t peak = 0;
  int depth = 0;  // of operators that call others
};

namespace {

thread_local MemoryMeter::Held* held = nullptr;  // of the meter alive on this thread; callbacks can't hold state

std::int64_t drop_released_and_sum() {
  std::erase_if(held->storages, [](const auto& entry) { return entry.second.first.expired(); });
  std::int64_t bytes = 0;
  for (const auto& [storage, entry] : held->storages) bytes += entry.second;
  return bytes;
}

/// The bytes of those tensors in a value that weren't known.
std::int64_t hold(const c10::IValue& value) {
  std::int64_t bytes = 0;
  if (value.isTensor() && value.toTensor().has_storage()) {
    const auto& storage = value.toTensor().storage();
    const auto size = static_cast<std::int64_t>(storage.nbytes());
    if (held->storages.try_emplace(storage.unsafeGetStorageImpl(), storage.getWeakStorageImpl(), size).second)
      bytes += size;
  } else if (value.isTensorList()) {
    for (const at::Tensor& tensor : value.toTensorVector()) bytes += hold(tensor);
  }
  return bytes;
}

std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction&) {
  if (held != nullptr && held->depth++ == 0) held->before = drop_released_and_sum();
  return nullptr;
}

/// An operator's inputs are held until it is done: what was held before, and what it made, are there together.
void on_end(const at::RecordFunction& function, at::ObserverContext*) {
  if (held == nullptr || --held->depth > 0) return;
  std::int64_t made = 0;
  for (const auto& output : function.outputs()) made += hold(output);  // the interpreter's whole stack
  held->peak = std::max(held->peak, held->before + made);
}

}  // namespace

MemoryMeter::MemoryMeter(const std::vector<c10::IValue>& inputs)
    : held_(std::make_unique<Held>()),
      handle_(at::addThreadLocalCallback(
          at::RecordFunctionCallback(on_start, on_end).needsOutputs(true).scopes({at::RecordScope::FUNCTION}))) {
  held = held_.get();
  for (const auto& input : inputs) held->peak += hold(input);
}

MemoryMeter::~MemoryMeter() {
  held = nullptr;
  at::removeCallback(handle_);
}

std::int64_t MemoryMeter::peak_bytes() const {
  return held_->peak;
}

}  // namespace deepcache
