// What spikes of sigma-delta neurons bring to the neurons behind a convolution: for each that is not silent, its row of
// weights, times its power of two. Values that are none, such as images, are taken alike.
#pragma once
#include "neurons.h"

namespace PK_TARGET {

constexpr int64_t sigma_delta_row = 64;  // channels of a row of weights, at most
constexpr int row_pass = Vec::width == 16 ? 64 : 32;  // channels whose sums have registers at a time

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

// The taps of a window that lie inside the image: where their values, from `first` on, and their weights are.
struct SigmaDeltaTaps {
    Memory<int64_t> x, weight;
    int64_t first = 0, count = 0, inside = -1;  // whose weights the taps of a whole window are, if these are kept
    explicit SigmaDeltaTaps(const SigmaDelta& s) : x(s.kernel_h * s.kernel_w), weight(s.kernel_h * s.kernel_w) {}
    void find(const SigmaDelta& s, int64_t row, int64_t column, int64_t tap_weights) {
        const int64_t top = row * s.stride_h - s.padding_h, left = column * s.stride_w - s.padding_w;
        const bool whole = top >= 0 && top + (s.kernel_h - 1) * s.dilation_h < s.H && left >= 0 &&
                           left + (s.kernel_w - 1) * s.dilation_w < s.W;
        first = (top * s.W + left) * s.C_in;
        if (whole && inside == tap_weights) return;
        inside = whole ? tap_weights : -1;
        count = 0;
        for (int64_t ky = 0, y = 0; ky < s.kernel_h; ky++, y += s.dilation_h) {
            if (top + y < 0 || top + y >= s.H) continue;
            for (int64_t kx = 0, x_ = 0; kx < s.kernel_w; kx++, x_ += s.dilation_w) {
                if (left + x_ < 0 || left + x_ >= s.W) continue;
                x.data[count] = (y * s.W + x_) * s.C_in;
                weight.data[count++] = (ky * s.kernel_w + kx) * tap_weights;
            }
        }
    }
};

// Calls fire(channels, image, pixel, channel, taps) for each output pixel and each `pass` of its channels, `channels` an
// integral constant; it returns the weights added and the spikes. tap_weights(channel): from one tap to the next.
template <int pass, class TapWeights, class Fire>
static void each_place(const SigmaDelta& s, TapWeights tap_weights, Fire fire) {
    constexpr int64_t group = 16;  // pixels of a task
    const int64_t places = s.N * s.P, groups = ceil_div(places, group), tasks = groups * ceil_div(s.C, pass);
    int64_t additions = 0, spikes = 0;
#pragma omp parallel reduction(+ : additions, spikes)
    {
        SigmaDeltaTaps taps(s);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; task++) {
            const int64_t channel = task / groups * pass, first = task % groups * group;
            int64_t image = first / s.P, row = first % s.P / s.W_out, column = first % s.P % s.W_out;
            each<pass / Vec::width>([&](auto before) {
                constexpr int channels = (before + 1) * Vec::width;
                if (ceil_div(least(s.C - channel, pass), Vec::width) * Vec::width != channels) return;
                for (int64_t place = first; place < least(first + group, places); place++) {
                    taps.find(s, row, column, tap_weights(channel));
                    const auto [added, fired] =
                        fire(std::integral_constant<int, channels>(), image, row * s.W_out + column, channel, taps);
                    additions += added, spikes += fired;
                    if (++column < s.W_out) continue;
                    column = 0;
                    if (++row * s.W_out < s.P) continue;
                    row = 0, image++;
                }
            });
        }
    }
    s.counts[0] += spikes, s.counts[1] += additions;
}

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
        const Value* const values = x + taps.first + taps.x.data[tap];
        const float* const of_tap = weight + taps.weight.data[tap];
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

// The weights are rows [tap][C_in][channels] of 64 output channels, then those of the next 64; the last ones' rows are filled
// up to a multiple of 16.
static inline int64_t row_of(const SigmaDelta& s, int64_t block) {
    return least(sigma_delta_row, ceil_div(s.C - block, 16) * 16);
}

template <class Value>
static void rows_sigma_delta(const SigmaDelta& s) {
    const auto tap_weights = [&](int64_t channel) { return s.C_in * row_of(s, channel / sigma_delta_row * sigma_delta_row); };
    each_place<row_pass>(s, tap_weights, [&](auto channels, int64_t image, int64_t pixel, int64_t channel, const auto& taps) {
        const int64_t block = channel / sigma_delta_row * sigma_delta_row, row = row_of(s, block);
        const int64_t frame = s.H * s.W * s.C_in;
        const Value* const x = (const Value*)s.x + image * s.T_in * frame;
        const float* const weight = s.weight + block * s.kernel_h * s.kernel_w * s.C_in + (channel - block);
        int64_t rows = 0;
        const int64_t spikes = fire_sigma_delta<channels>(s, image, pixel, channel, [&](int64_t t, auto steps, auto* sums) {
            rows += add_window<channels, steps>(taps, x + t * frame, frame, weight, s.C_in, row, sums);
        });
        return std::pair(rows * least(s.C - channel, channels), spikes);
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
        const Value* const values = x + taps.first + taps.x.data[tap];
        const float* const weights = weight + taps.weight.data[tap];
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
static void depthwise_sigma_delta(const SigmaDelta& s) {
    const int64_t filled = ceil_div(s.C, 16) * 16, frame = s.H * s.W * s.C;
    const auto tap_weights = [&](int64_t) { return filled; };
    each_place<row_pass>(s, tap_weights, [&](auto channels, int64_t image, int64_t pixel, int64_t channel, const auto& taps) {
        const int64_t n = least(s.C - channel, channels);
        const Value* const x = (const Value*)s.x + image * s.T_in * frame + channel;
        const float* const weight = s.weight + channel;
        int64_t additions = 0;
        const int64_t spikes = fire_sigma_delta<channels>(s, image, pixel, channel, [&](int64_t t, auto steps, auto* sums) {
            additions += add_depthwise<channels, steps>(taps, x + t * frame, frame, weight, n, sums);
        });
        return std::pair(additions, spikes);
    });
}

}  // namespace PK_TARGET
