// Scores of tokens: norm, distance to the mean of all, or given; as keys, or straight into the best one.
#pragma once

#include "rows.cuh"

namespace tokexport {

// mean [B, D] float of tokens over N. Grid: (ceil(D / kWarp), B).
template <class L>
struct Mean {
    Rows<L> tokens;
    float* mean;

    __device__ void operator()() const {
        __shared__ float partial[kWarps][kWarp];
        const int column = blockIdx.x * kWarp + lane(), batch = blockIdx.y;
        float sum = 0.0f;
        if (column < tokens.dim)
            for (int row = warp(); row < tokens.count; row += kWarps) sum += to_float(tokens.at(batch, row)[column]);
        partial[warp()][lane()] = sum;
        __syncthreads();
        if (warp() != 0 || column >= tokens.dim) return;
        sum = 0.0f;
        for (int w = 0; w < kWarps; ++w) sum += partial[w][lane()];
        mean[static_cast<size_t>(batch) * tokens.dim + column] = sum / tokens.count;
    }
};

// The norm of each token, or its distance to `mean` where there is one. Writes what is not null: keys [B, N], the
// largest key into best[b * best_stride], and reciprocal norms [B, N], for cosines. Grid: (ceil(N / kWarps), B).
template <class L>
struct Norms {
    Rows<L> tokens;
    const float* mean;
    Key* keys;
    Key* best;
    int best_stride;
    float* reciprocals;

    __device__ void operator()() const {
        const int row = blockIdx.x * kWarps + warp(), batch = blockIdx.y;
        Key key = 0;
        if (row < tokens.count) {
            const float norm = sqrtf(square_sum(tokens.at(batch, row), batch));
            const size_t at = static_cast<size_t>(batch) * tokens.count + row;
            key = make_key(norm, row);
            if (lane() == 0 && keys != nullptr) keys[at] = key;
            if (lane() == 0 && reciprocals != nullptr) reciprocals[at] = 1.0f / fmaxf(norm, 1e-12f);
        }
        if (best != nullptr) block_raise(best + static_cast<size_t>(batch) * best_stride, key);
    }

    __device__ float square_sum(const typename L::T* row, int batch) const {
        const float* centre = mean == nullptr ? nullptr : mean + static_cast<size_t>(batch) * tokens.dim;
        float sum = 0.0f;
        for (int c = lane() * L::V; c < tokens.dim; c += kWarp * L::V) {
            const auto x = Floats<L>::load(row + c);
            for (int i = 0; i < L::V; ++i) {
                const float difference = centre == nullptr ? x.v[i] : x.v[i] - centre[c + i];
                sum += difference * difference;
            }
        }
        return warp_sum(sum);
    }
};

}  // namespace tokexport
