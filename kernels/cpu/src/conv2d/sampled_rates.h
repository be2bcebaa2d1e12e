// Estimates the firing rate from a sample of pixels, to choose a kernel.
#pragma once
#include "input_lists.h"

namespace PK_TARGET {

// The sampled pixels are multiples of the golden ratio, so they cover all parts of an image, whatever its width.
inline void sample_rates(Sample* sample) {
    constexpr int64_t most_pixels = 16;  // sampled of an image
    Sample& s = *sample;
    const int64_t apart = most(1, s.N / 4), pixels = least(s.P, most_pixels), count = ceil_div(s.N, apart) * pixels;
    const int64_t bytes = (s.C + 7) / 8;
    int64_t spikes = 0, rows = 0, negated = 0;
#pragma omp parallel for schedule(static) reduction(+ : spikes, rows, negated) if (2 * count * s.T * bytes > worth_threads)
    for (int64_t k = 0; k < count; k++) {
        const uint32_t number = (uint32_t)(k % pixels);
        const int64_t place = s.P <= most_pixels ? number : (int64_t)((uint64_t)(number * 2654435769u) * (uint64_t)s.P >> 32);
        const uint8_t* const x = s.spikes + k / pixels * apart * s.image + place * s.pixel;
        for (int64_t t = 0; t < s.T; t++) spikes += count_bits(x + t * s.step, bytes);
        rows += count_rows_of(x, s.T, s.step, bytes, 0);
        negated += count_rows_of(x, s.T, s.step, bytes, 1);
    }
    const double inputs = (double)most(1, count * s.T * s.C);
    s.rate = (double)spikes / inputs, s.rows = (double)rows / inputs, s.negated_rows = (double)negated / inputs;
}

}  // namespace PK_TARGET
