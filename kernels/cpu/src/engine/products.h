// Products of what slots hold: attention, and the product of two slots, value by value. Each handles the steps of a span of one
// image (pools_and_moves.h).
#pragma once
#include "pools_and_moves.h"

namespace PK_TARGET {

// Channels that are looked at together: whole vectors, and at most 7 bytes wherever they begin.
constexpr int64_t piece_bits = 48;

// n channels of a pixel from `channel` on, as bits.
static inline uint64_t channel_bits(const uint8_t* pixel, int64_t channel, int64_t n) {
    const uint64_t bits = load_bits(pixel + channel / 8, ceil_div(channel % 8 + n, 8)) >> channel % 8;
    return bits & (((uint64_t)1 << n) - 1);
}

// Calls visit(channel, value) for n channels of a pixel from `first` on that are not 0. Channels count from `first`.
template <class Visit>
static inline void each_value(const View& x, int64_t image, int64_t t, int64_t pixel, int64_t first, int64_t n, Visit visit) {
    if (!x.spikes) {
        const float* const values = x.values_at(image, t, pixel) + first * x.channel;
        for (int64_t c = 0; c < n; c++)
            if (values[c * x.channel] != 0) visit(c, values[c * x.channel]);
        return;
    }
    const uint8_t* const bytes = x.spikes_at(image, t, pixel);
    for (int64_t c = 0; c < n; c += piece_bits)
        for (uint64_t bits = channel_bits(bytes, first + c, least(piece_bits, n - c)); bits; bits &= bits - 1)
            visit(c + __builtin_ctzll(bits), 1.0f);
}

// n channels of a pixel from `first` on, in whole vectors.
static inline void take_values(const View& x, int64_t image, int64_t t, int64_t pixel, int64_t first, int64_t n, float* to) {
    if (!x.spikes) {
        const float* const values = x.values_at(image, t, pixel) + first * x.channel;
        for (int64_t c = 0; c < n; c++) to[c] = values[c * x.channel];
        return;
    }
    const uint8_t* const bytes = x.spikes_at(image, t, pixel);
    for (int64_t c = 0; c < n; c += piece_bits) {
        const int64_t some = least(piece_bits, n - c);
        const uint64_t bits = channel_bits(bytes, first + c, some);
        for (int64_t i = 0; i < some; i += Vec::width)
            store(to + c + i, add_where(mask_of((uint32_t)(bits >> i)), broadcast(0.0f), broadcast(1.0f)));
    }
}

// The channels of a head, and the same in whole vectors.
struct Head {
    int64_t channels, row;
    explicit Head(const Op& op) : channels(op.C / op.heads), row(ceil_div(channels, Vec::width) * Vec::width) {}
};

// Blocks of memory that a thread needs.
static inline int64_t attention_room(const Op& op) {
    const Head head(op);
    return ceil_div((head.channels + 2) * head.row, block);
}

static inline void add_times(float* to, const float* from, float factor, int64_t row) {
    for (int64_t c = 0; c < row; c += Vec::width) store(to + c, multiply_add(broadcast(factor), load(from + c), load(to + c)));
}

// (V K^T) Q of each head. Queries, keys and values lie side by side along the channels. `memory`: of attention_room() blocks.
static void attend(const Op& op, const View& from, char* slot, const StepSpan& s, float* memory) {
    const Head head(op);
    float *const values = memory, *const sum = values + head.row, *const products = sum + head.row;
    memset(memory, 0, 2 * head.row * sizeof(float));
    for (int64_t t = s.t0; t < s.t1; t++)
        for (int64_t first = 0; first < op.C; first += head.channels) {
            memset(products, 0, head.channels * head.row * sizeof(float));
            for (int64_t p = 0; p < op.P(); p++) {
                take_values(from, s.image, t, p, 2 * op.C + first, head.channels, values);
                each_value(from, s.image, t, p, op.C + first, head.channels,
                           [&](int64_t c, float key) { add_times(products + c * head.row, values, key, head.row); });
            }
            for (int64_t p = 0; p < op.P(); p++) {
                memset(sum, 0, head.row * sizeof(float));
                each_value(from, s.image, t, p, first, head.channels,
                           [&](int64_t c, float query) { add_times(sum, products + c * head.row, query, head.row); });
                memcpy((float*)s.of(slot, t) + p * op.C + first, sum, head.channels * sizeof(float));
            }
        }
}

// The product of the first input and the second, of which each channel counts for several, and one pixel for all.
static void multiply_slots(const Op& op, const View* views, char* slot, bool gives_values, const StepSpan& s) {
    const Window& other = op.windows[1];
    const View &x = views[op.windows[0].slot], &y = views[other.slot];
    const int64_t several = op.C / other.C, next = other.H * other.W > 1;
    const auto second = [&](int64_t t, int64_t p, int64_t c) {
        if (y.spikes) return (float)(y.spikes_at(s.image, t, p)[c / 8] >> c % 8 & 1);
        return y.values_at(s.image, t, p)[c * y.channel];
    };
    for (int64_t t = s.t0; t < s.t1; t++) {
        memset(s.of(slot, t), 0, s.frame);
        for (int64_t p = 0; p < op.P(); p++)
            each_value(x, s.image, t, p, 0, op.C, [&](int64_t c, float value) {
                const float product = value * second(t, next * p, c / several);
                if (gives_values) ((float*)s.of(slot, t))[p * op.C + c] = product;
                else if (product != 0) set_bit(s.of(slot, t), p * 8 * op.bytes() + c);
            });
    }
}

}  // namespace PK_TARGET
