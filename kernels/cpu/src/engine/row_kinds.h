// The kinds of rows in which the weights of a layer are packed (../conv2d/weight_rows.h): floats, or 16-bit or 8-bit integers
// if the weights are integer multiples of a unit, as rounded weights are. Sums of integers are no less exact than sums of
// floats. A row holds the channels of a block: as many as eight registers of floats hold.
#pragma once
#include "../conv2d/slices.h"
#include "../conv2d/weight_units.h"

namespace PK_TARGET {

constexpr int block_vecs = 8, columns = block_vecs * Vec::width;  // registers and output channels of a block of rows

enum class RowKind { Floats, Shorts, Bytes };

// Rows for a block of as many channels as n registers of floats hold, or a few more. `group_`: rows added at a time. Block
// sizes whose rows are equally long share a type, so that the code exists once.
template <class Rows, int group_>
struct BlockRows : Rows {
    static constexpr int group = group_;
};
constexpr int float_group(int n) { return n <= 2 ? 4 : n <= 4 ? 2 : 1; }  // more sums hide the latency of the addition
template <int n>
using BlockFloats = BlockRows<FloatRowsOf<n>, float_group(n)>;
template <int n>
using BlockShorts = BlockRows<ShortRowsOf<(n + 1) / 2>, 4>;
template <int n>
using BlockBytes = BlockRows<ByteRowsOf<(n + 3) / 4>, 4>;
constexpr int most_group = 4;

// Calls visit with a value of the type of rows of that kind, for a block of `vecs_wanted` registers of floats.
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

// Packs weights [channels, C, taps] in rows tap * C + c, followed by one row that adds nothing. `unit`: the units of the
// channels; null for rows of floats.
template <class Rows>
OUT_OF_LINE static void pack_block(const float* weight, int64_t channels, int64_t C, int64_t taps, const float* unit,
                                   char* to) {
    constexpr int64_t together = 16;  // channels at a time, whose weights stay in a cache
    const int64_t inputs = C * taps, filled = channels == Rows::channels ? inputs : 0;
    memset(to + filled * Rows::bytes, Rows::nothing, (inputs + 1 - filled) * Rows::bytes);
    for (int64_t o = 0; o < channels; o += together) {
        const int64_t some = least(together, channels - o);
        float scale[together];
        for (int64_t k = 0; k < some; k++) scale[k] = unit ? 1.0f / unit[o + k] : 1.0f;  // units are powers of two: exact
        const float *from = weight + o * inputs, *const stop = from + inputs;
        for (int64_t row = 0; from < stop; from++) {
#if !defined(__clang__)  // GCC would unroll it fully
#pragma GCC unroll 8
#endif
            for (int64_t k = 0; k < some; k++) Rows::put(to + row * Rows::bytes, (int)(o + k), from[k * inputs] * scale[k]);
            row += row + C < inputs ? C : C + 1 - inputs;
        }
    }
}

// The kind of rows for given weights. Integers are used only if their row then takes fewer registers than a row of floats.
static RowKind row_kind_of(const float* weight, int64_t C, int64_t inputs, float* unit) {
    const int64_t channels = C > Vec::width ? row_channels(weight, C, inputs, unit) : FloatRows::channels;
    return channels == ByteRows::channels    ? RowKind::Bytes
           : channels == ShortRows::channels ? RowKind::Shorts
                                             : RowKind::Floats;
}

// Bytes of the sum of one block of rows.
static int64_t sum_bytes(const Conv2d& c) {
    int64_t bytes = 0;
    with_rows(c, [&](auto rows) {
        using Rows = decltype(rows);
        bytes = Rows::channels * (int64_t)sizeof(typename Rows::Number);
    });
    return bytes;
}

}  // namespace PK_TARGET
