// Which kind of rows (weight_rows.h) the weights of a layer fit: integer rows if they are multiples of a unit.
#pragma once
#include "../units.h"
#include "weight_rows.h"

namespace PK_TARGET {

constexpr int64_t largest_byte = 63, largest_byte_sum = INT16_MAX;  // of byte rows, which are summed in 16 bits
constexpr int64_t largest_exact_sum = 1 << 24;  // the largest integer up to which a float is exact

// The largest power of two of which all weights are integer multiples; 1 if all weights are zero; 0 if that takes more than 30
// bits, or if the weights are so small or large that the unit might not be a normal float.
static float unit_of(const float* weight, int64_t n) {
    const float largest = largest_of(weight, n), most_bits = 0x1p30f;
    if (largest == 0) return 1;
    if (!(largest > 0x1p-90f && largest < 0x1p90f)) return 0;
    const float least_unit = (float)power_of_two(largest) / most_bits, units = 1 / least_unit;
    int32_t any = 0, has_more = 0;
    for (int64_t i = 0; i < n; i++) {
        const float value = weight[i] * units;
        const int32_t whole = (int32_t)value;
        any |= whole, has_more |= (float)whole != value;
    }
    return has_more ? 0 : (float)(any & -any) * least_unit;
}

// Returns the number of output channels of the shortest rows that the weights [C, inputs] fit, and writes the unit of each
// channel; without a unit, or where the absolute weights of a channel add up to more than `largest_exact_sum` units, the rows are
// those of floats and `unit` is not complete.
OUT_OF_LINE inline int64_t row_channels(const float* weight, int64_t C, int64_t inputs, float* unit) {
    constexpr int64_t piece = 1 << 16;  // weights whose sum fits 32 bits
    int64_t found = ByteRows::channels;
    for (int64_t c = 0; c < C; c++, weight += inputs) {
        unit[c] = unit_of(weight, inputs);
        if (unit[c] == 0) return FloatRows::channels;
        const float units = 1 / unit[c], largest = largest_of(weight, inputs) * units;
        if (!(largest <= largest_short)) return FloatRows::channels;
        int64_t positive = 0, all = 0;
        for (int64_t first = 0; first < inputs; first += piece) {
            int32_t some_positive = 0, some = 0;
            for (int64_t i = first; i < least(first + piece, inputs); i++) {
                const int32_t whole = (int32_t)(weight[i] * units);
                some_positive += whole > 0 ? whole : 0, some += whole < 0 ? -whole : whole;
            }
            positive += some_positive, all += some;
        }
        const int64_t half = most(positive, all - positive);
        if (all > largest_exact_sum) return FloatRows::channels;
        if (largest > largest_byte || half > largest_byte_sum) found = ShortRows::channels;
    }
    return found;
}

}  // namespace PK_TARGET
