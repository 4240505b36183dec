#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

/// Images as tensors [3, H, W], float32 in [0, 1], on the CPU: read from PNG and JPEG files, written as PNG files,
/// resized, side by side, and compared.
///
/// Not for other formats; videos are in video.hpp.
namespace deepcache {

/// Keywords and texts (UTF-8) to store in a PNG file, such as {"parameters", "a red heart\nSteps: 50"}.
using PngText = std::vector<std::pair<std::string, std::string>>;

/// Writes an 8-bit RGB PNG. The file is whole or absent.
/// @throws std::invalid_argument if the tensor isn't [3, H, W].
/// @throws std::runtime_error if the file can't be written.
void save_png(const torch::Tensor& image, const std::filesystem::path& file, const PngText& text = {});

/// Reads a PNG or JPEG file, told apart by what is in them, as an image [3, H, W]: greys become colours, transparency
/// is dropped, 16 bits become 8. A photo that was taken on its side (Exif's orientation, in JPEG files) is turned
/// upright; of an animated PNG it is the first frame. Colour profiles are ignored.
/// @throws std::runtime_error naming the file if it is missing, neither PNG nor JPEG, damaged, for print (CMYK), or of
/// more than 2^26 pixels.
torch::Tensor load_image(const std::filesystem::path& file);

/// The same as a mask [1, H, W]: the image's luma (ITU-R BT.601), rounded to 8 bits.
torch::Tensor load_mask(const std::filesystem::path& file);

/// Images or masks [C, H, W] at another size, by antialiased bicubic interpolation, in [0, 1].
/// @throws std::invalid_argument if the tensor isn't [C, H, W], or a side is below 1.
torch::Tensor resize_image(const torch::Tensor& image, std::int64_t height, std::int64_t width);

/// A line of a contact sheet: a caption in ASCII (other characters become "?"), and images of one size.
struct ContactRow {
  std::string caption;
  std::vector<torch::Tensor> images;
};

/// One image of all rows under the column titles, which may have lines, `across` rows beside each other. Small images
/// are enlarged `scale` times, pixels staying squares.
/// @throws std::invalid_argument if images differ in size, or a row has not one image for each title.
torch::Tensor contact_sheet(const std::vector<std::string>& titles, const std::vector<ContactRow>& rows,
                            std::int64_t scale = 1, std::int64_t across = 1);

/// Peak signal-to-noise ratio of two tensors of values in [0, 1], in dB; infinite if they are equal.
/// @throws std::invalid_argument if the shapes differ.
double psnr(const torch::Tensor& actual, const torch::Tensor& expected);

/// Structural similarity of two tensors [..., H, W] of values in [0, 1], 1 if they are equal: Gaussian window of 11
/// pixels, sigma 1.5 (Wang et al. 2004, DOI 10.1109/TIP.2003.819861), mean over windows that lie inside, and over
/// channels.
/// @throws std::invalid_argument if the shapes differ, or a side is shorter than 11.
double ssim(const torch::Tensor& actual, const torch::Tensor& expected);

}  // namespace deepcache
