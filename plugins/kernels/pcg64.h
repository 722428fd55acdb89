// NumPy's PCG64 and how SeedSequence starts it: the published algorithms (O'Neill, PCG XSL-RR 128/64; NumPy's
// bit_generator documentation), so that positions drawn here are those that a graph was made with.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace tokexport {

using Wide = unsigned __int128;

struct Pcg64 {
    Wide state;
    Wide increment;

    // The i-th number, from 0, without those before it.
    __host__ __device__ uint64_t at(uint64_t i) const {
        Wide factor = multiplier(), sum = increment, all_factor = 1, all_sum = 0;
        for (uint64_t steps = i + 1; steps > 0; steps /= 2) {
            if (steps % 2 == 1) {
                all_factor *= factor;
                all_sum = all_sum * factor + sum;
            }
            sum *= factor + 1;
            factor *= factor;
        }
        const Wide last = all_factor * state + all_sum;
        const uint64_t folded = static_cast<uint64_t>(last >> 64) ^ static_cast<uint64_t>(last);
        const unsigned turn = static_cast<unsigned>(last >> 122);
        return folded >> turn | folded << ((64 - turn) % 64);
    }

    __host__ __device__ static Wide multiplier() {
        return static_cast<Wide>(0x2360ed051fc65da4u) << 64 | 0x4385df649fccf645u;
    }
};

inline Pcg64 pcg64(uint64_t seed) {
    uint32_t pool[4] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), 0, 0};
    uint32_t constant = 0x43b0d7e5u;
    const auto hash = [&constant](uint32_t value, uint32_t factor) {
        value ^= constant;
        constant *= factor;
        value *= constant;
        return value ^ value >> 16;
    };
    for (uint32_t& word : pool) word = hash(word, 0x931e8875u);
    for (int from = 0; from < 4; ++from) {
        for (int to = 0; to < 4; ++to) {
            if (from == to) continue;
            const uint32_t mixed = 0xca01f9ddu * pool[to] - 0x4973f715u * hash(pool[from], 0x931e8875u);
            pool[to] = mixed ^ mixed >> 16;
        }
    }
    constant = 0x8b51f9ddu;
    uint64_t words[4] = {};
    for (int i = 0; i < 8; ++i) words[i / 2] |= static_cast<uint64_t>(hash(pool[i % 4], 0x58f38dedu)) << (i % 2 * 32);

    const Wide start = static_cast<Wide>(words[0]) << 64 | words[1],
               stream = static_cast<Wide>(words[2]) << 64 | words[3];
    const Wide increment = stream << 1 | 1;
    return {(increment + start) * Pcg64::multiplier() + increment, increment};
}

}  // namespace tokexport
