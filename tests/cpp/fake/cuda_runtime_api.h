// A CUDA of host memory, for tests of the TensorRT backend on machines without a GPU: what is put on the stream runs at
// once, or is written down while the stream is captured.
#pragma once

#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

enum cudaError_t {
    cudaSuccess,
    cudaErrorMemoryAllocation,
    cudaErrorNoDevice,
    cudaErrorInsufficientDriver,
    cudaErrorInvalidValue,
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum { cudaDevAttrComputeCapabilityMajor, cudaDevAttrComputeCapabilityMinor };
enum { cudaStreamNonBlocking, cudaStreamCaptureModeThreadLocal };

using FakeWork = std::vector<std::function<void()>>;
struct FakeStream {
    FakeWork* captured = nullptr;
};
using cudaStream_t = FakeStream*;
using cudaGraph_t = FakeWork*;
using cudaGraphExec_t = FakeWork*;

// What a test sets and reads.
struct Fake {
    int major = 8, minor = 7, allocated = 0, enqueued = 0, replayed = 0, downloads = 0;
    std::size_t memory = 1 << 20;  // no single allocation may be larger
    bool captures = true, has_plugin = false, enqueues = true;
    std::vector<std::string> libraries;
};
inline Fake fake;

inline cudaError_t cudaMalloc(void** address, std::size_t bytes) {
    if (bytes > fake.memory) return cudaErrorMemoryAllocation;
    ++fake.allocated;
    *address = std::malloc(bytes);
    return cudaSuccess;
}
inline cudaError_t cudaMallocHost(void** address, std::size_t bytes) { return cudaMalloc(address, bytes); }
inline cudaError_t cudaFree(void* address) {
    if (address != nullptr) --fake.allocated;
    std::free(address);
    return cudaSuccess;
}
inline cudaError_t cudaFreeHost(void* address) { return cudaFree(address); }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "fake error"; }
inline cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return fake.major ? cudaSuccess : cudaErrorNoDevice;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, int which, int) {
    *value = which == cudaDevAttrComputeCapabilityMajor ? fake.major : fake.minor;
    return cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, int) {
    *stream = new FakeStream;
    return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
    if (kind == cudaMemcpyDeviceToHost) ++fake.downloads;
    std::memcpy(to, from, bytes);
    return cudaSuccess;
}
inline cudaError_t cudaMemcpy2DAsync(void* to, std::size_t pitch, const void* from, std::size_t between,
                                     std::size_t bytes, std::size_t rows, cudaMemcpyKind kind, cudaStream_t stream) {
    for (std::size_t row = 0; row < rows; ++row)
        cudaMemcpyAsync(static_cast<char*>(to) + row * pitch, static_cast<const char*>(from) + row * between, bytes, kind,
                        stream);
    return cudaSuccess;
}
inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, int) {
    stream->captured = new FakeWork;
    return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    *graph = stream->captured;
    stream->captured = nullptr;
    return fake.captures ? cudaSuccess : cudaErrorInvalidValue;
}
inline cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
    *executable = new FakeWork(*graph);
    return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) { return cudaGraphDestroy(executable); }
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t) {
    ++fake.replayed;
    for (const auto& work : *executable) work();
    return cudaSuccess;
}
