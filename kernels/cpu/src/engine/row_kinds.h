// In which rows the weights of a layer are packed (../conv2d/rows.h): short ones where these are whole multiples of a unit, as
// rounded weights are, and sums of them are as exact as sums of floats.
#pragma once
#include <cmath>

#include "../conv2d/slices.h"

namespace PK_TARGET {

constexpr int64_t largest_byte = 63, largest_byte_sum = INT16_MAX;  // of byte rows, which are summed up in 16 bits
constexpr double largest_exact_sum = 0x1p24;                       // which a float has room for

// The largest power of two that all weights are whole multiples of; 0: none that is a normal float; of zeros 1.
static float unit_of(const float* weight, int64_t n) {
    constexpr int fraction_bits = 23, bias = 127, none = 1 << 10;
    int least_exponent = none;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, weight + i, sizeof bits);
        const int exponent = (int)(bits >> fraction_bits & 255);
        const uint32_t fraction = (bits & ((1u << fraction_bits) - 1)) | (exponent ? 1u << fraction_bits : 0);
        if (!fraction) continue;
        const int own = (exponent ? exponent : 1) - bias - fraction_bits + __builtin_ctz(fraction);
        least_exponent = own < least_exponent ? own : least_exponent;
    }
    if (least_exponent == none) return 1;
    return least_exponent > -bias && least_exponent < bias ? ldexpf(1, least_exponent) : 0;
}

// The output channels of the shortest rows that the weights [C, inputs] fit. Writes the units of channels.
static int64_t row_channels_of(const float* weight, int64_t C, int64_t inputs, float* unit) {
    int64_t found = ByteRows::channels;
    for (int64_t c = 0; c < C; c++, weight += inputs) {
        unit[c] = unit_of(weight, inputs);
        if (unit[c] == 0) return FloatRows::channels;
        double largest = 0, positive = 0, all = 0;
        for (int64_t i = 0; i < inputs; i++) {
            const double units = (double)weight[i] / unit[c], size = units < 0 ? -units : units;
            largest = size > largest ? size : largest;
            positive += units > 0 ? size : 0, all += size;
        }
        const double half = positive > all - positive ? positive : all - positive;
        if (largest > largest_short || all > largest_exact_sum) return FloatRows::channels;
        if (largest > largest_byte || half > largest_byte_sum) found = ShortRows::channels;
    }
    return found;
}

// Bytes of a sum of such rows.
static int64_t sum_bytes(const Conv2d& c) {
    int64_t bytes = 0;
    with_rows(c, [&](auto rows) {
        using Rows = decltype(rows);
        bytes = Rows::channels * (int64_t)sizeof(typename Rows::Number);
    });
    return bytes;
}

}  // namespace PK_TARGET
