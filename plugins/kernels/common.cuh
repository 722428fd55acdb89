// What every kernel here is made of: element types, warp and block reductions, keys that order scores, launches.
//
// A kernel is a *step*: a struct of pointers and sizes with `__device__ void operator()() const`, run by blocks of
// kThreads threads. blockIdx.y is always the batch element.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace tokexport {

constexpr int kWarp = 32;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline int lane() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ inline int warp() { return static_cast<int>(threadIdx.x) / kWarp; }
__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__half x) { return __half2float(x); }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline void from_float(float x, float& y) { y = x; }
__device__ inline void from_float(float x, __half& y) { y = __float2half_rn(x); }
__device__ inline void from_float(float x, __nv_bfloat16& y) { y = __float2bfloat16_rn(x); }

// A key orders by score, and among equal scores by index, lowest first: the best of many is a maximum, and the maximum
// is the same in whatever order atomics arrive. 0 is below every key. The order is total, NaN included, so a NaN can
// make a choice meaningless but never an index invalid.
using Key = unsigned long long;

__device__ inline Key make_key(float score, int index) {
    const unsigned bits = __float_as_uint(score + 0.0f);  // -0 becomes +0
    const unsigned ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return static_cast<Key>(ordered) << 32 | (0xffffffffu - static_cast<unsigned>(index));
}

__device__ inline int key_index(Key key) { return static_cast<int>(0xffffffffu - static_cast<unsigned>(key)); }

__device__ inline float key_score(Key key) {
    const unsigned ordered = static_cast<unsigned>(key >> 32);
    return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}

__device__ inline Key larger(Key a, Key b) { return a > b ? a : b; }

// The sum of x over the lanes of a warp, in all of them.
template <class T>
__device__ T warp_sum(T x) {
    for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
    return x;
}

template <class T>
__device__ T warp_max(T x, int width = kWarp) {
    for (int offset = width / 2; offset > 0; offset /= 2) {
        const T other = __shfl_xor_sync(kAllLanes, x, offset);
        x = other > x ? other : x;
    }
    return x;
}

// The sum of x over the block, in all of its threads. Every thread must call it.
__device__ inline float block_sum(float x) {
    __shared__ float partial[kWarps];
    x = warp_sum(x);
    if (lane() == 0) partial[warp()] = x;
    __syncthreads();
    x = 0.0f;
    for (int w = 0; w < kWarps; ++w) x += partial[w];
    __syncthreads();
    return x;
}

// Raises *best to the largest key of the block, where key is the same in all lanes of a warp. Every thread must call
// it.
__device__ inline void block_raise(Key* best, Key key) {
    __shared__ Key partial[kWarps];
    if (lane() == 0) partial[warp()] = key;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < kWarps; ++w) key = larger(key, partial[w]);
        atomicMax(best, key);
    }
    __syncthreads();
}

// The block's threads for which `flag` holds: how many come before this one, and how many there are.
struct Place {
    int before;
    int total;
};

__device__ inline Place block_place(bool flag) {
    __shared__ int counts[kWarps];
    const unsigned ballot = __ballot_sync(kAllLanes, flag);
    if (lane() == 0) counts[warp()] = __popc(ballot);
    __syncthreads();
    Place place{__popc(ballot & ((1u << lane()) - 1u)), 0};
    for (int w = 0; w < kWarps; ++w) {
        if (w < warp()) place.before += counts[w];
        place.total += counts[w];
    }
    __syncthreads();
    return place;
}

template <class Step>
__global__ void __launch_bounds__(kThreads) run(const Step step) {
    step();
}

// Enqueues steps; keeps the first error and enqueues nothing after it.
class Queue {
  public:
    explicit Queue(cudaStream_t stream) : stream_(stream) {}

    template <class Step>
    void operator()(const Step& step, dim3 grid) {
        if (error_ != cudaSuccess) return;
        cudaLaunchConfig_t config{};
        config.gridDim = grid;
        config.blockDim = dim3(kThreads);
        config.stream = stream_;
        error_ = cudaLaunchKernelEx(&config, run<Step>, step);
    }

    cudaError_t error() const { return error_; }

  private:
    cudaStream_t stream_;
    cudaError_t error_ = cudaSuccess;
};

}  // namespace tokexport
