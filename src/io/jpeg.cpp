#include "io/jpeg.hpp"

#include <cstdio>
// jpeglib.h needs <cstdio> before it.
#include <jerror.h>
#include <jpeglib.h>

#include <array>
#include <csetjmp>
#include <memory>
#include <vector>

#include "error.hpp"
#include "io/exif.hpp"

namespace deepcache {
namespace {

/// libjpeg's error handler with what this file needs beside it.
struct ErrorHandler {
  jpeg_error_mgr base;  // first, so that libjpeg's pointer to it is one to the whole
  std::jmp_buf jump;
  std::array<char, JMSG_LENGTH_MAX> message;
};

void on_error(j_common_ptr jpeg) {
  auto* handler = reinterpret_cast<ErrorHandler*>(jpeg->err);
  handler->base.format_message(jpeg, handler->message.data());
  std::longjmp(handler->jump, 1);
}

/// What libjpeg would go on after with grey or torn pixels is an error too; not so bytes too many between its segments.
void on_message(j_common_ptr jpeg, int level) {
  if (level < 0 && jpeg->err->msg_code != JWRN_EXTRANEOUS_DATA && jpeg->err->msg_code != JWRN_ADOBE_XFORM)
    on_error(jpeg);
}

/// Reads the header and says what kind of file it is. The functions that may jump back return false if libjpeg reports
/// an error: nothing with a destructor is made in them.
bool read_header(jpeg_decompress_struct& jpeg, ErrorHandler& handler, std::string_view bytes) {
  if (setjmp(handler.jump) != 0) return false;
  jpeg_create_decompress(&jpeg);
  jpeg_save_markers(&jpeg, JPEG_APP0 + 1, 0xFFFF);  // Exif
  jpeg_mem_src(&jpeg, reinterpret_cast<const unsigned char*>(bytes.data()), static_cast<unsigned long>(bytes.size()));
  jpeg_read_header(&jpeg, TRUE);
  return true;
}

bool read_rows(jpeg_decompress_struct& jpeg, ErrorHandler& handler, unsigned char* pixels) {
  if (setjmp(handler.jump) != 0) return false;
  jpeg.out_color_space = JCS_RGB;
  jpeg_start_decompress(&jpeg);
  while (jpeg.output_scanline < jpeg.output_height) {
    auto* row = pixels + std::size_t{jpeg.output_scanline} * jpeg.output_width * 3;
    jpeg_read_scanlines(&jpeg, &row, 1);
  }
  jpeg_finish_decompress(&jpeg);
  return true;
}

int orientation(const jpeg_decompress_struct& jpeg) {
  constexpr std::string_view kHead("Exif\0\0", 6);
  for (const auto* marker = jpeg.marker_list; marker != nullptr; marker = marker->next) {
    const std::string_view data(reinterpret_cast<const char*>(marker->data), marker->data_length);
    if (data.starts_with(kHead)) return exif_orientation(data.substr(kHead.size()));
  }
  return 1;
}

/// Pixels [H, W, 3] of a file with this orientation, upright.
torch::Tensor upright(const torch::Tensor& pixels, int orientation) {
  static const std::array<std::vector<std::int64_t>, 4> kFlips{{{}, {1}, {0, 1}, {0}}};
  const auto turned = orientation > 4 ? pixels.transpose(0, 1) : pixels;
  return turned.flip(kFlips[static_cast<std::size_t>((orientation - 1) % 4)]);
}

}  // namespace

bool is_jpeg(std::string_view bytes) {
  return bytes.starts_with("\xFF\xD8\xFF");
}

torch::Tensor decode_jpeg(std::string_view bytes, std::uint64_t most_pixels, const std::filesystem::path& file) {
  ErrorHandler handler{};
  jpeg_decompress_struct jpeg{};
  jpeg.err = jpeg_std_error(&handler.base);
  handler.base.error_exit = on_error;
  handler.base.emit_message = on_message;
  const std::unique_ptr<jpeg_decompress_struct, decltype(&jpeg_destroy_decompress)> freed(&jpeg,
                                                                                          jpeg_destroy_decompress);
  const auto check_decoded = [&](bool good) {
    check_data(good, "{} can't be read as a JPEG image: {}", file.string(), handler.message.data());
  };
  check_decoded(read_header(jpeg, handler, bytes));
  check_data(
      jpeg.jpeg_color_space == JCS_GRAYSCALE || jpeg.jpeg_color_space == JCS_YCbCr || jpeg.jpeg_color_space == JCS_RGB,
      "{} can't be read as a JPEG image: it has {} colour components in a space such as CMYK; what is read is "
      "grey, YCbCr or RGB",
      file.string(), jpeg.num_components);
  check_data(std::uint64_t{jpeg.image_width} * jpeg.image_height <= most_pixels,
             "{} has {}x{} pixels; the most that is read are {}", file.string(), jpeg.image_width, jpeg.image_height,
             most_pixels);
  const auto turned = orientation(jpeg);  // before the rows: libjpeg drops Exif data after the last
  auto pixels = torch::empty(
      {static_cast<std::int64_t>(jpeg.image_height), static_cast<std::int64_t>(jpeg.image_width), 3}, torch::kUInt8);
  check_decoded(read_rows(jpeg, handler, pixels.data_ptr<std::uint8_t>()));
  return upright(pixels, turned);
}

}  // namespace deepcache
