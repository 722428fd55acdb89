// Scores that a caller gives, of any element type: as keys, or as weights.
#pragma once

#include "host.h"

namespace tokexport {

// keys [B, N] of given scores [B, N]. Grid: (any, B).
template <class T>
struct GivenScores {
    const T* scores;
    Key* keys;
    int count;

    __device__ void operator()() const {
        const size_t first = static_cast<size_t>(blockIdx.y) * count;
        for (int row = blockIdx.x * kThreads + threadIdx.x; row < count; row += gridDim.x * kThreads)
            keys[first + row] = make_key(to_float(scores[first + row]), row);
    }
};

// weights [B, N], given scores [B, N] to the power of alpha. Grid: (any, B).
template <class T>
struct GivenWeights {
    const T* scores;
    float alpha;
    float* weights;
    int count;

    __device__ void operator()() const {
        const size_t first = static_cast<size_t>(blockIdx.y) * count;
        for (int row = blockIdx.x * kThreads + threadIdx.x; row < count; row += gridDim.x * kThreads) {
            const float given = to_float(scores[first + row]);
            weights[first + row] = alpha == 1.0f ? given : powf(given, alpha);
        }
    }
};

inline void given_scores(Queue& queue, const tokexport_shape& s, int dtype, const void* scores, Key* keys) {
    with_type(dtype, [&](auto layout) {
        using T = typename decltype(layout)::T;
        queue(GivenScores<T>{static_cast<const T*>(scores), keys, s.tokens},
              dim3(ceil_div(s.tokens, kThreads), s.batch));
        return 0;
    });
}

inline void given_weights(Queue& queue, const tokexport_shape& s, int dtype, const void* scores, float alpha,
                          float* weights) {
    with_type(dtype, [&](auto layout) {
        using T = typename decltype(layout)::T;
        queue(GivenWeights<T>{static_cast<const T*>(scores), alpha, weights, s.tokens},
              dim3(ceil_div(s.tokens, kThreads), s.batch));
        return 0;
    });
}

}  // namespace tokexport
