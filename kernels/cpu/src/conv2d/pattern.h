// The event kernel for spikes that come in bursts, as they do behind max pooling and with the soft reset. An input that fires
// k times in a window of four steps is not added k times: it is added once, to the sum of its pattern of steps, of which there
// are 15. Few additions then turn 15 sums into those of 4 steps:
//
//     S[p] = sum of the weight rows of all inputs with pattern p in this window,      I[t] = sum of S[p] over all p with bit t
//
// The stages are those of event.h, with patterns in the place of steps; what fires throughout a span is added once for it.
#pragma once
#include "event.h"

namespace PK_TARGET {

struct Patterns : SpikeLists<2> {
    static constexpr int64_t window = 4, patterns = (1 << window) - 1;

    static int64_t most_sums(int64_t steps) { return ceil_div(steps, window) * patterns + ceil_div(steps, span); }

    void list_inputs(const Conv2d& c, const Slices& slices, const Part& in) {
        list_pixels(c, slices, in, most_sums(in.steps), [&](auto... chunk) { return list_patterns(chunk...); });
    }

    // The lists of some channels of a pixel, from entry n of `input`; returns where they end.
    OUT_OF_LINE int64_t list_patterns(const uint8_t* x, int64_t frame, int64_t bytes, uint32_t* start, int64_t n) const {
        uint64_t always[most_spans][most_slice_rows / 64];
        uint16_t entries[most_slice_rows];
        uint8_t pattern[most_slice_rows];
        for (int64_t first = 0; first < steps; first += window) {
            const int64_t last = least(first + window, steps);
            uint64_t* const all = always[first / span];
            if (first % span == 0) find_steady(x + first * frame, frame, bytes, least(span, steps - first), 0, all);
            uint32_t length[patterns + 1] = {}, next[patterns + 1];
            int64_t found = 0;
            for (int64_t i = 0; i < bytes; i += 8) {
                uint64_t spikes[window] = {}, fires = 0;
                for (int64_t t = first; t < last; t++)
                    fires |= spikes[t - first] = load_bits(x + t * frame + i, bytes - i) & ~all[i / 8];
                for (; fires; fires &= fires - 1, found++) {
                    const int channel = __builtin_ctzll(fires);
                    int p = 0;
                    for (int t = 0; t < window; t++) p |= (int)(spikes[t] >> channel & 1) << t;
                    entries[found] = (uint16_t)((i * 8 + channel + 1) * entry_scale);
                    pattern[found] = (uint8_t)p;
                    length[p]++;
                }
            }
            for (int p = 1; p <= patterns; n += length[p++]) *start++ = next[p] = (uint32_t)n;
            for (int64_t k = 0; k < found; k++) input.data[next[pattern[k]]++] = entries[k];
        }
        for (int64_t i = 0; i < ceil_div(steps, span); i++) {
            *start++ = (uint32_t)n;
            n += append_set_bits((const uint8_t*)always[i], bytes, entry_scale, 0, input.data + n);
        }
        return n;
    }

    // The sums [pattern of a window][channel] become those of the steps, and those of the spans follow them.
    template <class Rows>
    void finish(typename Rows::Number* all) const {
        constexpr int channels = Rows::channels;
        typename Rows::Number* const spans = all + ceil_div(steps, window) * patterns * channels;
        for (int64_t first = 0; first < steps; first += window) {
            typename Rows::Sums sum[patterns + 1];
            for (int p = 1; p <= patterns; p++) load_sums(all + (first / window * patterns + p - 1) * channels, sum[p]);
            for (int half = 1 << (window - 1), t = window - 1; half > 1; half /= 2, t--) {
                for (int p = 1; p < half; p++) add(sum[p], sum[p + half]);  // whatever is at step t
                for (int p = half + 1; p < 2 * half; p++) add(sum[half], sum[p]);
                if (first + t < steps) store_sums(all + (first + t) * channels, sum[half]);
            }
            store_sums(all + first * channels, sum[1]);
        }
        memmove(all + steps * channels, spans, ceil_div(steps, span) * channels * sizeof *all);
    }
};

static void pattern_conv2d(const Conv2d* c) { rows_conv2d<Patterns>(*c); }

}  // namespace PK_TARGET
