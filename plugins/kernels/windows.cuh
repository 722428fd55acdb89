// The contents of a grid's slots: windows pooled or stacked, or frames resized.
#pragma once

#include "grid.cuh"

namespace tokexport {

// The mean or the largest value of each window, channel by channel. Grid: (K, B, ceil(D / (kThreads V))).
template <class L>
struct Pool {
    Rows<L> tokens;
    Grid grid;
    bool largest;
    typename L::T* out;

    __device__ void operator()() const {
        const int column = (blockIdx.z * kThreads + threadIdx.x) * L::V, batch = blockIdx.y;
        if (column >= tokens.dim) return;
        const int first = grid.first(grid.place(blockIdx.x));
        auto result = Floats<L>::load(tokens.at(batch, first) + column);
        for (int f = 0; f < grid.frames.by; ++f)
            for (int y = 0; y < grid.rows.by; ++y)
                for (int x = 0; x < grid.columns.by; ++x)
                    if (f + y + x > 0) add(result, batch, first + grid.token(f, y, x), column);
        const auto size = static_cast<float>(grid.frames.by * grid.rows.by * grid.columns.by);
        for (int i = 0; i < L::V && !largest; ++i) result.v[i] /= size;
        result.store(out + (static_cast<size_t>(batch) * gridDim.x + blockIdx.x) * tokens.dim + column);
    }

    __device__ void add(Floats<L>& result, int batch, int position, int column) const {
        const auto x = Floats<L>::load(tokens.at(batch, position) + column);
        for (int i = 0; i < L::V; ++i) result.v[i] = largest ? fmaxf(result.v[i], x.v[i]) : result.v[i] + x.v[i];
    }
};

// Each frame at the points of its rows and columns, bilinear. Grid: (K, B, ceil(D / (kThreads V))).
template <class L>
struct Resize {
    Rows<L> tokens;
    Grid grid;
    typename L::T* out;

    __device__ void operator()() const {
        const int column = (blockIdx.z * kThreads + threadIdx.x) * L::V;
        if (column >= tokens.dim) return;
        const Grid::At at = grid.place(blockIdx.x);
        const Axis::Tap y = grid.rows.tap(at.row), x = grid.columns.tap(at.column);
        auto result = line(grid.token(at.frame, y.left, x.left), x.part, column);
        if (y.part > 0)
            mix(result, line(grid.token(at.frame, y.left + 1, x.left), x.part, column), y.part, grid.rows.slots);
        result.store(out + (static_cast<size_t>(blockIdx.y) * gridDim.x + blockIdx.x) * tokens.dim + column);
    }

    __device__ Floats<L> line(int position, int part, int column) const {
        const auto* row = tokens.at(blockIdx.y, position) + column;
        auto result = Floats<L>::load(row);
        if (part > 0) mix(result, Floats<L>::load(row + tokens.dim), part, grid.columns.slots);
        return result;
    }

    __device__ static void mix(Floats<L>& a, const Floats<L>& b, int part, int slots) {
        const float weight = static_cast<float>(part) / static_cast<float>(2 * slots);
        for (int i = 0; i < L::V; ++i) a.v[i] = (1.0f - weight) * a.v[i] + weight * b.v[i];
    }
};

// The tokens of each window behind one another, all channels of one before the next. Grid: (K, B, blocks of D').
template <class L>
struct Stack {
    Rows<L> tokens;
    Grid grid;
    typename L::T* out;

    __device__ void operator()() const {
        const int64_t width = static_cast<int64_t>(grid.rows.by) * grid.columns.by * tokens.dim;
        const int64_t column = (static_cast<int64_t>(blockIdx.z) * kThreads + threadIdx.x) * L::V;
        if (column >= width) return;
        const int part = static_cast<int>(column / tokens.dim), channel = static_cast<int>(column % tokens.dim);
        const int inside = grid.token(0, part / grid.columns.by, part % grid.columns.by);
        const auto* from = tokens.at(blockIdx.y, grid.first(grid.place(blockIdx.x)) + inside) + channel;
        auto* to = out + (static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x) * width + column;
        *reinterpret_cast<Pack<L>*>(to) = *reinterpret_cast<const Pack<L>*>(from);
    }
};

}  // namespace tokexport
