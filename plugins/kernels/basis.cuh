// How badly a few basis tokens explain each token: ridge least squares.
//
// With G = S S^T + ridge I = L L^T, the rows of Q = L^-1 S explain x as Q^T Q x, which is what the solve with G gives.
// G, L and Q are float64: in float32 G is singular where basis tokens repeat. They are small (M <= 64), and everything
// that touches all tokens is float32.
#pragma once

#include "rows.cuh"

namespace tokexport {

constexpr int kMaxBasis = 64;
constexpr int kAtOnce = 4;  // rows of Q that a warp multiplies a token with in one go

// gram [B, M, M]: the dot products of the picked tokens, lower triangle. A warp a pair. Grid: (ceil(M^2 / kWarps), B).
template <class L>
struct Gram {
    Rows<L> tokens;
    const Key* picks;
    double* gram;
    int basis;

    __device__ void operator()() const {
        const int pair = blockIdx.x * kWarps + warp(), batch = blockIdx.y, i = pair / basis, j = pair % basis;
        if (i >= basis || j > i) return;
        const Key* mine = picks + static_cast<size_t>(batch) * basis;
        const auto *a = tokens.at(batch, key_index(mine[i])), *b = tokens.at(batch, key_index(mine[j]));
        double sum = 0.0;
        for (int c = lane() * L::V; c < tokens.dim; c += kWarp * L::V) {
            const auto x = Floats<L>::load(a + c), y = Floats<L>::load(b + c);
            for (int k = 0; k < L::V; ++k) sum += static_cast<double>(x.v[k]) * static_cast<double>(y.v[k]);
        }
        sum = warp_sum(sum);
        if (lane() == 0) gram[(static_cast<size_t>(batch) * basis + i) * basis + j] = sum;
    }
};

// q [B, M, D] = L^-1 S. Every block factorises for itself; a thread has a column. Grid: (ceil(D / kThreads), B).
template <class L>
struct Orthogonalise {
    Rows<L> tokens;
    const Key* picks;
    const double* gram;
    double ridge;
    float* q;
    int basis;

    __device__ void operator()() const {
        __shared__ double l[kMaxBasis][kMaxBasis];
        const int batch = blockIdx.y, column = blockIdx.x * kThreads + threadIdx.x;
        const size_t first = static_cast<size_t>(batch) * basis;
        for (int at = threadIdx.x; at < basis * basis; at += kThreads)
            l[at / basis][at % basis] = gram[first * basis + at] + (at / basis == at % basis ? ridge : 0.0);
        __syncthreads();
        factorise(l);
        if (column >= tokens.dim) return;
        double solved[kMaxBasis];
        for (int i = 0; i < basis; ++i) {
            double x = static_cast<double>(to_float(tokens.at(batch, key_index(picks[first + i]))[column]));
            for (int j = 0; j < i; ++j) x -= l[i][j] * solved[j];
            solved[i] = x / l[i][i];
            q[(first + i) * tokens.dim + column] = static_cast<float>(solved[i]);
        }
    }

    // Cholesky, in place in the lower triangle. No pivot of G can be below the ridge but by rounding.
    __device__ void factorise(double (*l)[kMaxBasis]) const {
        for (int j = 0; j < basis; ++j) {
            const int i = threadIdx.x;
            double x = 0.0;
            if (i >= j && i < basis) {
                x = l[i][j];
                for (int k = 0; k < j; ++k) x -= l[i][k] * l[j][k];
                if (i == j) l[j][j] = sqrt(fmax(x, ridge));
            }
            __syncthreads();
            if (i > j && i < basis) l[i][j] = x / l[j][j];
            __syncthreads();
        }
    }
};

// For each token the norm of what Q leaves of it, as keys [B, N], and the reciprocal of its norm; sets clear [B, N] to
// 0. A warp a token. Grid: (ceil(N / kWarps), B).
template <class L>
struct Residual {
    Rows<L> tokens;
    const float* q;
    int basis;
    Key* keys;
    float* reciprocals;
    Key* clear;

    __device__ void operator()() const {
        __shared__ float coefficients[kWarps][kMaxBasis];
        const int row = blockIdx.x * kWarps + warp(), batch = blockIdx.y;
        if (row >= tokens.count) return;
        const auto* x = tokens.at(batch, row);
        const float* mine = q + static_cast<size_t>(batch) * basis * tokens.dim;
        for (int m = 0; m < basis; m += kAtOnce) dots(x, mine, m, coefficients[warp()]);
        __syncwarp();
        float rest = 0.0f, all = 0.0f;
        for (int c = lane() * L::V; c < tokens.dim; c += kWarp * L::V) {
            auto value = Floats<L>::load(x + c);
            for (int i = 0; i < L::V; ++i) all += value.v[i] * value.v[i];
            for (int m = 0; m < basis; ++m) {
                const auto y = Floats<Layout<float, L::V>>::load(mine + static_cast<size_t>(m) * tokens.dim + c);
                for (int i = 0; i < L::V; ++i) value.v[i] -= coefficients[warp()][m] * y.v[i];
            }
            for (int i = 0; i < L::V; ++i) rest += value.v[i] * value.v[i];
        }
        rest = sqrtf(warp_sum(rest));
        all = sqrtf(warp_sum(all));
        if (lane() != 0) return;
        const size_t at = static_cast<size_t>(batch) * tokens.count + row;
        keys[at] = make_key(rest, row);
        reciprocals[at] = 1.0f / fmaxf(all, 1e-12f);
        clear[at] = 0;
    }

    __device__ void dots(const typename L::T* x, const float* mine, int m, float* coefficients) const {
        float sums[kAtOnce] = {};
        for (int c = lane() * L::V; c < tokens.dim; c += kWarp * L::V) {
            const auto value = Floats<L>::load(x + c);
            for (int k = 0; k < kAtOnce && m + k < basis; ++k) {
                const auto y = Floats<Layout<float, L::V>>::load(mine + static_cast<size_t>(m + k) * tokens.dim + c);
                for (int i = 0; i < L::V; ++i) sums[k] += value.v[i] * y.v[i];
            }
        }
        for (int k = 0; k < kAtOnce && m + k < basis; ++k) {
            const float sum = warp_sum(sums[k]);
            if (lane() == 0) coefficients[m + k] = sum;
        }
    }
};

}  // namespace tokexport
