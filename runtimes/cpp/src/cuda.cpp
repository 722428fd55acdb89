#include "cuda.h"

#include <algorithm>

#include "tokexport/errors.h"

namespace tokexport {

void check(cudaError_t error, const char* call) {
    if (error == cudaSuccess) return;
    // The error stays set until it is read, and would be reported for the next call.
    cudaGetLastError();
    if (error == cudaErrorMemoryAllocation)
        throw MissingError("the GPU is out of memory", call,
                           "Close what else uses it, or export with --precision fp16 or fewer tokens.");
    if (error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver)
        throw MissingError(std::string("CUDA sees no GPU here: ") + cudaGetErrorString(error), call,
                           "`tokexport doctor` checks driver and GPU.");
    throw GraphError(std::string(call) + " failed: " + cudaGetErrorString(error));
}

std::string compute_capability() {
    int device = 0, major = 0, minor = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
    check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "cudaDeviceGetAttribute");
    return std::to_string(major) + "." + std::to_string(minor);
}

CudaMemory::CudaMemory(Kind kind, std::size_t bytes) : kind_(kind) {
    bytes = std::max<std::size_t>(bytes, 1);
    if (kind == Kind::device)
        check(cudaMalloc(&address_, bytes), "cudaMalloc");
    else
        check(cudaMallocHost(&address_, bytes), "cudaMallocHost");
}

CudaMemory::~CudaMemory() {
    if (kind_ == Kind::device)
        cudaFree(address_);
    else
        cudaFreeHost(address_);
}

CudaStream::CudaStream() {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
}

CudaStream::~CudaStream() { cudaStreamDestroy(stream_); }

void CudaStream::copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) const {
    check(cudaMemcpyAsync(to, from, bytes, kind, stream_), "cudaMemcpyAsync");
}

void CudaStream::copy_rows(void* to, std::size_t pitch, const void* from, std::size_t bytes, std::size_t count,
                           cudaMemcpyKind kind) const {
    check(cudaMemcpy2DAsync(to, pitch, from, bytes, bytes, count, kind, stream_), "cudaMemcpy2DAsync");
}

void CudaStream::synchronize() const { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

cudaGraphExec_t CudaStream::capture(const std::function<bool()>& enqueue, std::string& why) const {
    // Thread-local: another thread may allocate during the capture.
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    const bool enqueued = enqueue();
    // Also after an error: a stream that stays in capture mode cannot be used again.
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    const char* call = "cudaStreamEndCapture";
    cudaError_t error = cudaStreamEndCapture(stream_, &graph);
    if (error == cudaSuccess && enqueued) {
        call = "cudaGraphInstantiateWithFlags";
        error = cudaGraphInstantiateWithFlags(&executable, graph, 0);
        if (error != cudaSuccess) executable = nullptr;
    }
    if (graph != nullptr) cudaGraphDestroy(graph);
    if (executable == nullptr) {
        cudaGetLastError();
        why = error == cudaSuccess ? "TensorRT could not enqueue the engine while it was captured"
                                   : std::string(call) + " failed: " + cudaGetErrorString(error);
    }
    return executable;
}

}  // namespace tokexport
