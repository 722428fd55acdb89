// How relevant tokens are to a text: their mean cosine with its rows, brought to [0, 1].
#pragma once

#include "host.h"
#include "score.cuh"

namespace tokexport {

// mean [B, D] float of the rows of a text, each of length 1, without padding, which is rows of zeros. Grid:
// (ceil(D / kWarp), B).
template <class L>
struct TextMean {
    static constexpr float kPadding = 1e12f;  // the reciprocal that Norms gives a row of zeros

    Rows<L> text;
    const float* reciprocals;  // of the norms [B, rows]
    float* mean;

    __device__ void operator()() const {
        const int column = blockIdx.x * kWarp + lane(), batch = blockIdx.y;
        if (warp() != 0 || column >= text.dim) return;
        const float* lengths = reciprocals + static_cast<size_t>(batch) * text.count;
        float sum = 0.0f;
        int count = 0;
        for (int row = 0; row < text.count; ++row) {
            if (lengths[row] == kPadding) continue;
            sum += to_float(text.at(batch, row)[column]) * lengths[row];
            ++count;
        }
        mean[static_cast<size_t>(batch) * text.dim + column] = sum / static_cast<float>(count > 0 ? count : 1);
    }
};

// likeness [B, N], the cosine of each token with the mean [B, D] times its length and `sign`. Grid: (ceil(N / kWarps),
// B).
template <class L>
struct Likeness {
    Rows<L> tokens;
    const float* reciprocals;  // of the norms [B, N]
    const float* mean;
    float sign;
    float* likeness;

    __device__ void operator()() const {
        const int row = blockIdx.x * kWarps + warp(), batch = blockIdx.y;
        if (row >= tokens.count) return;
        const float* centre = mean + static_cast<size_t>(batch) * tokens.dim;
        const float product = warp_dot<L>(tokens.at(batch, row), centre, tokens.dim);
        const size_t at = static_cast<size_t>(batch) * tokens.count + row;
        if (lane() == 0) likeness[at] = sign * product * reciprocals[at];
    }
};

// relevance [B, N] in (0, 1]: 1 for the largest likeness [B, N], and all 1 where all are alike. Grid: (1, B).
struct Relevance {
    static constexpr float kSpread = 1e-6f;

    const float* likeness;
    float* relevance;
    int count;

    __device__ void operator()() const {
        const size_t first = static_cast<size_t>(blockIdx.y) * count;
        float high = -INFINITY, low = INFINITY;
        for (int row = lane(); row < count; row += kWarp) {
            high = fmaxf(high, likeness[first + row]);
            low = fminf(low, likeness[first + row]);
        }
        high = warp_max(high);
        low = -warp_max(-low);
        for (int row = threadIdx.x; row < count; row += kThreads)
            relevance[first + row] = (likeness[first + row] - low + kSpread) / (high - low + kSpread);
    }
};

// What `relevant` needs of the workspace.
struct TextScratch {
    float* lengths;
    float* mean;
    float* likeness;
    float* relevance;

    TextScratch(Arena& arena, const tokexport_shape& s, int text_length)
        : lengths(arena.take<float>(s.batch, text_length)),
          mean(arena.take<float>(s.batch, s.dim)),
          likeness(arena.take<float>(s.batch, s.tokens)),
          relevance(arena.take<float>(s.batch, s.tokens)) {}
};

// Fills scratch.relevance, for reciprocal norms [B, N] of the tokens and text [B, text_length, D] of `dtype`.
template <class L>
void relevant(Queue& queue, const Rows<L>& tokens, const float* reciprocals, const void* text, int text_length,
              int dtype, bool inverted, int batch, const TextScratch& scratch) {
    with_layout(dtype, tokens.dim, text, text, [&](auto layout) {
        using T = decltype(layout);
        const Rows<T> rows{static_cast<const typename T::T*>(text), text_length, tokens.dim};
        queue(Norms<T>{rows, nullptr, nullptr, nullptr, 0, scratch.lengths},
              dim3(ceil_div(text_length, kWarps), batch));
        queue(TextMean<T>{rows, scratch.lengths, scratch.mean}, dim3(ceil_div(tokens.dim, kWarp), batch));
        return 0;
    });
    queue(Likeness<L>{tokens, reciprocals, scratch.mean, inverted ? -1.0f : 1.0f, scratch.likeness},
          dim3(ceil_div(tokens.count, kWarps), batch));
    queue(Relevance{scratch.likeness, scratch.relevance, tokens.count}, dim3(1, batch));
}

}  // namespace tokexport
