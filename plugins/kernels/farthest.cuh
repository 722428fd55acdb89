// Greedy rule: the token farthest from all picked, by L2 or by cosine; and where to start.
#pragma once

#include "greedy.cuh"
#include "score.cuh"

namespace tokexport {

// The distance to the nearest pick. Also whose it is, the lowest pick among equals, where `owner` [B, N] is not null; a
// pick is its own.
template <class L, class Distance>
struct Farthest {
    Rows<L> tokens;
    Distance distance;
    float* nearest;
    int* owner;

    __device__ float update(int batch, int row, const Pick& pick) const {
        const size_t at = static_cast<size_t>(batch) * tokens.count + row;
        const float before = nearest[at], now = distance(tokens, batch, row, pick.token);
        __syncwarp();
        if (lane() == 0 && owner != nullptr && before != kPicked) {
            const bool nearer = now < before || (now == before && pick.token < owner[at]);
            if (pick.step == 0 || row == pick.token || nearer) owner[at] = pick.token;
        }
        const float after = row == pick.token ? kPicked : fminf(before, now);
        if (lane() == 0) nearest[at] = after;
        return after;
    }
};

struct SquaredDistance {
    template <class L>
    __device__ float operator()(const Rows<L>& tokens, int batch, int a, int b) const {
        return warp_distance<L>(tokens.at(batch, a), tokens.at(batch, b), tokens.dim);
    }
};

// 1 - cosine, for reciprocal norms [B, N].
struct CosineDistance {
    const float* reciprocals;

    template <class L>
    __device__ float operator()(const Rows<L>& tokens, int batch, int a, int b) const {
        return 1.0f - warp_cosine(tokens, reciprocals, batch, a, b);
    }
};

enum class Start { kFirst = 0, kMaxNorm = 1, kFarthestFromMean = 2 };

// The first pick by its rule. `mean` [B, D] is scratch for kFarthestFromMean.
template <class L>
void start(Queue& queue, Start rule, Rows<L> tokens, int batch, GreedyBegin begin, float* mean) {
    begin.first = rule == Start::kFirst;
    queue(begin, dim3(ceil_div(tokens.count, kThreads), batch));
    if (rule == Start::kFirst) return;
    if (rule == Start::kFarthestFromMean) queue(Mean<L>{tokens, mean}, dim3(ceil_div(tokens.dim, kWarp), batch));
    queue(Norms<L>{tokens, rule == Start::kMaxNorm ? nullptr : mean, nullptr, begin.picks, begin.picked, nullptr},
          dim3(ceil_div(tokens.count, kWarps), batch));
}

}  // namespace tokexport
