// The few CUDA calls that running an engine takes.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <functional>
#include <string>

namespace tokexport {

// MissingError: out of memory, or no GPU. GraphError: any other failure.
void check(cudaError_t error, const char* call);

// Of the current device, such as "8.7".
std::string compute_capability();

// Bytes on the device, or page-locked on the host; at least one, because CUDA returns no address for zero bytes.
class CudaMemory {
  public:
    enum class Kind { device, host };
    CudaMemory(Kind kind, std::size_t bytes);
    ~CudaMemory();
    CudaMemory(const CudaMemory&) = delete;
    CudaMemory& operator=(const CudaMemory&) = delete;

    void* get() const { return address_; }

  private:
    Kind kind_;
    void* address_ = nullptr;
};

class CudaStream {
  public:
    CudaStream();
    ~CudaStream();
    CudaStream(const CudaStream&) = delete;
    CudaStream& operator=(const CudaStream&) = delete;

    cudaStream_t get() const { return stream_; }
    void copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) const;
    // `count` rows of `bytes`, which stand close to one another in `from` and `pitch` bytes apart in `to`.
    void copy_rows(void* to, std::size_t pitch, const void* from, std::size_t bytes, std::size_t count,
                   cudaMemcpyKind kind) const;
    void synchronize() const;  // errors of asynchronous calls are thrown here

    // Captures what `enqueue` puts on the stream instead of running it; null where something in it cannot be captured,
    // and then `why` says what.
    cudaGraphExec_t capture(const std::function<bool()>& enqueue, std::string& why) const;

  private:
    cudaStream_t stream_ = nullptr;
};

}  // namespace tokexport
