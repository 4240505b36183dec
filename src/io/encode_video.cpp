#include <array>
#include <cstring>
#include <string>
#include <utility>

#include "io/ffmpeg.hpp"
#include "io/video_format.hpp"
#include "io/yuv.hpp"

extern "C" {
#include <libavutil/dict.h>
#include <libavutil/opt.h>
}

namespace deepcache {
namespace {

constexpr const char* kX264 = "libx264";
constexpr const char* kVpx = "libvpx-vp9";

bool has_encoder(const char* name) {
  return avcodec_find_encoder_by_name(name) != nullptr;
}

/// A file in memory that a muxer writes.
class MemoryFile {
 public:
  MemoryFile() { check_av(avio_open_dyn_buf(&context_), "make a buffer"); }
  ~MemoryFile() { take(); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  AVIOContext* context() { return context_; }

  /// What was written; the file is closed then.
  std::string take() {
    if (context_ == nullptr) return {};
    std::uint8_t* data = nullptr;
    const auto size = avio_close_dyn_buf(std::exchange(context_, nullptr), &data);
    std::string bytes(reinterpret_cast<const char*>(data), static_cast<std::size_t>(size));
    av_free(data);
    return bytes;
  }

 private:
  AVIOContext* context_ = nullptr;
};

/// Settings for FFmpeg by name.
class Settings {
 public:
  Settings() = default;
  ~Settings() { av_dict_free(&entries_); }
  Settings(const Settings&) = delete;
  Settings& operator=(const Settings&) = delete;

  void set(const char* key, const std::string& value) {
    check_av(av_dict_set(&entries_, key, value.c_str(), 0), "keep a setting");
  }
  AVDictionary** entries() { return &entries_; }

  /// @throws std::runtime_error if FFmpeg left one over, which it doesn't know.
  void check_used() const {
    const auto* left = av_dict_get(entries_, "", nullptr, AV_DICT_IGNORE_SUFFIX);
    check_data(left == nullptr, "this FFmpeg doesn't know the setting {}", left != nullptr ? left->key : "");
  }

 private:
  AVDictionary* entries_ = nullptr;
};

/// More than the moov box of such a file takes: its tables have at most six numbers a frame.
std::size_t index_size(std::int64_t frames, const PngText& metadata) {
  std::size_t size = 4096 + 48 * static_cast<std::size_t>(frames);
  for (const auto& [keyword, text] : metadata) size += 64 + keyword.size() + text.size();
  return size;
}

AvPtr<AVCodecContext> open_encoder(const std::string& name, const torch::Tensor& frames, FrameRate rate,
                                   std::optional<int> crf, bool global_header) {
  const auto* codec = avcodec_find_encoder_by_name(name.c_str());
  auto encoder = av_own(avcodec_alloc_context3(codec));
  encoder->width = static_cast<int>(frames.size(3) + frames.size(3) % 2);
  encoder->height = static_cast<int>(frames.size(2) + frames.size(2) % 2);
  encoder->framerate = {rate.numerator, rate.denominator};
  encoder->time_base = {rate.denominator, rate.numerator};
  encoder->pix_fmt = AV_PIX_FMT_YUV420P;  // what every browser decodes
  encoder->color_range = AVCOL_RANGE_MPEG;
  encoder->colorspace = AVCOL_SPC_BT709;
  encoder->color_primaries = AVCOL_PRI_BT709;
  encoder->color_trc = AVCOL_TRC_BT709;
  encoder->chroma_sample_location = AVCHROMA_LOC_LEFT;
  encoder->bit_rate = 0;      // libvpx then keeps the quality constant
  encoder->thread_count = 4;  // not as many as the machine has: the bytes depend on it
  encoder->flags |= AV_CODEC_FLAG_BITEXACT | (global_header ? AV_CODEC_FLAG_GLOBAL_HEADER : 0);
  encoder->log_level_offset = 128;  // less urgent than all that is printed; above 255, levels wrap around
  Settings settings;
  settings.set("crf", std::to_string(crf.value_or(name == kX264 ? 18 : 16)));
  if (name == kVpx) settings.set("cpu-used", "2");
  check_av(avcodec_open2(encoder.get(), codec, settings.entries()), "open the encoder " + name);
  settings.check_used();
  return encoder;
}

/// Encodes frames and puts them into a file.
class VideoWriter {
 public:
  VideoWriter(const torch::Tensor& frames, VideoFormat format, FrameRate rate, const VideoOptions& options)
      : mp4_(format == VideoFormat::kMp4) {
    AVFormatContext* muxer = nullptr;
    check_av(avformat_alloc_output_context2(&muxer, nullptr, mp4_ ? "mp4" : "webm", nullptr), "make a container");
    muxer_.reset(muxer);
    muxer_->pb = bytes_.context();
    muxer_->flags |= AVFMT_FLAG_BITEXACT;
    encoder_ = open_encoder(choose_encoder(format, options.codec), frames, rate, options.crf,
                            (muxer_->oformat->flags & AVFMT_GLOBALHEADER) != 0);
    stream_ = avformat_new_stream(muxer_.get(), nullptr);
    check_data(stream_ != nullptr, "FFmpeg is out of memory");
    check_av(avcodec_parameters_from_context(stream_->codecpar, encoder_.get()), "describe the video");
    stream_->time_base = encoder_->time_base;
    stream_->avg_frame_rate = encoder_->framerate;
    write_header(frames.size(0), options.metadata);
    frame_->format = encoder_->pix_fmt;
    frame_->width = encoder_->width;
    frame_->height = encoder_->height;
    check_av(av_frame_get_buffer(frame_.get(), 0), "make a frame");
  }

  void add(const torch::Tensor& image) {
    check_av(av_frame_make_writable(frame_.get()), "make a frame");
    const auto planes = to_yuv(image);
    std::size_t index = 0;
    for (const auto& plane : {planes.y, planes.cb, planes.cr}) {
      for (std::int64_t row = 0; row < plane.size(0); ++row)
        std::memcpy(frame_->data[index] + row * frame_->linesize[index],
                    plane.const_data_ptr<std::uint8_t>() + row * plane.size(1),
                    static_cast<std::size_t>(plane.size(1)));
      ++index;
    }
    frame_->pts = next_++;
    encode(frame_.get());
  }

  std::string finish() {
    encode(nullptr);
    check_av(av_write_trailer(muxer_.get()), "finish the file");
    avio_flush(muxer_->pb);
    check_av(muxer_->pb->error, "write the file");
    return bytes_.take();
  }

 private:
  void write_header(std::int64_t frames, const PngText& metadata) {
    for (const auto& [keyword, text] : metadata)
      check_av(av_dict_set(&muxer_->metadata, keyword.c_str(), text.c_str(), 0), "keep metadata");
    Settings settings;
    if (mp4_) {
      settings.set("movflags", "use_metadata_tags");  // any keyword, not only iTunes'
      // The index stands before the frames, so that a browser plays the file while it comes.
      settings.set("moov_size", std::to_string(index_size(frames, metadata)));
    }
    check_av(avformat_write_header(muxer_.get(), settings.entries()), "begin the file");
    settings.check_used();
  }

  /// Nothing for a frame: what the encoder holds back comes out.
  void encode(const AVFrame* frame) {
    check_av(avcodec_send_frame(encoder_.get(), frame), "encode a frame");
    for (;;) {
      const auto code = avcodec_receive_packet(encoder_.get(), packet_.get());
      if (code == AVERROR(EAGAIN) || code == AVERROR_EOF) return;
      check_av(code, "encode a frame");
      packet_->duration = 1;
      av_packet_rescale_ts(packet_.get(), encoder_->time_base, stream_->time_base);
      packet_->stream_index = stream_->index;
      check_av(av_interleaved_write_frame(muxer_.get(), packet_.get()), "write a frame");
    }
  }

  bool mp4_;
  MemoryFile bytes_;
  AvPtr<AVFormatContext> muxer_;
  AvPtr<AVCodecContext> encoder_;
  AVStream* stream_ = nullptr;
  AvPtr<AVFrame> frame_ = av_own(av_frame_alloc());
  AvPtr<AVPacket> packet_ = av_own(av_packet_alloc());
  std::int64_t next_ = 0;
};

}  // namespace

std::string choose_encoder(VideoFormat format, VideoCodec codec) {
  check_argument(format == VideoFormat::kMp4 || codec != VideoCodec::kH264, "H.264 is for .mp4; .webm holds VP9");
  const bool h264 =
      codec == VideoCodec::kH264 || (codec == VideoCodec::kAuto && format == VideoFormat::kMp4 && has_encoder(kX264));
  const auto* name = h264 ? kX264 : kVpx;
  check_data(has_encoder(name), "FFmpeg was built without {}, which this video needs", name);
  return name;
}

std::string encode_video(const torch::Tensor& frames, VideoFormat format, FrameRate rate, const VideoOptions& options) {
  VideoWriter writer(frames, format, rate, options);
  for (std::int64_t i = 0; i < frames.size(0); ++i) writer.add(frames[i]);
  return writer.finish();
}

}  // namespace deepcache
