// What spikes of sigma-delta neurons bring to the neurons behind a convolution: for each that is not silent, its row of
// weights, times its power of two. Values that are none, such as images, are taken alike.
#pragma once
#include "call.h"

namespace PK_TARGET {

constexpr int64_t sigma_delta_row = 64;  // channels of a row of weights, at most

// Which of n values, 64 at most, are not zero.
static inline uint64_t not_zero(const int8_t* codes, int64_t n) {
#if defined(__AVX512BW__)
    const __mmask64 first = n >= 64 ? ~0ull : (1ull << n) - 1;
    const __m512i x = _mm512_maskz_loadu_epi8(first, codes);
    return _mm512_test_epi8_mask(x, x);
#else
    uint64_t found = 0;
    for (int64_t i = 0; i < n; i += 8) {
        uint64_t word = 0;
        if (n - i >= 8) memcpy(&word, codes + i, 8);
        else
            for (int64_t k = 0; k < n - i; k++) word |= (uint64_t)(uint8_t)codes[i + k] << (8 * k);
        // A byte's highest bit: whether any of its bits is set. Then the eight of them side by side.
        constexpr uint64_t high = 0x8080808080808080u;
        const uint64_t set = ((((word & ~high) + ~high) | word) & high) >> 7;
        found |= (set * 0x0102040810204080u >> 56) << i;
    }
    return found;
#endif
}
static inline uint64_t not_zero(const float* values, int64_t n) {
    uint64_t found = 0;
    const Vec zero = broadcast(0.0f);
    for (int64_t i = 0; i < n; i += Vec::width) {
        const Vec x = load_first(values + i, (int)least(n - i, Vec::width));
#if defined(__AVX512F__)
        found |= (uint64_t)_mm512_cmp_ps_mask(x.x, zero.x, _CMP_NEQ_UQ) << i;
#else
        const uint32_t all = (uint32_t)((1ull << Vec::width) - 1);
        found |= (uint64_t)(~(bits(x >= zero) & bits(zero >= x)) & all) << i;  // NaN is not zero, either
#endif
    }
    return found;
}

static inline Vec load_values(const int8_t* codes, int64_t n) {
    if (n >= Vec::width) return values_of(codes);
    int8_t first[Vec::width] = {};
    memcpy(first, codes, n);
    return values_of(first);
}
static inline Vec load_values(const float* values, int64_t n) { return load_first(values, (int)least(n, Vec::width)); }

// Whether inputs that have `events` events in some steps, `any` of them at least one, are better multiplied at all these
// steps: a row is loaded once, and its products wait for no others. An event alone takes a product's latency.
template <int vecs, int steps>
static inline bool dense(int64_t events, int64_t any) {
    constexpr int64_t halves = steps > 2 ? (vecs > 2 ? 4 : 3) : 2;
    return steps > 1 && 2 * events > halves * any;
}

// Adds the rows of all inputs of a window that are not silent, at some steps, and returns their number. `frame`: values from
// one step to the next; `row`: weights from one row to the next.
template <int channels, int steps, class Value>
static OUT_OF_LINE int64_t add_window(const SigmaDeltaTaps& taps, const Value* x, int64_t frame, const float* weight,
                                      int64_t C_in, int64_t row, Lanes<channels>* sums) {
    Lanes<channels> sum[steps];
    each<steps>([&](auto t) { sum[t] = sums[t]; });
    int64_t rows = 0;
    for (int64_t tap = 0; tap < taps.count; tap++) {
        const Value* const values = x + taps.first + taps.x[tap];
        const float* const of_tap = weight + taps.weight[tap];
        for (int64_t i = 0; i < C_in; i += 64) {
            uint64_t found[steps], any = 0;
            int64_t events = 0;
            each<steps>([&](auto t) {
                found[t] = not_zero(values + t * frame + i, least(64, C_in - i));
                any |= found[t];
                events += __builtin_popcountll(found[t]);
            });
            rows += events;
            if (dense<Lanes<channels>::vecs, steps>(events, __builtin_popcountll(any)))
                for (; any; any &= any - 1) {
                    const int64_t input = i + __builtin_ctzll(any);
                    const Lanes<channels> weights = load_block<channels>(of_tap + input * row);
                    each<steps>([&](auto t) {
                        const Vec value = broadcast(value_of(values[t * frame + input]));
                        for (int k = 0; k < weights.vecs; k++) sum[t].v[k] = multiply_add(value, weights.v[k], sum[t].v[k]);
                    });
                }
            else
                each<steps>([&](auto t) {
                    for (uint64_t left = found[t]; left; left &= left - 1) {
                        const int64_t input = i + __builtin_ctzll(left);
                        const Vec value = broadcast(value_of(values[t * frame + input]));
                        const float* const weights = of_tap + input * row;
                        for (int k = 0; k < sum[t].vecs; k++)
                            sum[t].v[k] = multiply_add(value, load(weights + k * Vec::width), sum[t].v[k]);
                    }
                });
        }
    }
    each<steps>([&](auto t) { sums[t] = sum[t]; });
    return rows;
}

// The weights of each group are rows [tap][inputs][channels] of 64 output channels, then those of the next 64; the last ones'
// rows are filled up to a multiple of 16.
struct SigmaDeltaRows {
    int64_t inputs, row;  // of a group; weights of a row
    int64_t first_input = 0;
    const float* weight;
    SigmaDeltaRows(const SigmaDelta& s, int64_t channel) : inputs(s.C_in / s.groups) {
        const int64_t outputs = s.C / s.groups, taps = s.kernel_h * s.kernel_w, group = channel / outputs;
        const int64_t within = channel - group * outputs, block = within / sigma_delta_row * sigma_delta_row;
        row = least(sigma_delta_row, ceil_div(outputs - block, 16) * 16);
        first_input = group * inputs;
        weight = s.weight + (group * ceil_div(outputs, 16) * 16 + block) * taps * inputs + (within - block);
    }
};

template <class Value>
static void rows_task(const SigmaDeltaCall& call, int64_t task, SigmaDeltaTaps& taps, Counted& counted) {
    const SigmaDelta& s = call.s;
    const auto tap_weights = [&](int64_t channel) {
        const SigmaDeltaRows rows(s, channel);
        return rows.inputs * rows.row;
    };
    each_place(
        call, task, taps, counted, tap_weights,
        [&](auto channels, int64_t image, int64_t pixel, int64_t channel, const auto& taps) {
            const SigmaDeltaRows rows(s, channel);
            const int64_t frame = s.H * s.W * s.C_in;
            const Value* const x = (const Value*)s.x + image * s.T_in * frame + rows.first_input;
            int64_t added = 0;
            const Fired fired = fire_sigma_delta<channels>(s, image, pixel, channel, [&](int64_t t, auto steps, auto* sums) {
                added += add_window<channels, steps>(taps, x + t * frame, frame, rows.weight, rows.inputs, rows.row, sums);
            });
            return std::pair(added * least(channels_left(s, channel), channels), fired);
        });
}

// Adds n channels of all pixels of a window times their weights, at some steps, and returns how many were not silent.
template <int channels, int steps, class Value>
static OUT_OF_LINE int64_t add_depthwise(const SigmaDeltaTaps& taps, const Value* x, int64_t frame, const float* weight,
                                         int64_t n, Lanes<channels>* sums) {
    Lanes<channels> sum[steps];
    each<steps>([&](auto t) { sum[t] = sums[t]; });
    int64_t additions = 0;
    for (int64_t tap = 0; tap < taps.count; tap++) {
        const Value* const values = x + taps.first + taps.x[tap];
        const float* const weights = weight + taps.weight[tap];
        uint64_t any = 0;
        each<steps>([&](auto t) {
            const uint64_t found = not_zero(values + t * frame, n);
            any |= found;
            additions += __builtin_popcountll(found);
        });
        if (!any) continue;
        for (int k = 0; k < Lanes<channels>::vecs; k++) {
            const Vec w = load(weights + k * Vec::width);
            each<steps>([&](auto t) {
                const Vec value = load_values(values + t * frame + k * Vec::width, n - k * Vec::width);
                sum[t].v[k] = multiply_add(value, w, sum[t].v[k]);
            });
        }
    }
    each<steps>([&](auto t) { sums[t] = sum[t]; });
    return additions;
}

// Output channel c sees input channel c alone. The weights are [tap][C, filled up to a multiple of 16].
template <class Value>
static void depthwise_task(const SigmaDeltaCall& call, int64_t task, SigmaDeltaTaps& taps, Counted& counted) {
    const SigmaDelta& s = call.s;
    const int64_t filled = ceil_div(s.C, 16) * 16, frame = s.H * s.W * s.C;
    const auto tap_weights = [&](int64_t) { return filled; };
    each_place(call, task, taps, counted, tap_weights,
               [&](auto channels, int64_t image, int64_t pixel, int64_t channel, const auto& taps) {
                   const int64_t n = least(s.C - channel, channels);
                   const Value* const x = (const Value*)s.x + image * s.T_in * frame + channel;
                   const float* const weight = s.weight + channel;
                   int64_t additions = 0;
                   const Fired fired =
                       fire_sigma_delta<channels>(s, image, pixel, channel, [&](int64_t t, auto steps, auto* sums) {
                           additions += add_depthwise<channels, steps>(taps, x + t * frame, frame, weight, n, sums);
                       });
                   return std::pair(additions, fired);
               });
}

}  // namespace PK_TARGET
