// Values as integer multiples of a unit, a power of two.
#pragma once
#include "work.h"

namespace PK_TARGET {

// The smallest power of two that is not below `least`, nor below 2**-126.
static inline double power_of_two(double least) {
    if (!(least > 0x1p-126)) return 0x1p-126;
    uint64_t bits;
    memcpy(&bits, &least, sizeof bits);
    constexpr uint64_t fraction = (1ull << 52) - 1;
    bits = (bits & ~fraction) + (bits & fraction ? 1ull << 52 : 0);
    memcpy(&least, &bits, sizeof bits);
    return least;
}

static inline float largest_of(const float* values, int64_t n) {
    int32_t largest = 0;  // without the sign, the bits of floats are ordered like the floats
    for (int64_t i = 0; i < n; i++) {
        int32_t bits;
        memcpy(&bits, values + i, sizeof bits);
        bits &= INT32_MAX;
        largest = bits > largest ? bits : largest;
    }
    float value;
    memcpy(&value, &largest, sizeof value);
    return value;
}

static inline void round_values(const float* values, float* rounded, int64_t n, double unit) {
    constexpr double to_whole = 0x1.8p52;  // adding it rounds to an integer, halves to even
    const double units = 1 / unit;
    for (int64_t i = 0; i < n; i++) rounded[i] = (float)((values[i] * units + to_whole - to_whole) * unit);
}

}  // namespace PK_TARGET
