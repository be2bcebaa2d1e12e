// Weights as whole numbers. A weight of output channel c is a whole number of units, unit[c] a power of two, written in
// balanced digits of base 256: w = unit * sum_p digit[p] * 256^p with digits from -128 to 127. Products with spikes are then
// sums of bytes, exact in any order.
//
// Three digits hold a float as well as sums of floats do: they round by at most 2^-24 of the channel's largest weight.
// Weights that need fewer digits get fewer; and where the floats' own sums would be exact in any order (all of them whole
// multiples of one power of two that fit 24 bits) the digits hold them exactly, if need be four.
#pragma once
#include <cmath>
#include <cstdint>

namespace PK_TARGET {

constexpr int max_digits = 4;

// The largest whole number of n balanced digits: 127 * (1 + 256 + ...).
static inline double largest_number(int digits) { return 127.0 * ((double)(1ll << (8 * digits)) - 1.0) / 255.0; }

static inline void write_digits(int64_t number, int digits, int8_t* to, int64_t stride) {
    for (int p = 0; p < digits; p++, to += stride) {
        const int8_t digit = (int8_t)(number & 0xff);
        *to = digit;
        number = (number - digit) >> 8;
    }
}

// The power of two of the lowest bit that is set in a float (which is not zero).
static inline int lowest_bit(float value) {
    int exponent;
    const int32_t mantissa = (int32_t)ldexpf(frexpf(fabsf(value), &exponent), 24);
    return exponent - 24 + __builtin_ctz((uint32_t)mantissa);
}

// How many digits one channel's n weights need; 0 if they are not finite.
static int digits_needed(const float* weight, int64_t n) {
    double largest = 0, sum = 0;
    int grain = 1 << 20;
    for (int64_t i = 0; i < n; i++) {
        const float w = weight[i];
        if (!std::isfinite(w)) return 0;
        if (w == 0) continue;
        largest = fmax(largest, fabs(w));
        sum += fabs(w);
        const int bit = lowest_bit(w);
        if (bit < grain) grain = bit;
    }
    if (largest == 0) return 1;
    for (int digits = 1; digits <= 3; digits++)
        if (ldexp(largest, -grain) <= largest_number(digits)) return digits;
    return ldexp(sum, -grain) <= (double)(1 << 24) ? 4 : 3;
}

// The finest unit in which n weights fit the digits; not below the smallest normal float.
static float finest_unit(const float* weight, int64_t n, int digits) {
    double largest = 0;
    for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs(weight[i]));
    if (largest == 0) return 1.0f;
    int exponent;
    frexp(largest / largest_number(digits), &exponent);
    double unit = ldexp(1.0, exponent - 1);
    if (largest / unit > largest_number(digits)) unit *= 2;
    return (float)fmax(unit, ldexp(1.0, -126));
}

}  // namespace PK_TARGET
