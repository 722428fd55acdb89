// From slots to tokens: means of what went into each slot, or copies.
#pragma once

#include "rows.cuh"
#include "select.cuh"
#include "tokexport_kernels.h"

namespace tokexport {

// Each slot of `out` [B, K, D] is the mean of the tokens that `destination` sends there, summed in ascending order,
// weighted by `weights` [B, N] where not null; or, where `kAdd`, the kept token plus the mean of the others sent there.
// Or, where `source` is not null and not -1, the token at that position: alone, or with `blend` half of it and half of
// the kept one. Writes sizes, and the assignment of the tokens sent somewhere. Grid: (K, B, ceil(D / (kThreads V))).
template <class L, class Destination, class T = typename L::T, bool kAdd = false>
struct Merge {
    Rows<L> tokens;
    Destination destination;
    const int64_t* kept_indices;
    const int* source;
    bool blend;
    const float* weights;
    T* out;
    float* sizes;
    int64_t* assignment;
    int keep;

    __device__ void operator()() const {
        const int slot = blockIdx.x, batch = blockIdx.y;
        const size_t at = static_cast<size_t>(batch) * keep + slot;
        const int replaced_by = source == nullptr ? -1 : source[at];
        if (replaced_by >= 0)
            replace(batch, at, replaced_by);
        else
            average(batch, slot, at);
    }

    __device__ int column() const { return (blockIdx.z * kThreads + threadIdx.x) * L::V; }

    __device__ void average(int batch, int slot, size_t at) const {
        __shared__ int members[kThreads];
        const size_t first_row = static_cast<size_t>(batch) * tokens.count;
        Floats<L> sum{}, own{};
        float size = 0.0f;
        for (int base = 0; base < tokens.count; base += kThreads) {
            const int row = base + threadIdx.x;
            const bool member = row < tokens.count && destination(batch, row) == slot;
            const Place place = block_place(member);
            if (member) members[place.before] = row;
            if (member && blockIdx.z == 0) assignment[first_row + row] = slot;
            __syncthreads();
            for (int m = 0; m < place.total; ++m) {
                const float weight = weights == nullptr ? 1.0f : weights[first_row + members[m]];
                size += weight;
                if (column() >= tokens.dim) continue;
                const auto x = Floats<L>::load(tokens.at(batch, members[m]) + column());
                if (kAdd && members[m] == kept_indices[at])
                    own = x;
                else
                    for (int i = 0; i < L::V; ++i) sum.v[i] += weight * x.v[i];
            }
            __syncthreads();
        }
        for (int i = 0; i < L::V; ++i) sum.v[i] = kAdd ? own.v[i] + sum.v[i] / fmaxf(size - 1.0f, 1.0f) : sum.v[i] / size;
        finish(at, sum, size);
    }

    __device__ void replace(int batch, size_t at, int replaced_by) const {
        Floats<L> x{};
        if (column() < tokens.dim) {
            x = Floats<L>::load(tokens.at(batch, replaced_by) + column());
            if (blend) {
                const auto old = Floats<L>::load(tokens.at(batch, static_cast<int>(kept_indices[at])) + column());
                for (int i = 0; i < L::V; ++i) x.v[i] = (x.v[i] + old.v[i]) / 2.0f;
            }
        }
        finish(at, x, 1.0f);
    }

    __device__ void finish(size_t at, const Floats<L>& x, float size) const {
        Floats<Layout<T, L::V>> y;
        for (int i = 0; i < L::V; ++i) y.v[i] = x.v[i];
        if (column() < tokens.dim) y.store(out + at * tokens.dim + column());
        if (blockIdx.z == 0 && threadIdx.x == 0) sizes[at] = size;
    }
};

// Each slot of `out` [B, K, D] is the token at kept_indices. Grid: (K, B, ceil(D / (kThreads V))).
template <class L>
struct Gather {
    Rows<L> tokens;
    const int64_t* kept_indices;
    typename L::T* out;
    int keep;

    __device__ void operator()() const {
        const int column = (blockIdx.z * kThreads + threadIdx.x) * L::V;
        if (column >= tokens.dim) return;
        const size_t at = static_cast<size_t>(blockIdx.y) * keep + blockIdx.x;
        const auto* row = tokens.at(blockIdx.y, static_cast<int>(kept_indices[at]));
        *reinterpret_cast<Pack<L>*>(out + at * tokens.dim + column) = *reinterpret_cast<const Pack<L>*>(row + column);
    }
};

template <class L>
dim3 slot_grid(int keep, int batch, int dim) {
    return dim3(keep, batch, ceil_div(dim, kThreads * L::V));
}

// Keeps the chosen tokens as they are and loses the others.
template <class L, class Choice>
void keep_as_they_are(Queue& queue, const Choice& choice, Rows<L> tokens, int batch, int keep,
                      const tokexport_outputs& out) {
    queue(Compact<Choice>{choice, out.kept_indices, nullptr, nullptr, out.assignment, out.sizes, tokens.count, keep},
          dim3(1, batch));
    queue(Gather<L>{tokens, out.kept_indices, static_cast<typename L::T*>(out.tokens), keep},
          slot_grid<L>(keep, batch, tokens.dim));
}

// Keeps the K tokens of the largest keys [B, N] as they are; ranks [B, N] are scratch.
template <class L>
void keep_highest(Queue& queue, const Key* keys, int* ranks, Rows<L> tokens, int batch, int keep,
                  const tokexport_outputs& out) {
    queue(Rank{keys, ranks, tokens.count}, dim3(ceil_div(tokens.count, kWarps), batch));
    keep_as_they_are(queue, TopRanks(ranks, tokens.count, keep), tokens, batch, keep, out);
}

// K = N: the identity.
template <class L>
void keep_all(Queue& queue, Rows<L> tokens, int batch, const tokexport_outputs& out) {
    keep_as_they_are(queue, EveryToken{}, tokens, batch, tokens.count, out);
}

// Destinations.

// The slot of the owner that a greedy selection found.
struct OwnersSlot {
    const int* slots;
    const int* owner;
    int count;

    __device__ int operator()(int batch, int row) const {
        const size_t first = static_cast<size_t>(batch) * count;
        return slots[first + owner[first + row]];
    }
};

// A kept token's own slot; for a lost one, the slot in its key where there are keys [B, N].
struct NearestSlot {
    const int* slots;
    const Key* nearest;
    int count;

    __device__ int operator()(int batch, int row) const {
        const size_t at = static_cast<size_t>(batch) * count + row;
        return slots[at] == kLost && nearest != nullptr ? key_index(nearest[at]) : slots[at];
    }
};

}  // namespace tokexport
