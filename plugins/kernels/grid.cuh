// Tokens on a grid [frames, height, width], and the slots that stand for them.
#pragma once

#include "rows.cuh"

namespace tokexport {

// One axis of the grid and its slots: windows of `by` tokens, what is left at the end being lost; or, interpolated,
// points at equal steps (half-pixel centres, no antialiasing), in exact arithmetic: slot i lies at ((2 i + 1) side -
// slots) / (2 slots) between two tokens.
struct Axis {
    int side;
    int by;
    int slots;
    bool interpolated;

    static Axis windows(int side, int by) { return {side, by, side / by, false}; }
    static Axis points(int side, int by) { return {side, by, ceil_div(side, by), true}; }

    struct Tap {
        int left;
        int part;  // of the token behind `left`, in units of 1 / (2 slots)
    };

    __device__ Tap tap(int slot) const {
        const int64_t place = (2 * static_cast<int64_t>(slot) + 1) * side - slots,
                      unit = 2 * static_cast<int64_t>(slots);
        return {static_cast<int>(place / unit), static_cast<int>(place % unit)};
    }

    __device__ int first(int slot) const { return slot * by; }

    // The token nearest to the middle of a window, or to a point; the first among equals.
    __device__ int middle(int slot) const {
        if (!interpolated) return slot * by + (by - 1) / 2;
        const Tap at = tap(slot);
        return at.part > slots ? at.left + 1 : at.left;
    }

    // How much a slot reads of a token.
    __device__ int share(int slot, int token) const {
        const Tap at = tap(slot);
        return token == at.left ? 2 * slots - at.part : token == at.left + 1 ? at.part : 0;
    }

    // The slot that reads most of a token, the first among equals; -1 where none does.
    __device__ int slot_of(int token) const {
        if (!interpolated) return token / by < slots ? token / by : -1;
        const int guess = static_cast<int>(static_cast<int64_t>(token) * slots / side);
        int best = -1, most = 0;
        for (int slot = guess > 0 ? guess - 1 : 0; slot <= guess + 1 && slot < slots; ++slot) {
            const int read = share(slot, token);
            if (read > most) best = slot;
            most = read > most ? read : most;
        }
        return best;
    }

    // How many tokens have this slot.
    __device__ int size(int slot) const {
        if (!interpolated) return by;
        const int left = tap(slot).left;
        return (slot_of(left) == slot) + (left + 1 < side && slot_of(left + 1) == slot);
    }
};

// Slots in reading order; down the columns where `transposed`.
struct Grid {
    Axis frames, rows, columns;
    bool transposed;

    __host__ __device__ int64_t count() const {
        return static_cast<int64_t>(frames.slots) * rows.slots * columns.slots;
    }

    struct At {
        int frame, row, column;
    };

    __device__ At place(int slot) const {
        const int area = rows.slots * columns.slots, rest = slot % area;
        if (transposed) return {slot / area, rest % rows.slots, rest / rows.slots};
        return {slot / area, rest / columns.slots, rest % columns.slots};
    }

    __device__ int token(int frame, int row, int column) const {
        return (frame * rows.side + row) * columns.side + column;
    }

    __device__ int first(At at) const {
        return token(frames.first(at.frame), rows.first(at.row), columns.first(at.column));
    }

    __device__ int middle(At at) const {
        return token(frames.middle(at.frame), rows.middle(at.row), columns.middle(at.column));
    }

    __device__ int slot_of(int token) const {
        const int column = columns.slot_of(token % columns.side), line = token / columns.side;
        const int row = rows.slot_of(line % rows.side), frame = frames.slot_of(line / rows.side);
        if (column < 0 || row < 0 || frame < 0) return -1;
        const int inner = transposed ? column * rows.slots + row : row * columns.slots + column;
        return frame * rows.slots * columns.slots + inner;
    }

    __device__ int size(At at) const { return frames.size(at.frame) * rows.size(at.row) * columns.size(at.column); }
};

// kept_indices, sizes [B, K] and assignment [B, N]. With `corners`, slots inherit the positions of the first tokens of
// their windows and have size 1; else those of the middle, and the number of tokens. Grid: (any, B).
struct GridIndices {
    Grid grid;
    bool corners;
    int64_t* kept_indices;
    float* sizes;
    int64_t* assignment;
    int count;
    int keep;

    __device__ void operator()() const {
        const int start = blockIdx.x * kThreads + threadIdx.x, step = gridDim.x * kThreads;
        const size_t batch = blockIdx.y;
        for (int slot = start; slot < keep; slot += step) {
            const Grid::At at = grid.place(slot);
            kept_indices[batch * keep + slot] = corners ? grid.first(at) : grid.middle(at);
            sizes[batch * keep + slot] = corners ? 1.0f : static_cast<float>(grid.size(at));
        }
        for (int token = start; token < count; token += step) assignment[batch * count + token] = grid.slot_of(token);
    }
};

}  // namespace tokexport
