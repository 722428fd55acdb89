// Rows of tokens, read and written V elements at a time by one warp or one block.
#pragma once

#include "common.cuh"

namespace tokexport {

// How tokens lie in memory: elements of type T, V of them to an access.
template <class T_, int V_>
struct Layout {
    using T = T_;
    static constexpr int V = V_;
};

// One access: at most the 16 bytes that a thread moves at once are promised to be aligned.
template <class L>
struct alignas(sizeof(typename L::T) * L::V < 16 ? sizeof(typename L::T) * L::V : 16) Pack {
    typename L::T values[L::V];
};

// tokens [B, N, D].
template <class L>
struct Rows {
    const typename L::T* data;
    int count;
    int dim;

    __device__ const typename L::T* at(int batch, int row) const {
        return data + (static_cast<int64_t>(batch) * count + row) * dim;
    }
};

// V elements as floats.
template <class L>
struct Floats {
    float v[L::V];

    __device__ static Floats load(const typename L::T* from) {
        const Pack<L> pack = *reinterpret_cast<const Pack<L>*>(from);
        Floats result;
        for (int i = 0; i < L::V; ++i) result.v[i] = to_float(pack.values[i]);
        return result;
    }

    __device__ void store(typename L::T* to) const {
        Pack<L> pack;
        for (int i = 0; i < L::V; ++i) from_float(v[i], pack.values[i]);
        *reinterpret_cast<Pack<L>*>(to) = pack;
    }
};

// sum((a - b)^2) over dim elements, in all lanes of the warp. Not by expanding the square, which loses small distances.
template <class L>
__device__ float warp_distance(const typename L::T* a, const typename L::T* b, int dim) {
    float sum = 0.0f;
#pragma unroll 4  // loads of several rounds in flight
    for (int c = lane() * L::V; c < dim; c += kWarp * L::V) {
        const auto x = Floats<L>::load(a + c), y = Floats<L>::load(b + c);
        for (int i = 0; i < L::V; ++i) sum += (x.v[i] - y.v[i]) * (x.v[i] - y.v[i]);
    }
    return warp_sum(sum);
}

// a . b over dim elements, in all lanes of the warp; b is of any type that converts.
template <class L, class U>
__device__ float warp_dot(const typename L::T* a, const U* b, int dim) {
    float sum = 0.0f;
#pragma unroll 4
    for (int c = lane() * L::V; c < dim; c += kWarp * L::V) {
        const auto x = Floats<L>::load(a + c);
        const auto y = Floats<Layout<U, L::V>>::load(b + c);
        for (int i = 0; i < L::V; ++i) sum += x.v[i] * y.v[i];
    }
    return warp_sum(sum);
}

// The cosine of two tokens, in all lanes of the warp, for reciprocal norms [B, N].
template <class L>
__device__ float warp_cosine(const Rows<L>& tokens, const float* reciprocals, int batch, int a, int b) {
    const float* mine = reciprocals + static_cast<size_t>(batch) * tokens.count;
    return warp_dot<L>(tokens.at(batch, a), tokens.at(batch, b), tokens.dim) * mine[a] * mine[b];
}

}  // namespace tokexport
