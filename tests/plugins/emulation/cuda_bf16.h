// __nv_bfloat16 on the CPU: storage and conversion, round to nearest even.
#pragma once

#include "cuda_runtime.h"

struct __nv_bfloat16 {
    uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }

inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    if (std::isnan(x)) return {0x7fffu};
    const unsigned bits = __float_as_uint(x);
    return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}
