// Rows of weights. A row holds the weights from one input to the output channels of a block. It is one cache line, so adding
// it costs one load, and the more channels it holds the better. There are three kinds:
//
// FloatRows: 16 channels of floats.
// ShortRows: 32 channels of 14-bit integers, for weights that are integer multiples of a unit of their channel. Four rows can
//     be added in 16 bits; only the sum of the four is widened to 32 bits. The halves of a row are interleaved, channel o with
//     channel o + 16, since the halves of 32-bit lanes are cheap to separate.
// ByteRows: 64 channels of 7-bit integers, if all sums of a channel's weights fit 16 bits. A weight w is stored as w + 64,
//     from 1 to 127, so that two rows can be added in bytes; channel o is the low byte, and channel o + 32 the high byte, of a
//     16-bit word. The sum of the words is high * 256 + low, modulo 2^16, and the sum of the words shifted right by 8 is high,
//     so low = words - 256 * high. Finally 64 is subtracted for every row, including those that lists are padded with.
//
// These numbers are for rows of one cache line (64 bytes). Rows of any number of registers (`vecs_`) are laid out in the same
// way: the first half of the channels is interleaved with the second half.
//
// `current` converts sums to floats, one register of channels at a time, in the channels' units. Units are powers of two, so
// scaling by them is exact.
#pragma once
#include "../simd.h"
#include "../units.h"

namespace PK_TARGET {

constexpr int row_line = 64;  // bytes of a row
constexpr int largest_short = 8191;  // the sum of four fits 16 bits
constexpr int byte_offset = 64;

template <int channels>
static inline void load_sums(const float* p, Lanes<channels>& sums) {
    sums = load_block<channels>(p);
}
template <int channels>
static inline void store_sums(float* p, const Lanes<channels>& sums) {
    store_block(p, sums);
}

template <int half_>
struct ShortSums {
    static constexpr int half = half_;  // vectors of the first half of the channels, then those of the others
    Ints v[2 * half];
};
template <int half>
static inline void load_sums(const int32_t* p, ShortSums<half>& sums) {
    for (int i = 0; i < 2 * half; i++) sums.v[i] = load(p + i * Vec::width);
}
template <int half>
static inline void store_sums(int32_t* p, const ShortSums<half>& sums) {
    for (int i = 0; i < 2 * half; i++) store(p + i * Vec::width, sums.v[i]);
}
template <int half>
static inline void add(ShortSums<half>& a, const ShortSums<half>& b) {
    for (int i = 0; i < 2 * half; i++) a.v[i] = a.v[i] + b.v[i];
}
template <int half>
static inline void subtract(ShortSums<half>& a, const ShortSums<half>& b) {
    for (int i = 0; i < 2 * half; i++) a.v[i] = a.v[i] - b.v[i];
}

// The sums of ByteRows: the sums of 16-bit words, then those of their high bytes.
template <int vecs_>
struct ByteSums {
    static constexpr int vecs = vecs_;
    Ints words[vecs], high[vecs];
};
template <int vecs>
static inline void load_sums(const int16_t* p, ByteSums<vecs>& sums) {
    for (int i = 0; i < sums.vecs; i++) {
        sums.words[i] = load((const int32_t*)p + i * Vec::width);
        sums.high[i] = load((const int32_t*)p + (sums.vecs + i) * Vec::width);
    }
}
template <int vecs>
static inline void store_sums(int16_t* p, const ByteSums<vecs>& sums) {
    for (int i = 0; i < sums.vecs; i++) {
        store((int32_t*)p + i * Vec::width, sums.words[i]);
        store((int32_t*)p + (sums.vecs + i) * Vec::width, sums.high[i]);
    }
}
template <int vecs>
static inline void add(ByteSums<vecs>& a, const ByteSums<vecs>& b) {
    for (int i = 0; i < a.vecs; i++) {
        a.words[i] = add_halves(a.words[i], b.words[i]);
        a.high[i] = add_halves(a.high[i], b.high[i]);
    }
}
template <int vecs>
static inline void subtract(ByteSums<vecs>& a, const ByteSums<vecs>& b) {
    for (int i = 0; i < a.vecs; i++) {
        a.words[i] = subtract_halves(a.words[i], b.words[i]);
        a.high[i] = subtract_halves(a.high[i], b.high[i]);
    }
}

template <int vecs_>
struct FloatRowsOf {
    static constexpr int channels = vecs_ * Vec::width;
    static constexpr int64_t bytes = channels * (int64_t)sizeof(float);  // of a row
    static constexpr int nothing = 0;  // the bytes of a row that adds nothing
    using Number = float;  // the type of a sum
    using Sums = Lanes<channels>;

    // Adds up one or more groups of rows. Several independent accumulators hide the latency of the addition. The earlier sum is
    // added last, so that rounding errors stay small.
    template <int group>
    struct Adder {
        static constexpr int parts = group == 1 ? 1 : vecs_ > 2 || group < 4 ? 2 : 4;
        Sums part[parts];
        const float* const from;
        inline Adder(const float* from, const char* const* rows) : from(from) {  // from: the earlier sum; null: zero
            for (int i = 0; i < parts; i++) part[i] = load_block<channels>((const float*)rows[i]);
            for (int i = parts; i < group; i++) add_row(rows[i], i);
        }
        inline void add(const char* const* rows) {
            for (int i = 0; i < group; i++) add_row(rows[i], i);
        }
        inline void add_row(const char* line, int i) {
            PK_TARGET::add(part[i % parts], load_block<channels>((const float*)line));
        }
        inline const Sums& total(int64_t) {
            if constexpr (parts == 4) PK_TARGET::add(part[0], part[2]), PK_TARGET::add(part[1], part[3]);
            if constexpr (parts > 1) PK_TARGET::add(part[0], part[1]);
            if (from) PK_TARGET::add(part[0], load_block<channels>(from));
            return part[0];
        }
    };

    // Writes a weight, which is given in units of its channel.
    static inline void put(char* line, int channel, float weight) { ((float*)line)[channel] = weight; }
    static inline Vec current(const float* sums, int i) { return load(sums + i * Vec::width); }
};

using FloatRows = FloatRowsOf<Row::vecs>;

template <int vecs_>
struct ShortRowsOf {
    static constexpr int half = vecs_ * Vec::width, channels = 2 * half;
    static constexpr int64_t bytes = channels * (int64_t)sizeof(int16_t);
    static constexpr int nothing = 0;
    using Number = int32_t;
    using Sums = ShortSums<vecs_>;

    template <int group>
    struct Adder {
        static_assert(group * largest_short <= INT16_MAX);
        Sums sums{};
        inline Adder(const int32_t* from, const char* const* rows) {
            if (from) load_sums(from, sums);
            add(rows);
        }
        inline void add(const char* const* rows) {
            for (int i = 0; i < Sums::half; i++) {
                const int64_t offset = i * (int64_t)sizeof(Ints);
                Ints sum = load((const int32_t*)(rows[0] + offset));
                for (int k = 1; k < group; k++) sum = add_halves(sum, load((const int32_t*)(rows[k] + offset)));
                sums.v[i] = sums.v[i] + low_half(sum);
                sums.v[i + Sums::half] = sums.v[i + Sums::half] + high_half(sum);
            }
        }
        inline const Sums& total(int64_t) const { return sums; }
    };

    static inline void put(char* line, int channel, float weight) {
        ((int16_t*)line)[channel % half * 2 + channel / half] = (int16_t)weight;
    }
    static inline Vec current(const int32_t* sums, int i) { return to_floats(load(sums + i * Vec::width)); }
};

using ShortRows = ShortRowsOf<Row::vecs>;

template <int vecs_>
struct ByteRowsOf {
    static constexpr int half = vecs_ * 2 * Vec::width, channels = 2 * half;
    static constexpr int64_t bytes = channels;
    static constexpr int nothing = byte_offset;
    using Number = int16_t;
    using Sums = ByteSums<vecs_>;

    template <int group>
    struct Adder {
        static_assert(group % 2 == 0);
        Sums sums{};
        inline Adder(const int16_t* from, const char* const* rows) {
            if (from) load_sums(from, sums);
            add(rows);
        }
        inline void add(const char* const* rows) {
            for (int i = 0; i < Sums::vecs; i++) {
                const auto line = [&](int k) { return load((const int32_t*)rows[k] + i * Vec::width); };
                for (int k = 0; k < group; k += 2) {
                    const Ints pair = add_bytes(line(k), line(k + 1));
                    sums.words[i] = add_halves(sums.words[i], pair);
                    sums.high[i] = add_halves(sums.high[i], high_bytes(pair));
                }
            }
        }
        inline const Sums& total(int64_t rows) {
            const int64_t offset = rows * byte_offset;
            for (int i = 0; i < Sums::vecs; i++) {
                sums.words[i] = add_halves(sums.words[i], broadcast_half((uint16_t)(-257 * offset)));
                sums.high[i] = add_halves(sums.high[i], broadcast_half((uint16_t)-offset));
            }
            return sums;
        }
    };

    static inline void put(char* line, int channel, float weight) {
        line[channel % half * 2 + channel / half] = (char)((int)weight + byte_offset);
    }
    static inline Vec current(const int16_t* sums, int i) {
        const int of_half = i % (2 * vecs_), word = of_half / 2;
        const Ints high = load((const int32_t*)sums + (vecs_ + word) * Vec::width);
        const Ints halves = i < 2 * vecs_ ? low_bytes(load((const int32_t*)sums + word * Vec::width), high) : high;
        return to_floats(of_half % 2 ? widen_second(halves) : widen_first(halves));
    }
};
using ByteRows = ByteRowsOf<Row::vecs>;

// Which kind of rows (weight_rows.h) the weights of a layer fit: integer rows if they are multiples of a unit.

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
