// Weights as integers, packed for the tile kernel: one tile for each digit and 16 output channels.
//
// A weight of output channel c is an integer multiple of unit[c], a power of two, in balanced digits of base 256:
// w = unit * sum_p digit[p] * 256^p with digits from -128 to 127. Products with spikes are then sums of bytes, exact in any
// order.
//
// Weights get as few digits as hold them exactly: up to three, or four where float sums of the weights would be exact in any
// order too (all weights are multiples of one power of two, and their sums fit 24 bits). Other weights are rounded to a unit
// that is fine enough relative to the threshold (coarsest_unit): the error is then like the rounding of float sums. The
// largest weight is no measure for the unit: its input may never fire, and then only the smaller weights count.
#pragma once
#if defined(__AMX_INT8__)
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "amx_tiles.h"

namespace PK_TARGET {

constexpr int max_digits = 4, smallest_exponent = -126;  // a unit is a normal float

// The largest integer of n balanced digits: 127 * (1 + 256 + ...).
static inline double largest_number(int digits) { return 127.0 * ((double)(1ll << (8 * digits)) - 1.0) / 255.0; }

// The bits of a float without its sign. They are ordered like the numbers; from `infinite` on they are not finite.
constexpr uint32_t infinite = 0x7f800000;
static inline uint32_t magnitude(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits & 0x7fffffff;
}
static inline double to_number(uint32_t magnitude) {
    float value;
    memcpy(&value, &magnitude, sizeof value);
    return value;
}
static inline uint32_t largest_magnitude(const float* weight, int64_t n) {
    uint32_t largest = 0;
    for (int64_t i = 0; i < n; i++) largest = std::max(largest, magnitude(weight[i]));
    return largest;
}

// The exponent of the lowest set bit of a float, which must not be zero.
static inline int lowest_bit(float value) {
    const uint32_t bits = magnitude(value), exponent = bits >> 23;
    const uint32_t mantissa = exponent > 0 ? (bits & 0x7fffff) | 0x800000 : bits;
    return (int)std::max(exponent, 1u) - 150 + __builtin_ctz(mantissa);
}

// The finest unit in which n weights fit into `digits` digits.
static float finest_unit(const float* weight, int64_t n, int digits) {
    const double largest = to_number(largest_magnitude(weight, n));
    if (largest == 0) return 1.0f;
    int exponent;
    frexp(largest / largest_number(digits), &exponent);
    double unit = ldexp(1.0, exponent - 1);
    if (largest / unit > largest_number(digits)) unit *= 2;
    return (float)fmax(unit, ldexp(1.0, smallest_exponent));
}

// The coarsest unit to which the n weights of a neuron may be rounded: if all inputs fire, the rounding errors add up to
// 2^-19 of the threshold (root mean square). 0 for infinity: without a threshold there is nothing to compare with.
static inline double coarsest_unit(float theta, int64_t n) {
    return theta < INFINITY ? ldexp(theta, -17) / sqrt((double)n) : 0;
}

// How many digits hold one channel's n weights exactly; 0 if none do.
static int exact_digits(const float* weight, int64_t n, double largest) {
    const int coarse = ilogb(largest) - 24;  // with a finer grain, 24 bits cannot hold even the largest weight
    int grain = 1 << 20;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        if (weight[i] == 0) continue;
        sum += fabs(weight[i]);
        grain = std::min(grain, lowest_bit(weight[i]));
        if (grain < coarse || grain < smallest_exponent) return 0;
    }
    for (int digits = 1; digits < max_digits; digits++)
        if (ldexp(largest, -grain) <= largest_number(digits)) return digits;
    return ldexp(sum, -grain) <= (double)(1 << 24) ? max_digits : 0;
}

// How many digits one channel's n weights need; 0 if max_digits are not enough.
static int digits_needed(const float* weight, int64_t n, float theta) {
    const uint32_t most = largest_magnitude(weight, n);
    if (most >= infinite) return 0;
    if (most == 0) return 1;
    if (const int digits = exact_digits(weight, n, to_number(most))) return digits;
    const double coarsest = coarsest_unit(theta, n);
    for (int digits = 1; digits <= max_digits; digits++)
        if (finest_unit(weight, n, digits) <= coarsest) return digits;
    return 0;
}

inline int64_t tiles_size(const Conv2d* c) {
    const Layout layout(*c);
    return layout.runs * layout.run_tiles * c->digits * tile_bytes;
}

inline int64_t count_digits(const float* weight, const float* theta, int64_t C_out, int64_t K) {
    int most_digits = 1, possible = 1;
#pragma omp parallel for reduction(max : most_digits) reduction(min : possible)
    for (int64_t o = 0; o < C_out; o++) {
        const int digits = digits_needed(weight + o * K, K, theta[o]);
        most_digits = digits > most_digits ? digits : most_digits;
        possible = digits > 0 ? possible : 0;
    }
    return possible ? most_digits : 0;
}

// Writes the digits of n weights, one to each byte of a word. Adding 0x80 to every byte, and flipping those bits again,
// turns a two's complement number into balanced digits.
static void to_digits(const float* weight, int64_t n, double scale, uint32_t* to) {
    const __m256i half = _mm256_set1_epi32((int)0x80808080);
    for (int64_t i = 0; i < n; i += 8) {
        const __mmask8 exist = (__mmask8)(n - i >= 8 ? 0xff : (1 << (n - i)) - 1);
        const __m512d number = _mm512_cvtps_pd(_mm256_maskz_loadu_ps(exist, weight + i)) * _mm512_set1_pd(scale);
        const __m256i nearest = _mm512_cvtpd_epi32(number);
        _mm256_mask_storeu_epi32(to + i, exist, _mm256_xor_si256(_mm256_add_epi32(nearest, half), half));
    }
}

// One digit of four inputs, side by side as in a tile.
static inline uint32_t digit_of_four(const uint32_t (&four)[4], int digit) {
    uint32_t bytes = 0;
    for (int j = 0; j < 4; j++) bytes |= (four[j] >> 8 * digit & 0xff) << 8 * j;
    return bytes;
}

inline void pack_tiles(const float* weight, int8_t* packed, float* unit, const Conv2d* conv) {
    const Conv2d& c = *conv;
    const Layout layout(c);
    const int64_t taps = c.kernel_h * c.kernel_w, K = c.C_in * taps, size = tiles_size(conv);
    const int digits = (int)c.digits;
#pragma omp parallel
    {
        ThreadMemory<uint32_t> words(K);
#pragma omp for schedule(dynamic)
        for (int64_t o = 0; o < c.neurons.C; o++) {
            const float* row = weight + o * K;
            unit[o] = finest_unit(row, K, digits);
            to_digits(row, K, 1.0 / unit[o], words.data);
            int8_t* block_start = packed + o / tile_channels * size + o % tile_channels * 4;
            for (int64_t tap = 0; tap < taps; tap++) {
                const int64_t run = tap / layout.run_taps, offset = tap % layout.run_taps * layout.channels;
                for (int64_t i = 0; i < c.C_in; i += 4) {
                    const int64_t k = offset + i;  // index among the run's inputs; a multiple of 4
                    int8_t* to = block_start + (run * layout.run_tiles + k / tile_width) * digits * tile_bytes +
                                 k % tile_width / 4 * tile_width;
                    uint32_t four[4] = {};
                    for (int64_t j = 0; j < std::min<int64_t>(4, c.C_in - i); j++) four[j] = words.data[(i + j) * taps + tap];
                    for (int digit = 0; digit < digits; digit++, to += tile_bytes) {
                        const uint32_t bytes = digit_of_four(four, digit);
                        memcpy(to, &bytes, sizeof bytes);
                    }
                }
            }
        }
    }
}

}  // namespace PK_TARGET
#endif  // __AMX_INT8__
