// From scores to slots: ranks by counting, and kept tokens in spatial order.
#pragma once

#include "common.cuh"

namespace tokexport {

// ranks [B, N]: how many tokens come before this one, by larger key and, among equal keys, by lower index.
// A warp counts for one token: N^2 comparisons, and no limit like a sort's. Grid: (ceil(N / kWarps), B).
struct Rank {
    const Key* keys;
    int* ranks;
    int count;

    __device__ void operator()() const {
        const int row = blockIdx.x * kWarps + warp();
        if (row >= count) return;
        const Key* all = keys + static_cast<size_t>(blockIdx.y) * count;
        const Key own = all[row];
        int before = 0;
        for (int other = lane(); other < count; other += kWarp)
            before += all[other] > own || (all[other] == own && other < row);
        const int rank = warp_sum(before);
        if (lane() == 0) ranks[static_cast<size_t>(blockIdx.y) * count + row] = rank;
    }
};

constexpr int kLost = -1;   // a token without a slot
constexpr int kTaken = -2;  // a token whose slot holds another token

// Which tokens are kept, in spatial order. Of these, the choice may call some `taken`: in spatial order, their slots go
// to choice.source(batch, 0), (batch, 1), ... Writes kept_indices [B, K], assignment [B, N], and what is not null:
// slots [B, N], source [B, K] (-1 for slots that are not taken), sizes [B, K] of 1. Grid: (1, B).
template <class Choice>
struct Compact {
    Choice choice;
    int64_t* kept_indices;
    int* slots;
    int* source;
    int64_t* assignment;
    float* sizes;
    int count;
    int keep;

    __device__ void operator()() const {
        const int batch = blockIdx.y;
        const size_t first_row = static_cast<size_t>(batch) * count, first_slot = static_cast<size_t>(batch) * keep;
        int next_slot = 0, next_taken = 0;
        for (int base = 0; base < count; base += kThreads) {
            const int row = base + threadIdx.x;
            const bool kept = row < count && choice.kept(batch, row);
            const bool taken = kept && choice.taken(batch, row);
            const Place place = block_place(kept), among_taken = block_place(taken);
            const int slot = next_slot + place.before;
            if (row < count) {
                assignment[first_row + row] = kept && !taken ? slot : kLost;
                if (slots != nullptr) slots[first_row + row] = taken ? kTaken : kept ? slot : kLost;
            }
            if (kept && slot < keep) {
                kept_indices[first_slot + slot] = row;
                if (sizes != nullptr) sizes[first_slot + slot] = 1.0f;
                if (source != nullptr)
                    source[first_slot + slot] = taken ? choice.source(batch, next_taken + among_taken.before) : -1;
            }
            next_slot += place.total;
            next_taken += among_taken.total;
        }
    }
};

// What most choices have in common: no slot is taken.
struct Plain {
    __device__ bool taken(int, int) const { return false; }
    __device__ int source(int, int) const { return kLost; }
};

struct EveryToken : Plain {
    __device__ bool kept(int, int) const { return true; }
};

// The K tokens of lowest rank.
struct TopRanks : Plain {
    const int* ranks;
    int count;
    int keep;

    TopRanks(const int* ranks_, int count_, int keep_) : ranks(ranks_), count(count_), keep(keep_) {}

    __device__ bool kept(int batch, int row) const { return ranks[static_cast<size_t>(batch) * count + row] < keep; }
};

// The tokens a greedy selection has picked: those whose state is `value`.
struct Marked : Plain {
    const float* state;
    float value;
    int count;

    Marked(const float* state_, float value_, int count_) : state(state_), value(value_), count(count_) {}

    __device__ bool kept(int batch, int row) const { return state[static_cast<size_t>(batch) * count + row] == value; }
};

}  // namespace tokexport
