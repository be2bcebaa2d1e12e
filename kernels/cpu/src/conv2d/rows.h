// Rows of weights: those of one input to the output channels of a block. A row is one cache line, so adding it costs one
// load, and the more channels it holds the better. There are three kinds:
//
// FloatRows: 16 channels as they are.
// ShortRows: 32 channels of whole numbers of 14 bits, if the weights are that: multiples of a unit that each channel has.
//     Four of them can be added in 16 bits; only the sum of the four is widened to 32. The half rows are interleaved,
//     channel o with channel o + 16, since the halves of 32-bit lanes are cheap to take apart.
// ByteRows: 64 channels of whole numbers of 7 bits, if no sum of a channel's weights leaves 16 bits. They are written as
//     w + 64, from 1 to 127, so that two rows can be added in bytes, and channel o is in a byte below channel o + 32.
//     Sums of 16-bit words are then odd * 256 + even, modulo 2^16, and the words shifted by 8 sum up to odd, so that
//     even = words - 256 * odd. The 64 of every row, also of those that lists are filled up with, is taken off.
//
// Neurons are stepped through `lanes` channels at a time, which are a part of a row. The `current` of sums adds the rest of
// it. Units are powers of two: what a sum stands for is exact, whether it is rounded before that addition or not.
#pragma once
#include "../simd.h"

namespace PK_TARGET {

constexpr int row_line = 64;         // bytes of a row
constexpr int largest_short = 8191;  // a group of four fits 16 bits
constexpr int byte_offset = 64;

static inline void load_sums(const float* p, Row& sums) { sums = load_block<row>(p); }
static inline void store_sums(float* p, const Row& sums) { store_block(p, sums); }

struct ShortSums {
    static constexpr int half = Row::vecs;  // vectors of the first 16 channels, then those of the others
    Ints v[2 * half];
};
static inline void load_sums(const int32_t* p, ShortSums& sums) {
    for (int i = 0; i < 2 * sums.half; i++) sums.v[i] = load(p + i * Vec::width);
}
static inline void store_sums(int32_t* p, const ShortSums& sums) {
    for (int i = 0; i < 2 * sums.half; i++) store(p + i * Vec::width, sums.v[i]);
}
static inline void add(ShortSums& a, const ShortSums& b) {
    for (int i = 0; i < 2 * a.half; i++) a.v[i] = a.v[i] + b.v[i];
}
static inline void subtract(ShortSums& a, const ShortSums& b) {
    for (int i = 0; i < 2 * a.half; i++) a.v[i] = a.v[i] - b.v[i];
}

// The sums of ByteRows: words, then the higher bytes of words.
struct ByteSums {
    static constexpr int vecs = Row::vecs;
    Ints words[vecs], high[vecs];
};
static inline void load_sums(const int16_t* p, ByteSums& sums) {
    for (int i = 0; i < sums.vecs; i++) {
        sums.words[i] = load((const int32_t*)p + i * Vec::width);
        sums.high[i] = load((const int32_t*)p + (sums.vecs + i) * Vec::width);
    }
}
static inline void store_sums(int16_t* p, const ByteSums& sums) {
    for (int i = 0; i < sums.vecs; i++) {
        store((int32_t*)p + i * Vec::width, sums.words[i]);
        store((int32_t*)p + (sums.vecs + i) * Vec::width, sums.high[i]);
    }
}
static inline void add(ByteSums& a, const ByteSums& b) {
    for (int i = 0; i < a.vecs; i++) {
        a.words[i] = add_halves(a.words[i], b.words[i]);
        a.high[i] = add_halves(a.high[i], b.high[i]);
    }
}
static inline void subtract(ByteSums& a, const ByteSums& b) {
    for (int i = 0; i < a.vecs; i++) {
        a.words[i] = subtract_halves(a.words[i], b.words[i]);
        a.high[i] = subtract_halves(a.high[i], b.high[i]);
    }
}

struct FloatRows {
    static constexpr int channels = row, lanes = row;
    static constexpr int nothing = 0;  // the bytes of a row that adds nothing
    using Number = float;  // of sums
    using Sums = Row;

    // Sums of groups of rows, one group or more. An addition waits for the one before to the same register, so the rows of a
    // group are added side by side. The sum of what came before is added last: sums that stay short are rounded less.
    template <int group>
    struct Adder {
        static constexpr int parts = Row::vecs > 2 || group < 4 ? 2 : 4;
        Row part[parts];
        const float* const from;
        inline Adder(const float* from, const char* const* rows) : from(from) {  // null: from zero
            for (int i = 0; i < parts; i++) part[i] = load_block<row>((const float*)rows[i]);
            for (int i = parts; i < group; i++) add_row(rows[i], i);
        }
        inline void add(const char* const* rows) {
            for (int i = 0; i < group; i++) add_row(rows[i], i);
        }
        inline void add_row(const char* line, int i) { PK_TARGET::add(part[i % parts], load_block<row>((const float*)line)); }
        inline void store(float* to, int64_t) {
            if constexpr (parts == 4) PK_TARGET::add(part[0], part[2]), PK_TARGET::add(part[1], part[3]);
            PK_TARGET::add(part[0], part[1]);
            if (from) PK_TARGET::add(part[0], load_block<row>(from));
            store_block(to, part[0]);
        }
    };

    // Writes a weight, in units of its channel.
    static inline void put(char* line, int channel, float weight) { ((float*)line)[channel] = weight; }
    struct Unit {};
    static inline Unit unit(const float*, int64_t) { return {}; }
    static inline Row current(const float* sums, int, Unit, const Row& rest) {
        Row b = load_block<row>(sums);
        PK_TARGET::add(b, rest);
        return b;
    }
};

struct ShortRows {
    static constexpr int channels = 2 * row, lanes = channels;
    static constexpr int nothing = 0;
    using Number = int32_t;
    using Sums = ShortSums;

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
        inline void store(int32_t* to, int64_t) const { store_sums(to, sums); }
    };

    static inline void put(char* line, int channel, float weight) {
        ((int16_t*)line)[channel % row * 2 + channel / row] = (int16_t)weight;
    }
    using Unit = Block;
    static inline Block unit(const float* units, int64_t channel) { return load_block<block>(units + channel); }
    static inline Block current(const int32_t* sums, int, const Block& unit, const Block& rest) {
        Block b;
        for (int i = 0; i < b.vecs; i++) b.v[i] = multiply_add(to_floats(load(sums + i * Vec::width)), unit.v[i], rest.v[i]);
        return b;
    }
};

struct ByteRows {
    static constexpr int channels = 4 * row, lanes = block;
    static constexpr int nothing = byte_offset;
    using Number = int16_t;
    using Sums = ByteSums;

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
        inline void store(int16_t* to, int64_t rows) {
            const int64_t offset = rows * byte_offset;
            for (int i = 0; i < Sums::vecs; i++) {
                sums.words[i] = add_halves(sums.words[i], broadcast_half((uint16_t)(-257 * offset)));
                sums.high[i] = add_halves(sums.high[i], broadcast_half((uint16_t)-offset));
            }
            store_sums(to, sums);
        }
    };

    static inline void put(char* line, int channel, float weight) {
        line[channel % block * 2 + channel / block] = (char)((int)weight + byte_offset);
    }
    using Unit = Block;
    static inline Block unit(const float* units, int64_t channel) { return load_block<block>(units + channel); }
    static inline Block current(const int16_t* sums, int part, const Block& unit, const Block& rest) {
        ByteSums all;
        load_sums(sums, all);
        Block b;
        for (int i = 0; i < all.vecs; i++) {
            const Ints halves = part ? all.high[i] : low_bytes(all.words[i], all.high[i]);
            const Ints first = widen_first(halves), second = widen_second(halves);
            b.v[2 * i] = multiply_add(to_floats(first), unit.v[2 * i], rest.v[2 * i]);
            b.v[2 * i + 1] = multiply_add(to_floats(second), unit.v[2 * i + 1], rest.v[2 * i + 1]);
        }
        return b;
    }
};

}  // namespace PK_TARGET
