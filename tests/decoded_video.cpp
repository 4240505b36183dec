#include "decoded_video.hpp"

#include <ATen/ops/stack.h>

#include <algorithm>
#include <cctype>

#include "io/ffmpeg.hpp"

extern "C" {
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>
}

namespace deepcache {
namespace {

struct InputDeleter {
  void operator()(AVFormatContext* input) const { avformat_close_input(&input); }
};
using Input = std::unique_ptr<AVFormatContext, InputDeleter>;

torch::Tensor to_rgb(const AVFrame& frame) {
  const std::unique_ptr<SwsContext, decltype(&sws_freeContext)> context(
      sws_getContext(frame.width, frame.height, static_cast<AVPixelFormat>(frame.format), frame.width, frame.height,
                     AV_PIX_FMT_RGB24, SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT, nullptr, nullptr, nullptr),
      sws_freeContext);
  check_av(sws_setColorspaceDetails(context.get(), sws_getCoefficients(frame.colorspace),
                                    frame.color_range == AVCOL_RANGE_JPEG ? 1 : 0, sws_getCoefficients(SWS_CS_DEFAULT),
                                    1, 0, 1 << 16, 1 << 16),
           "set colours");
  auto pixels = torch::empty({frame.height, frame.width, 3}, torch::kUInt8);
  std::uint8_t* rows[] = {pixels.data_ptr<std::uint8_t>()};
  const int strides[] = {frame.width * 3};
  sws_scale(context.get(), frame.data, frame.linesize, 0, frame.height, rows, strides);
  return pixels.permute({2, 0, 1}).to(torch::kFloat) / 255;
}

void read_tags(const AVDictionary* dictionary, std::map<std::string, std::string>& tags) {
  const AVDictionaryEntry* entry = nullptr;
  while ((entry = av_dict_get(dictionary, "", entry, AV_DICT_IGNORE_SUFFIX)) != nullptr) {
    std::string keyword = entry->key;
    std::ranges::transform(keyword, keyword.begin(), [](unsigned char c) { return std::tolower(c); });
    tags[keyword] = entry->value;
  }
}

std::string colours_of(const AVFrame& frame) {
  return fmt::format("{} {} {} {} {}", av_color_space_name(frame.colorspace),
                     av_color_primaries_name(frame.color_primaries), av_color_transfer_name(frame.color_trc),
                     av_color_range_name(frame.color_range), av_chroma_location_name(frame.chroma_location));
}

}  // namespace

DecodedVideo decode_video(const std::filesystem::path& file) {
  AVFormatContext* opened = nullptr;
  check_av(avformat_open_input(&opened, file.string().c_str(), nullptr, nullptr), "open " + file.string());
  const Input input(opened);
  check_av(avformat_find_stream_info(opened, nullptr), "read " + file.string());
  check_data(opened->nb_streams == 1, "{} has {} streams", file.string(), opened->nb_streams);
  const auto& stream = *opened->streams[0];
  const auto* codec = avcodec_find_decoder(stream.codecpar->codec_id);
  const auto decoder = av_own(avcodec_alloc_context3(codec));
  check_av(avcodec_parameters_to_context(decoder.get(), stream.codecpar), "set up the decoder");
  check_av(avcodec_open2(decoder.get(), codec, nullptr), "open the decoder");

  DecodedVideo video{.codec = avcodec_get_name(stream.codecpar->codec_id),
                     .pixel_format = av_get_pix_fmt_name(decoder->pix_fmt),
                     .colours = {},
                     .fps = av_q2d(stream.avg_frame_rate),
                     .seconds = static_cast<double>(opened->duration) / AV_TIME_BASE};
  read_tags(opened->metadata, video.tags);
  const auto packet = av_own(av_packet_alloc());
  const auto frame = av_own(av_frame_alloc());
  std::vector<torch::Tensor> frames;
  const auto drain = [&] {
    while (avcodec_receive_frame(decoder.get(), frame.get()) == 0) {
      frames.push_back(to_rgb(*frame));
      video.times.push_back(static_cast<double>(frame->pts) * av_q2d(stream.time_base));
      video.colours = colours_of(*frame);
    }
  };
  while (av_read_frame(opened, packet.get()) == 0) {
    check_av(avcodec_send_packet(decoder.get(), packet.get()), "decode");
    av_packet_unref(packet.get());
    drain();
  }
  avcodec_send_packet(decoder.get(), nullptr);
  drain();
  video.frames = at::stack(frames);
  return video;
}

}  // namespace deepcache
