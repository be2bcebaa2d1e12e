// Rounds weights to integer multiples of a unit, a power of two for each output channel, so that their sums are exact in any
// order. kernels/rounding.py is the definition, and gives the reasons. A channel's weights are in the cache when they are
// rounded.
#pragma once
#include "units.h"

namespace PK_TARGET {

static inline double larger(double a, double b) { return a > b ? a : b; }

// Sums of absolute values and of positive values, in grains, each value rounded up. There are at most 2^24 values of at most
// 2^28 grains, so the sums fit 64 bits.
struct Grains {
    int64_t all = 0, positive = 0;
};
static inline Grains count_grains(const float* values, int64_t n, double grain) {
    const double grains = 1 / grain;  // exact
    int64_t all = 0, positive = 0;
#pragma omp simd reduction(+ : all, positive)
    for (int64_t i = 0; i < n; i++) {
        const double value = __builtin_fabsf(values[i]) * grains;
        const int32_t whole = (int32_t)value, up = whole + (whole < value);
        all += up;
        positive += values[i] > 0 ? up : 0;
    }
    return {all, positive};
}

void round_weights(const Rounding* rounding) {
    const Rounding& r = *rounding;
#pragma omp parallel for schedule(dynamic, 4)
    for (int64_t channel = 0; channel < r.C; channel++) {
        const float *weight = r.weight + channel * r.inputs, *bias = r.bias ? r.bias + channel : nullptr;
        const double largest = largest_of(weight, r.inputs), beside = bias ? __builtin_fabsf(*bias) : 0;
        const double grain = power_of_two(larger(largest, beside)) * 0x1p-28;
        const Grains weights = count_grains(weight, r.inputs, grain);
        const int64_t all = weights.all + (bias ? count_grains(bias, 1, grain).all : 0);
        double least_unit = larger(largest / r.largest, (double)all * grain / r.room);
        if (r.half_room > 0)
            least_unit =
                larger(least_unit, (double)most(weights.positive, weights.all - weights.positive) * grain / r.half_room);
        const double unit = power_of_two(least_unit);
        round_values(weight, r.rounded + channel * r.inputs, r.inputs, unit);
        if (bias) round_values(bias, r.rounded_bias + channel, 1, unit);
        r.unit[channel] = (float)unit;
    }
}

}  // namespace PK_TARGET
