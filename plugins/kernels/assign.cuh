// For each token the most similar of some others, by cosine.
#pragma once

#include "rows.cuh"

namespace tokexport {

constexpr int kTile = 32;
constexpr int kChunk = 128;          // channels of a tile in shared memory: one wait for memory a chunk
constexpr int kStride = kChunk + 4;  // of its lines: eight lanes reading four floats each hit all banks once
using Four = Layout<float, 4>;
using Line = float[kStride];

// Sets keys [B, N] to 0, below every key. Grid: (any, B).
struct Clear {
    Key* keys;
    int count;

    __device__ void operator()() const {
        for (int i = blockIdx.x * kThreads + threadIdx.x; i < count; i += gridDim.x * kThreads)
            keys[static_cast<size_t>(blockIdx.y) * count + i] = 0;
    }
};

// Raises best [B, N], which must be 0, to the key of the most similar column for each row, and writes all cosines
// [B, N, columns]: whichever is not null. A column is a token at columns(batch, column), or -1 for one that does not
// take part; a key's index is the column. A token is never its own. Tiles of 32 rows by 32 columns; a thread
// has 2 x 2 of the pairs. Grid: (row tiles * column tiles, B).
template <class L, class Columns>
struct Assign {
    Rows<L> tokens;
    const float* reciprocals;  // of the norms [B, N]
    Columns columns;
    int column_count;
    Key* best;
    float* scores;

    __device__ void operator()() const {
        alignas(16) __shared__ Line row_tile[kTile], column_tile[kTile];
        __shared__ int positions[kTile];
        const int batch = blockIdx.y, column_tiles = ceil_div(column_count, kTile);
        const int first_row = blockIdx.x / column_tiles * kTile, first_column = blockIdx.x % column_tiles * kTile;
        if (threadIdx.x < kTile) {
            const int column = first_column + threadIdx.x;
            positions[threadIdx.x] = column < column_count ? columns(batch, column) : -1;
        }
        __syncthreads();

        const int half = kTile / 2, y = threadIdx.x / half, x = threadIdx.x % half;
        float sums[2][2] = {};
        for (int from = 0; from < tokens.dim; from += kChunk) {
            const int width = tokens.dim - from < kChunk ? tokens.dim - from : kChunk;
            load(row_tile, column_tile, positions, batch, first_row, from);
            __syncthreads();
            for (int c = 0; c < width; c += Four::V) {
                const Floats<Four> a[2] = {Floats<Four>::load(row_tile[y] + c),
                                           Floats<Four>::load(row_tile[y + half] + c)};
                const Floats<Four> b[2] = {Floats<Four>::load(column_tile[x] + c),
                                           Floats<Four>::load(column_tile[x + half] + c)};
                for (int k = 0; k < Four::V; ++k)
                    for (int i = 0; i < 2; ++i)
                        for (int j = 0; j < 2; ++j) sums[i][j] += a[i].v[k] * b[j].v[k];
            }
            __syncthreads();
        }

        const float* mine = reciprocals + static_cast<size_t>(batch) * tokens.count;
        for (int i = 0; i < 2; ++i) {
            const int row = first_row + y + i * half;
            const size_t at = static_cast<size_t>(batch) * tokens.count + row;
            Key key = 0;
            for (int j = 0; j < 2; ++j) {
                const int column = first_column + x + j * half, position = positions[x + j * half];
                if (row >= tokens.count || position < 0) continue;
                const float score = sums[i][j] * mine[row] * mine[position];
                if (scores != nullptr) scores[at * column_count + column] = score;
                if (position != row) key = larger(key, make_key(score, column));
            }
            key = warp_max(key, half);
            if (x == 0 && key != 0 && best != nullptr) atomicMax(&best[at], key);
        }
    }

    // Channels `from` to `from` + kChunk - 1 of both tiles; zeros where there is nothing.
    __device__ void load(Line* row_tile, Line* column_tile, const int* positions, int batch, int first_row,
                         int from) const {
        constexpr int kPacks = kChunk / L::V;
#pragma unroll 4
        for (int pack = threadIdx.x; pack < 2 * kTile * kPacks; pack += kThreads) {
            const bool is_row = pack < kTile * kPacks;
            const int line = pack / kPacks % kTile, channel = pack % kPacks * L::V;
            const int position = is_row ? first_row + line : positions[line];
            const bool present = position >= 0 && position < tokens.count && from + channel < tokens.dim;
            Floats<L> values{};
            if (present) values = Floats<L>::load(tokens.at(batch, position) + from + channel);
            Floats<Layout<float, L::V>> wide;
            for (int i = 0; i < L::V; ++i) wide.v[i] = values.v[i];
            wide.store((is_row ? row_tile : column_tile)[line] + channel);
        }
    }
};

template <class L, class Columns>
void assign(Queue& queue, Rows<L> tokens, const float* reciprocals, const Columns& columns, int column_count, int batch,
            Key* best, float* scores = nullptr) {
    queue(Assign<L, Columns>{tokens, reciprocals, columns, column_count, best, scores},
          dim3(ceil_div(tokens.count, kTile) * ceil_div(column_count, kTile), batch));
}

// Columns.

// All tokens.
struct Everyone {
    __device__ int operator()(int, int column) const { return column; }
};

// The kept tokens whose slots are their own.
struct OwnSlots {
    const int64_t* kept_indices;
    const int* source;
    int keep;

    __device__ int operator()(int batch, int slot) const {
        const size_t at = static_cast<size_t>(batch) * keep + slot;
        return source[at] < 0 ? static_cast<int>(kept_indices[at]) : -1;
    }
};

}  // namespace tokexport
