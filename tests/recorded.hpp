#pragma once

#include <ATen/core/ivalue.h>
#include <torch/csrc/jit/serialization/pickle.h>
#include <torch/types.h>

#include <filesystem>
#include <string>
#include <vector>

#include "io/files.hpp"

namespace deepcache {

/// One dictionary of a file that a script in tools/references wrote with torch.save. Every getter throws if the key is
/// missing or holds another type.
class Recorded {
 public:
  explicit Recorded(const c10::IValue& value) : fields_(value.toGenericDict()) {}

  static Recorded load(const std::filesystem::path& file) {
    const auto bytes = read_file(file);
    return Recorded(torch::jit::pickle_load({bytes.begin(), bytes.end()}));
  }

  std::vector<std::string> keys() const {
    std::vector<std::string> keys;
    for (const auto& field : fields_) keys.push_back(field.key().toStringRef());
    return keys;
  }
  bool has(const char* key) const { return fields_.contains(key); }
  c10::IValue at(const char* key) const { return fields_.at(key); }
  torch::Tensor tensor(const char* key) const { return at(key).toTensor(); }
  std::string text(const char* key) const { return at(key).toStringRef(); }
  std::int64_t integer(const char* key) const { return at(key).toInt(); }
  double number(const char* key) const { return at(key).toDouble(); }
  bool boolean(const char* key) const { return at(key).toBool(); }

  /// The values of an int64 tensor.
  std::vector<std::int64_t> integers(const char* key) const {
    const auto values = tensor(key).contiguous();
    const auto* first = values.const_data_ptr<std::int64_t>();
    return {first, first + values.numel()};
  }

  /// The values of a tensor of any dtype.
  std::vector<double> numbers(const char* key) const {
    const auto values = tensor(key).to(torch::kDouble).contiguous();
    const auto* first = values.const_data_ptr<double>();
    return {first, first + values.numel()};
  }

  std::vector<Recorded> list(const char* key) const {
    std::vector<Recorded> items;
    for (const c10::IValue& item : at(key).toListRef()) items.emplace_back(item);
    return items;
  }

 private:
  c10::Dict<c10::IValue, c10::IValue> fields_;
};

}  // namespace deepcache
