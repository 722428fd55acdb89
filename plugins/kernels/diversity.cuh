// Greedy rules for diverse subsets: determinantal gain and coverage gain. Both also mark what is picked in `state`.
#pragma once

#include "greedy.cuh"
#include "rows.cuh"

namespace tokexport {

// What a token adds to the determinant of the picked: its diagonal, minus what the picked explain (Chen et al., Fast
// Greedy MAP Inference for DPP, 2018). factor [B, K, N] are the rows of the Cholesky factor so far.
template <class L>
struct Determinantal {
    static constexpr float kNothing = 1e-6f;  // below this a gain is rounding, and relevance decides

    Rows<L> tokens;
    const float* relevance;
    const float* reciprocals;
    float* state;
    float* factor;
    int keep;

    __device__ float update(int batch, int row, const Pick& pick) const {
        const size_t own = static_cast<size_t>(batch) * tokens.count + row;
        float gain = state[own];
        const bool picked = gain == kPicked || row == pick.token;
        if (pick.step < 0) {
            // Its cosine to itself is 1, or 0 for a zero token; not a rounding of it, which would order equal
            // relevances.
            const bool zero = !(warp_cosine(tokens, reciprocals, batch, row, row) > 0.5f);
            gain = zero ? 0.0f : relevance[own] * relevance[own];
        } else if (!picked) {
            const float entry = explain(batch, row, pick);
            gain -= entry * entry;
        }
        __syncwarp();
        if (picked)
            gain = kPicked;
        else if (!(gain > kNothing))
            gain = kNothing * fminf(fmaxf(relevance[own], 0.0f), 1.0f);
        if (lane() == 0) state[own] = gain;
        return gain;
    }

    // The entry of `row` in the factor's new row. A pick that added nothing explains nothing.
    __device__ float explain(int batch, int row, const Pick& pick) const {
        const size_t first = static_cast<size_t>(batch) * tokens.count;
        float* rows = factor + first * keep;
        float sum = 0.0f;
        for (int s = lane(); s < pick.step; s += kWarp) sum += at(rows, s, row) * at(rows, s, pick.token);
        sum = warp_sum(sum);
        const float cosine = warp_cosine(tokens, reciprocals, batch, row, pick.token);
        const float similarity = relevance[first + row] * relevance[first + pick.token] * cosine;
        const float entry = pick.score > kNothing ? (similarity - sum) / sqrtf(pick.score) : 0.0f;
        if (lane() == 0) at(rows, pick.step, row) = entry;
        return entry;
    }

    __device__ float& at(float* rows, int step, int row) const {
        return rows[static_cast<size_t>(step) * tokens.count + row];
    }
};

// How much better all tokens are covered with this one picked too: sum_i max(0, cosine_ij - covered_i), times its
// saliency. cosines [B, N, N]; covered [2, B, N] is read and written in turn, by the warp of row 0, so that no block
// reads what another one changes.
struct Coverage {
    const float* cosines;
    const float* saliency;
    float* covered;
    float* state;
    int count;
    int batches;

    __device__ float update(int batch, int row, const Pick& pick) const {
        const size_t first = static_cast<size_t>(batch) * count, half = static_cast<size_t>(batches) * count;
        const bool odd = (pick.step + 1) % 2 == 1;
        const float* before = covered + (odd ? half : 0) + first;
        float* after = covered + (odd ? 0 : half) + first;
        const float* mine = cosines + (first + row) * count;
        const float* last = cosines + (first + (pick.step < 0 ? 0 : pick.token)) * count;
        float gain = 0.0f;
        for (int i = lane(); i < count; i += kWarp) {
            float cover = pick.step < 0 ? 0.0f : before[i];
            if (pick.step >= 0) cover = fmaxf(cover, last[i]);
            if (row == 0) after[i] = cover;
            gain += fmaxf(0.0f, mine[i] - cover);
        }
        gain = warp_sum(gain) * saliency[first + row];
        const bool picked = row == pick.token || state[first + row] == kPicked;
        __syncwarp();
        gain = picked ? kPicked : fmaxf(gain, 0.0f);
        if (lane() == 0) state[first + row] = gain;
        return gain;
    }
};

}  // namespace tokexport
