#include <algorithm>
#include <random>
#include <system_error>
#include <vector>

#include "error.hpp"
#include "io/files.hpp"
#include "io/video_format.hpp"

namespace deepcache {
namespace {

namespace fs = std::filesystem;

/// 0001.png and the like.
bool is_frame(const fs::path& file) {
  const auto stem = file.stem().string();
  return file.extension() == ".png" && stem.size() >= 4 &&
         std::ranges::all_of(stem, [](char c) { return c >= '0' && c <= '9'; });
}

/// What throws in `act` becomes an error that names the folder.
template <typename Act>
void change_folder(const fs::path& folder, Act act) {
  try {
    act();
  } catch (const fs::filesystem_error& error) {
    throw std::runtime_error(fmt::format("can't write {}: {}", folder.string(), error.code().message()));
  }
}

void write_frames(const torch::Tensor& frames, const PngText& text, const fs::path& folder) {
  for (std::int64_t i = 0; i < frames.size(0); ++i)
    save_png(frames[i], folder / fmt::format("{:04}.png", i + 1), i == 0 ? text : PngText{});
}

/// A folder of a name that no other writer uses, removed with what is in it unless it was renamed.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(const fs::path& parent) {
    std::random_device random;
    path_ = parent / fmt::format(".frames.{:08x}{:08x}.part", random(), random());
    fs::create_directory(path_);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

std::vector<fs::path> files_in(const fs::path& folder) {
  return {fs::directory_iterator(folder), fs::directory_iterator()};
}

}  // namespace

void check_frame_folder(const fs::path& folder) {
  if (!fs::exists(folder)) return;
  check_data(fs::is_directory(folder), "can't write {}: it is no folder", folder.string());
  change_folder(folder, [&] {
    for (const auto& file : files_in(folder))
      check_data(is_frame(file),
                 "can't write {}: a folder of frames may hold nothing but frames of an earlier video, it holds {}",
                 folder.string(), file.filename().string());
  });
}

void write_frame_folder(const torch::Tensor& frames, const PngText& text, const fs::path& folder) {
  check_frame_folder(folder);
  change_folder(folder, [&] {
    const auto target = fs::weakly_canonical(folder.has_filename() ? folder : folder.parent_path());
    if (!fs::exists(target)) {
      const TemporaryFolder temporary(target.parent_path());
      write_frames(frames, text, temporary.path());
      fs::rename(temporary.path(), target);
      return;
    }
    const auto old = files_in(target);
    const TemporaryFolder temporary(target);  // on the file system of the folder, which may be a mounted one
    write_frames(frames, text, temporary.path());
    for (const auto& file : old) fs::remove(file);
    for (const auto& file : files_in(temporary.path())) fs::rename(file, target / file.filename());
  });
}

}  // namespace deepcache
