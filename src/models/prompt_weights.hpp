#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace deepcache {

/// A part of a prompt, and what its tokens' states are multiplied by.
struct WeightedText {
  std::string text;
  double weight = 1;

  bool operator==(const WeightedText&) const = default;
};

/// The parts of a prompt that has weights written in brackets, as the web UIs and diffusers' community pipeline
/// lpw_stable_diffusion.py read it: "(x)" multiplies by 1.1, "[x]" divides by 1.1, "(x:1.3)" multiplies by 1.3. They
/// nest. \( \) \[ \] \\ are those characters; any other backslash is left out. A bracket that isn't closed ends with
/// the prompt; one that closes nothing is text, and so is what stands for a weight and is none, as in "(x:much)".
///
/// Neighbours of one weight are one part, so that "(un)(finished)" is one word. There is one part at least.
/// @throws std::invalid_argument if a weight is made of digits and points and yet no number, such as 1.2.3, or a part's
/// is beyond 1000 or -1000.
std::vector<WeightedText> parse_prompt_weights(std::string_view prompt);

}  // namespace deepcache
