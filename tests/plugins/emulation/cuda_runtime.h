// Enough of CUDA to compile the kernels with a C++ compiler and run them on the CPU, a thread of a block being a fiber.
//
// A warp runs alone until all of it waits at __syncthreads, then the next one runs, so a run is deterministic and as
// far from lockstep as a GPU may go: a kernel that lacks a barrier gives wrong results. TOKEXPORT_EMULATION_REVERSE=1
// runs the last thread, warp and block first. A barrier that not all threads reach aborts.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(threads)

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9, cudaErrorNoKernelImageForDevice = 209 };
using cudaStream_t = struct CUstream_st*;

inline const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorInvalidConfiguration ? "invalid configuration argument" : "no error";
}

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
};

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

constexpr int kWarpSize = 32;

// Runs body(context) once for every thread of every block.
cudaError_t launch(const cudaLaunchConfig_t& config, void (*body)(void*), void* context);

void block_barrier();
void warp_barrier(unsigned mask);

// A word for each lane of this warp; two sets in turn, so that one barrier an exchange is enough.
uint64_t* exchange_words();

template <class T>
T exchange(unsigned mask, T value, unsigned from) {
    static_assert(sizeof(T) <= sizeof(uint64_t) && std::is_trivially_copyable_v<T>);
    uint64_t* words = exchange_words();
    std::memcpy(&words[threadIdx.x % kWarpSize], &value, sizeof(T));
    warp_barrier(mask);
    std::memcpy(&value, &words[from], sizeof(T));
    return value;
}

}  // namespace emulation

template <class Argument>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Argument), const Argument& argument) {
    struct Call {
        void (*kernel)(Argument);
        const Argument* argument;
    } call{kernel, &argument};
    return emulation::launch(
        *config, [](void* context) { static_cast<Call*>(context)->kernel(*static_cast<Call*>(context)->argument); },
        &call);
}

inline void __syncthreads() { emulation::block_barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { emulation::warp_barrier(mask); }

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int offset) {
    return emulation::exchange(mask, value, (threadIdx.x % emulation::kWarpSize) ^ static_cast<unsigned>(offset));
}

template <class T>
T __shfl_sync(unsigned mask, T value, int from) {
    return emulation::exchange(mask, value, static_cast<unsigned>(from));
}

inline unsigned __ballot_sync(unsigned mask, bool flag) {
    uint64_t* words = emulation::exchange_words();
    words[threadIdx.x % emulation::kWarpSize] = flag;
    emulation::warp_barrier(mask);
    unsigned ballot = 0;
    for (int i = 0; i < emulation::kWarpSize; ++i) ballot |= static_cast<unsigned>(words[i]) << i;
    return ballot;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

inline unsigned __float_as_uint(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline float __uint_as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

template <class T>
T atomicMax(T* at, T value) {
    const T old = *at;
    *at = std::max(old, value);
    return old;
}
