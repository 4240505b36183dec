#include "models/prompt_weights.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <optional>
#include <system_error>
#include <utility>

#include "error.hpp"

namespace deepcache {
namespace {

constexpr double kRoundBracket = 1.1;
constexpr double kSquareBracket = 1 / 1.1;
constexpr double kLargestWeight = 1000;  // states times this stay within half types

using Parts = std::vector<WeightedText>;

/// The number in what begins as ":1.3)".
std::optional<std::string_view> weight_at(std::string_view text) {
  if (!text.starts_with(':')) return std::nullopt;
  const std::size_t digits = text.size() > 1 && (text[1] == '+' || text[1] == '-') ? 2 : 1;
  const std::size_t end = text.find_first_not_of("0123456789.", digits);
  if (end == std::string_view::npos || end == digits || text[end] != ')') return std::nullopt;
  return text.substr(1, end - 1);
}

double to_number(std::string_view text) {
  const auto digits = text.starts_with('+') ? text.substr(1) : text;  // from_chars takes no plus
  const auto* begin = digits.data();
  const auto* end = begin + digits.size();
  double number = 0;
  const auto read = std::from_chars(begin, end, number);
  check_argument(read.ec == std::errc() && read.ptr == end,
                 "a weight in a prompt must be a number, such as 1.3, that a double holds; got {}", text);
  return number;
}

/// Brackets of one kind that are open: which part each began before.
using OpenBrackets = std::vector<std::size_t>;

void multiply(Parts& parts, std::size_t begin, double factor) {
  for (std::size_t i = begin; i < parts.size(); ++i) parts[i].weight *= factor;
}

void close(Parts& parts, OpenBrackets& open, double factor) {
  multiply(parts, open.back(), factor);
  open.pop_back();
}

Parts merge_neighbours(Parts parts) {
  Parts merged;
  for (auto& part : parts) {
    if (!merged.empty() && merged.back().weight == part.weight) {
      merged.back().text += part.text;
    } else {
      merged.push_back(std::move(part));
    }
  }
  return merged;
}

}  // namespace

std::vector<WeightedText> parse_prompt_weights(std::string_view prompt) {
  constexpr std::string_view kEscapable = "()[]\\";
  constexpr std::string_view kSyntax = "()[]\\:";
  Parts parts;
  OpenBrackets round, square;
  for (std::size_t length = 0; !prompt.empty(); prompt.remove_prefix(length)) {
    const char first = prompt[0];
    length = 1;
    if (first == '\\') {
      length = prompt.size() > 1 && kEscapable.find(prompt[1]) != std::string_view::npos ? 2 : 1;
      parts.push_back({.text = std::string(prompt.substr(1, length - 1))});
    } else if (first == '(') {
      round.push_back(parts.size());
    } else if (first == '[') {
      square.push_back(parts.size());
    } else if (const auto weight = weight_at(prompt); weight && !round.empty()) {
      length = weight->size() + 2;
      close(parts, round, to_number(*weight));
    } else if (first == ')' && !round.empty()) {
      close(parts, round, kRoundBracket);
    } else if (first == ']' && !square.empty()) {
      close(parts, square, kSquareBracket);
    } else {
      length = std::min(prompt.find_first_of(kSyntax, 1), prompt.size());
      parts.push_back({.text = std::string(prompt.substr(0, length))});
    }
  }
  for (const auto begin : round) multiply(parts, begin, kRoundBracket);
  for (const auto begin : square) multiply(parts, begin, kSquareBracket);
  if (parts.empty()) parts.emplace_back();
  for (const auto& part : parts)
    check_argument(std::abs(part.weight) <= kLargestWeight,
                   "weights in a prompt must be within -{0} and {0}, got {1} for \"{2}\"", kLargestWeight, part.weight,
                   part.text);
  return merge_neighbours(std::move(parts));
}

}  // namespace deepcache
