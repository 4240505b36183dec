#include "io/png.hpp"

#include <png.h>

#include <algorithm>
#include <csetjmp>
#include <cstdint>
#include <memory>
#include <vector>

#include "error.hpp"
#include "io/files.hpp"

namespace deepcache {
namespace {

void append(png_structp png, png_bytep data, png_size_t size) {
  static_cast<std::string*>(png_get_io_ptr(png))->append(reinterpret_cast<const char*>(data), size);
}

bool is_ascii(const std::string& text) {
  return std::ranges::all_of(text, [](unsigned char c) { return c < 128; });
}

/// Text chunks that point into `text`, which must outlive them: plain ones for ASCII, international ones otherwise.
std::vector<png_text> text_chunks(PngText& text) {
  std::vector<png_text> chunks;
  for (auto& [keyword, value] : text) {
    png_text chunk{};
    chunk.key = keyword.data();
    chunk.text = value.data();
    chunk.compression = is_ascii(value) ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE;
    chunk.text_length = is_ascii(value) ? value.size() : 0;
    chunk.itxt_length = is_ascii(value) ? 0 : value.size();
    chunks.push_back(chunk);
  }
  return chunks;
}

/// False if libpng reports an error, by a long jump: nothing with a destructor is made here.
bool encode(png_structp png, png_infop info, const std::vector<png_text>& chunks, png_uint_32 width, png_uint_32 height,
            std::vector<png_bytep>& rows) {
  if (setjmp(png_jmpbuf(png)) != 0) return false;
  png_set_IHDR(png, info, width, height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
               PNG_FILTER_TYPE_DEFAULT);
  png_set_text(png, info, chunks.data(), static_cast<int>(chunks.size()));
  png_write_info(png, info);
  png_write_image(png, rows.data());
  png_write_end(png, info);
  return true;
}

}  // namespace

bool is_png(std::string_view bytes) {
  return bytes.starts_with("\x89PNG\r\n\x1a\n");
}

torch::Tensor decode_png(std::string_view bytes, std::uint64_t most_pixels, const std::filesystem::path& file) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  const std::unique_ptr<png_image, decltype(&png_image_free)> freed(&image, png_image_free);
  check_data(png_image_begin_read_from_memory(&image, bytes.data(), bytes.size()) != 0,
             "{} can't be read as a PNG image: {}", file.string(), image.message);
  const auto pixels = std::uint64_t{image.width} * image.height;
  check_data(pixels <= most_pixels, "{} has {}x{} pixels; the most that is read are {}", file.string(), image.width,
             image.height, most_pixels);
  image.format = PNG_FORMAT_RGBA;
  image.flags |= PNG_IMAGE_FLAG_16BIT_sRGB;  // which is what files of 16 bits are, if they don't say
  auto values =
      torch::empty({static_cast<std::int64_t>(image.height), static_cast<std::int64_t>(image.width), 4}, torch::kUInt8);
  check_data(png_image_finish_read(&image, nullptr, values.data_ptr(), 0, nullptr) != 0,
             "{} can't be read as a PNG image: {}", file.string(), image.message);
  return values;
}

std::string encode_png(const torch::Tensor& image, const PngText& text, const std::filesystem::path& file) {
  check_argument(image.dim() == 3 && image.size(0) == 3 && image.numel() > 0, "an image must be [3, H, W], got [{}]",
                 fmt::join(image.sizes(), ", "));
  const auto pixels = (image.detach().cpu().to(torch::kFloat).clamp(0, 1) * 255)  // rounds half to even, as NumPy does
                          .round()
                          .to(torch::kUInt8)
                          .permute({1, 2, 0})
                          .contiguous();
  std::vector<png_bytep> rows;
  for (std::int64_t y = 0; y < pixels.size(0); ++y)
    rows.push_back(pixels.data_ptr<std::uint8_t>() + y * pixels.stride(0));

  auto owned_text = text;
  const auto chunks = text_chunks(owned_text);
  std::string bytes;
  // Without these, libpng prints.
  const auto on_error = [](png_structp writer, png_const_charp) { png_longjmp(writer, 1); };
  const auto on_warning = [](png_structp, png_const_charp) {};
  auto* png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, on_error, on_warning);
  auto* info = png != nullptr ? png_create_info_struct(png) : nullptr;
  bool good = info != nullptr;
  if (good) {
    png_set_write_fn(png, &bytes, append, nullptr);
    good = encode(png, info, chunks, static_cast<png_uint_32>(pixels.size(1)), static_cast<png_uint_32>(pixels.size(0)),
                  rows);
  }
  png_destroy_write_struct(&png, &info);
  check_data(good, "can't encode {} as PNG", file.string());
  return bytes;
}

void save_png(const torch::Tensor& image, const std::filesystem::path& file, const PngText& text) {
  write_file(file, encode_png(image, text, file));
}

}  // namespace deepcache
