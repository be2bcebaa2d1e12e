// Rows of weights: those of one input to the output channels of a block. A row is one cache line, so adding it costs one
// load, and the more channels it holds the better. There are two kinds:
//
// FloatRows: 16 channels as they are.
// ShortRows: 32 channels of whole numbers of 14 bits, if the weights are that: multiples of a unit that each channel has.
//     Four of them can be added in 16 bits; only the sum of the four is widened to 32. The half rows are interleaved,
//     channel o with channel o + 16, since the halves of 32-bit lanes are cheap to take apart.
#pragma once
#include "../simd.h"

namespace PK_TARGET {

constexpr int row_line = 64;         // bytes of a row
constexpr int largest_short = 8191;  // a group of four fits 16 bits

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

struct FloatRows {
    static constexpr int channels = row;
    using Number = float;  // of sums
    using Sums = Row;

    // Sums of groups of rows. An addition waits for the one before to the same register, so the rows of a group are added
    // side by side.
    template <int group>
    struct Adder {
        static constexpr int parts = Row::vecs > 2 || group < 4 ? 2 : 4;
        Row part[parts];
        explicit inline Adder(const float* from) {  // null: from zero
            const Row zero = broadcast_block<row>(0.0f);
            part[0] = from ? load_block<row>(from) : zero;
            for (int i = 1; i < parts; i++) part[i] = zero;
        }
        inline void add(const char* const* rows) {
            for (int i = 0; i < group; i++) PK_TARGET::add(part[i % parts], load_block<row>((const float*)rows[i]));
        }
        inline void store(float* to) {
            if constexpr (parts == 4) PK_TARGET::add(part[0], part[2]), PK_TARGET::add(part[1], part[3]);
            PK_TARGET::add(part[0], part[1]);
            store_block(to, part[0]);
        }
    };

    static inline void put(char* line, int channel, float weight, float) { ((float*)line)[channel] = weight; }
    struct Unit {};
    static inline Unit unit(const float*, int64_t) { return {}; }
    static inline Row current(const float* sums, Unit) { return load_block<row>(sums); }
};

struct ShortRows {
    static constexpr int channels = 2 * row;
    using Number = int32_t;
    using Sums = ShortSums;

    template <int group>
    struct Adder {
        static_assert(group * largest_short <= INT16_MAX);
        Sums sums{};
        explicit Adder(const int32_t* from) {
            if (from) load_sums(from, sums);
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
        inline void store(int32_t* to) const { store_sums(to, sums); }
    };

    static inline void put(char* line, int channel, float weight, float unit) {
        ((int16_t*)line)[channel % row * 2 + channel / row] = (int16_t)(weight / unit);
    }
    using Unit = Block;
    static inline Block unit(const float* units, int64_t channel) { return load_block<block>(units + channel); }
    static inline Block current(const int32_t* sums, const Block& unit) {
        Block b;
        for (int i = 0; i < b.vecs; i++) b.v[i] = to_floats(load(sums + i * Vec::width)) * unit.v[i];
        return b;
    }
};

}  // namespace PK_TARGET
