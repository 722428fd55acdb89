// __half on the CPU: storage and conversion, round to nearest even.
#pragma once

#include "cuda_runtime.h"

struct __half {
    uint16_t bits;
};

inline float __half2float(__half h) {
    const unsigned sign = (h.bits & 0x8000u) << 16, exponent = h.bits >> 10 & 0x1fu, fraction = h.bits & 0x3ffu;
    if (exponent == 0x1f) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
    const float size = std::ldexp(static_cast<float>(exponent == 0 ? fraction : fraction | 0x400u),
                                  static_cast<int>(exponent == 0 ? 1 : exponent) - 25);
    return sign != 0 ? -size : size;
}

inline __half __float2half_rn(float x) {
    const uint16_t sign = static_cast<uint16_t>(__float_as_uint(x) >> 16 & 0x8000u);
    const float size = std::fabs(x);
    if (std::isnan(x)) return {static_cast<uint16_t>(sign | 0x7e00u)};
    if (size == 0.0f) return {sign};
    if (size >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00u)};
    int exponent = 0;
    std::frexp(size, &exponent);
    // One unit in the last place: 2^-24 below 2^-14, else 11 significant bits. The sum carries into the exponent.
    const int unit = std::max(exponent - 11, -24);
    const unsigned steps = static_cast<unsigned>(std::nearbyint(std::ldexp(size, -unit)));
    return {static_cast<uint16_t>(sign | (steps + (static_cast<unsigned>(unit + 24) << 10)))};
}
