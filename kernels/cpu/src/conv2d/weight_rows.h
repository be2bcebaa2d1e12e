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

}  // namespace PK_TARGET
