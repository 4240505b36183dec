#include <ATen/core/CachingHostAllocator.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>

#include <mutex>

#include "core/recorder.hpp"
#include "error.hpp"
#include "log.hpp"

namespace deepcache {
namespace {

namespace device_allocator = c10::cuda::CUDACachingAllocator;

struct CudaRecording : Recording {
  explicit CudaRecording(std::shared_ptr<const c10::MempoolId_t> pool_id) : pool(std::move(pool_id)) {}
  void replay() override { graph.replay(); }
  const c10::IValue& output() const override { return value; }

  std::shared_ptr<const c10::MempoolId_t> pool;
  at::cuda::CUDAGraph graph;
  c10::IValue value;
};

/// As PyTorch's notes on CUDA graphs have it: warmed up and captured on a side stream, in one private pool of memory.
class CudaRecorder : public Recorder {
 public:
  explicit CudaRecorder(torch::Device device) : stream_(c10::cuda::getStreamFromPool(false, device.index())) {}

  std::unique_ptr<Recording> record(const Work& work) override {
    static std::mutex mutex;  // LibTorch captures one graph at a time
    const std::scoped_lock lock(mutex);
    c10::cuda::getCurrentCUDAStream(stream_.device_index()).synchronize();  // what the work reads is there
    const c10::cuda::CUDAStreamGuard guard(stream_);
    work();  // so that libraries have what they keep for this stream
    stream_.synchronize();
    device_allocator::emptyCache();  // of what that took, which other streams can't use
    auto recording = std::make_unique<CudaRecording>(shared_pool());
    const auto pool = *recording->pool;
    // Other threads may go on meanwhile.
    recording->graph.capture_begin(pool, cudaStreamCaptureModeThreadLocal);
    try {
      recording->value = work();
      recording->graph.capture_end();
    } catch (...) {
      abandon(recording->graph, pool);
      throw;
    }
    return recording;
  }

 private:
  /// LibTorch forgets a pool as the last graph in it goes, and takes its name no more.
  std::shared_ptr<const c10::MempoolId_t> shared_pool() {
    auto pool = pool_.lock();
    if (!pool) pool_ = pool = std::make_shared<const c10::MempoolId_t>(at::cuda::graph_pool_handle());
    return pool;
  }

  /// Ends a capture that failed. Where CUDA has given it up, `capture_end` throws and leaves the allocators recording.
  void abandon(at::cuda::CUDAGraph& graph, const c10::MempoolId_t& pool) const {
    try {
      graph.capture_end();
      return;
    } catch (const c10::Error& error) {  // what is thrown says more
      log(LogLevel::kDebug, error.what_without_backtrace());
    }
    try {
      device_allocator::endAllocateToPool(stream_.device_index(), pool);
      device_allocator::releasePool(stream_.device_index(), pool);
      at::getHostAllocator(at::kCUDA)->end_allocate_to_pool(pool);
      at::getHostAllocator(at::kCUDA)->release_pool(pool);
    } catch (const c10::Error& error) {  // it had come further than that
      log(LogLevel::kDebug, error.what_without_backtrace());
    }
  }

  c10::cuda::CUDAStream stream_;
  std::weak_ptr<const c10::MempoolId_t> pool_;  // kept by the recordings
};

}  // namespace

std::unique_ptr<Recorder> make_recorder(torch::Device device) {
  check_argument(device.is_cuda(), "cuda_graphs must be false unless the device is \"cuda\", got \"{}\"", device.str());
  return std::make_unique<CudaRecorder>(device);
}

}  // namespace deepcache
