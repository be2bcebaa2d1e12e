// In which rows the weights of a layer are packed (../conv2d/rows.h): short ones where these are whole multiples of a unit, as
// rounded weights are, and sums of them are as exact as sums of floats. A row holds the channels of a block: as many as eight
// registers of floats hold.
#pragma once
#include <cmath>

#include "../conv2d/slices.h"

namespace PK_TARGET {

constexpr int block_vecs = 8, columns = block_vecs * Vec::width;  // registers and output channels of a block of rows

enum class RowKind { Floats, Shorts, Bytes };

// Rows of a block of as many channels as n registers of floats hold, or a few more; `group`: so many are added at a time.
template <int n>
struct BlockFloats : FloatRowsOf<n> {
    static constexpr int group = n <= 2 ? 4 : n <= 4 ? 2 : 1;  // an addition waits for the last
};
template <int n>
struct BlockShorts : ShortRowsOf<(n + 1) / 2> {
    static constexpr int group = 4;
};
template <int n>
struct BlockBytes : ByteRowsOf<(n + 3) / 4> {
    static constexpr int group = 4;
};
constexpr int most_group = 4;

// Calls visit with a value of the kind of rows of a block of `vecs_wanted` registers of floats.
template <class Visit>
static void with_block_rows(RowKind kind, int vecs_wanted, Visit visit) {
    each<block_vecs>([&](auto i) {
        constexpr int n = decltype(i)::value + 1;
        if (n != vecs_wanted) return;
        if (kind == RowKind::Bytes) visit(BlockBytes<n>{});
        else if (kind == RowKind::Shorts) visit(BlockShorts<n>{});
        else visit(BlockFloats<n>{});
    });
}

// Packs weights [channels, C, taps] in rows tap * C + channel of the input, and one more, which adds nothing. `unit`: of the
// channels; of floats null.
template <class Rows>
static void pack_block(const float* weight, int64_t channels, int64_t C, int64_t taps, const float* unit, char* to) {
    constexpr int64_t near = (1 << 14) / Rows::bytes;  // rows that stay in the first-level cache while all channels are written
    const int64_t inputs = C * taps;
    for (int64_t first = 0; first <= inputs; first += near, to += near * Rows::bytes) {
        memset(to, Rows::nothing, least(near, inputs + 1 - first) * Rows::bytes);
        const int64_t rows = least(near, inputs - first);
        for (int64_t o = 0; o < channels; o++) {
            const float* const from = weight + o * inputs;
            const float scale = unit ? 1.0f / unit[o] : 1.0f;  // of a power of two: exact
            int64_t tap = first / C, c = first % C;
            for (int64_t row = 0; row < rows; row++) {
                Rows::put(to + row * Rows::bytes, (int)o, from[c * taps + tap] * scale);
                if (++c == C) c = 0, tap++;
            }
        }
    }
}

constexpr int64_t largest_byte = 63, largest_byte_sum = INT16_MAX;  // of byte rows, which are summed up in 16 bits
constexpr double largest_exact_sum = 0x1p24;  // which a float has room for

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

// The kind of rows of a block for such weights: none that a row of floats has no more registers than.
static RowKind row_kind_of(const float* weight, int64_t C, int64_t inputs, float* unit) {
    const int64_t channels = C > Vec::width ? row_channels_of(weight, C, inputs, unit) : FloatRows::channels;
    return channels == ByteRows::channels    ? RowKind::Bytes
           : channels == ShortRows::channels ? RowKind::Shorts
                                             : RowKind::Floats;
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
