// Words of spikes: the bits of some channels of a pixel in one integer. They are made from dense values (0 and 1 of any type)
// and written to packed spikes (abi.h has the layout), and the other way round.
//
// Values are read as unsigned integers U of their size. `one` is the bit pattern of 1; any bit set in it tells 1 from 0.
#pragma once
#include "abi.h"
#include "work.h"

namespace PK_TARGET {

// The type that holds the bits of some channels of a pixel.
template <class U>
struct WordOf {
    typedef U Word;
};
template <>
struct WordOf<uint8_t> {
    typedef uint64_t Word;  // storing single bytes would take longer than everything else
};

template <class U>
struct Values {
    typedef typename WordOf<U>::Word Word;
    static constexpr int width = 8 * sizeof(Word);  // channels of a word
    const U one, sign;  // sign: the sign bit, as a float zero may have either sign; 0 for integers
    const int place;  // the position of the lowest set bit of `one`
    explicit Values(const DenseSpikes& d)
        : one((U)d.one), sign((U)(d.is_float ? (U)1 << (8 * sizeof(U) - 1) : 0)), place(__builtin_ctzll(d.one)) {}

    inline U bit(U value) const { return (value >> place) & 1; }
    // Non-zero if the value, whose bit is given, is neither 0 nor 1.
    inline U other(U value, U bit) const {
        const U all = (U)-bit;
        return (U)(value ^ (one & all)) & (U)(~sign | all);
    }
    inline U value(U bit) const { return one & (U)-bit; }
};

constexpr int64_t plane_bytes = 1 << 13;  // bytes of the words that are handled at a time: they stay in the first-level cache

// Copies the low bytes of words (one word per pixel) to packed spikes, or back.
template <class Bytes, class Word>
static inline void put_bytes(const Word* __restrict words, uint8_t* __restrict spikes, int64_t pixels, int64_t bytes) {
    for (int64_t p = 0; p < pixels; p++) {
        const Bytes low = (Bytes)words[p];
        memcpy(spikes + p * bytes, &low, sizeof low);
    }
}
template <class Bytes, class Word>
static inline void get_bytes(Word* __restrict words, const uint8_t* __restrict spikes, int64_t pixels, int64_t bytes) {
    for (int64_t p = 0; p < pixels; p++) {
        Bytes low;
        memcpy(&low, spikes + p * bytes, sizeof low);
        words[p] = (Word)low;
    }
}

// Copies words (one per pixel) to their `used` bytes in packed spikes, or back.
template <class Word>
static inline void put_words(const Word* __restrict words, uint8_t* __restrict spikes, int64_t pixels, int64_t bytes,
                             int64_t used) {
    if (bytes == 1)
        for (int64_t p = 0; p < pixels; p++) spikes[p] = (uint8_t)words[p];
    else if (used == 1) put_bytes<uint8_t>(words, spikes, pixels, bytes);
    else if (used == 2) put_bytes<uint16_t>(words, spikes, pixels, bytes);
    else if (used == 4) put_bytes<uint32_t>(words, spikes, pixels, bytes);
    else if (used == 8) put_bytes<uint64_t>(words, spikes, pixels, bytes);
    else
        for (int64_t p = 0; p < pixels; p++)
            for (int64_t i = 0; i < used; i++) spikes[p * bytes + i] = (uint8_t)((uint64_t)words[p] >> (8 * i));
}
template <class Word>
static inline void get_words(Word* __restrict words, const uint8_t* __restrict spikes, int64_t pixels, int64_t bytes,
                             int64_t used) {
    if (bytes == 1)
        for (int64_t p = 0; p < pixels; p++) words[p] = spikes[p];
    else if (used == 1) get_bytes<uint8_t>(words, spikes, pixels, bytes);
    else if (used == 2) get_bytes<uint16_t>(words, spikes, pixels, bytes);
    else if (used == 4) get_bytes<uint32_t>(words, spikes, pixels, bytes);
    else if (used == 8) get_bytes<uint64_t>(words, spikes, pixels, bytes);
    else
        for (int64_t p = 0; p < pixels; p++) {
            uint64_t word = 0;
            for (int64_t i = 0; i < used; i++) word |= (uint64_t)spikes[p * bytes + i] << (8 * i);
            words[p] = (Word)word;
        }
}

// Joins the bits of channels whose pixels are contiguous to words. Returns non-zero if a value is neither 0 nor 1.
template <class U>
static inline U join_channels(const Values<U>& values, const U* x, int64_t stride, int64_t channels, int64_t pixels,
                              U* __restrict words) {
    U others = 0;
    memset(words, 0, pixels * sizeof(U));
    for (int64_t c = 0; c < channels; c++) {
        const U* const __restrict from = x + c * stride;
        for (int64_t p = 0; p < pixels; p++) {
            const U value = from[p], bit = values.bit(value);
            others |= values.other(value, bit);
            words[p] |= (U)(bit << c);
        }
    }
    return others;
}

// The inverse: words to values.
template <class U>
static inline void part_channels(const Values<U>& values, const U* __restrict words, int64_t stride, int64_t channels,
                                 int64_t pixels, U* x) {
    for (int64_t c = 0; c < channels; c++) {
        U* const __restrict to = x + c * stride;
        for (int64_t p = 0; p < pixels; p++) to[p] = values.value((U)(words[p] >> c) & 1);
    }
}

// The same for one-byte values, whose 1 is a single bit. The values of eight channels at 64 pixels are joined to a register of
// bytes, by shifts of 64-bit words, as no instruction shifts bytes. The bytes of eight such groups of channels are then
// interleaved in three steps.
typedef uint64_t Register __attribute__((vector_size(64)));
constexpr uint64_t byte_ones = 0x0101010101010101u;

template <class Half, class Whole>
static inline void join_halves(const Half* __restrict low, const Half* __restrict high, int64_t n, Whole* __restrict joined) {
    for (int64_t i = 0; i < n; i++) joined[i] = (Whole)(low[i] | (Whole)high[i] << (8 * sizeof(Half)));
}
template <class Half, class Whole>
static inline void part_halves(const Whole* __restrict joined, int64_t n, Half* __restrict low, Half* __restrict high) {
    for (int64_t i = 0; i < n; i++) low[i] = (Half)joined[i], high[i] = (Half)(joined[i] >> (8 * sizeof(Half)));
}

// For some pixels: the bytes of each group of channels, and the steps in which they are interleaved.
struct Groups {
    static constexpr int64_t length = plane_bytes / (int64_t)sizeof(uint64_t);
    uint8_t bytes[8][length];
    uint16_t pairs[4][length];
    uint32_t fours[2][length];
};

static inline uint8_t join_channels(const Values<uint8_t>& values, const uint8_t* x, int64_t stride, int64_t channels,
                                    int64_t pixels, uint64_t* __restrict words) {
    Groups groups;
    Register others = {};
    uint8_t rest = 0;
    for (int64_t group = 0; group < 8; group++) {
        const uint8_t* const from = x + 8 * group * stride;
        const int64_t count = most(0, least(8, channels - 8 * group));
        int64_t p = 0;
        for (; p + (int64_t)sizeof(Register) <= pixels; p += sizeof(Register)) {
            Register sum = {}, value;
            for (int64_t c = 0; c < count; c++) {
                memcpy(&value, from + c * stride + p, sizeof value);
                others |= value;
                sum |= (value & byte_ones) << c;
            }
            memcpy(groups.bytes[group] + p, &sum, sizeof sum);
        }
        rest |= join_channels<uint8_t>(values, from + p, stride, count, pixels - p, groups.bytes[group] + p);
    }
    for (int i = 0; i < 8; i++) rest |= (others[i] & ~byte_ones) != 0;
    for (int i = 0; i < 4; i++) join_halves(groups.bytes[2 * i], groups.bytes[2 * i + 1], pixels, groups.pairs[i]);
    for (int i = 0; i < 2; i++) join_halves(groups.pairs[2 * i], groups.pairs[2 * i + 1], pixels, groups.fours[i]);
    join_halves(groups.fours[0], groups.fours[1], pixels, words);
    return rest;
}
static inline void part_channels(const Values<uint8_t>& values, const uint64_t* __restrict words, int64_t stride,
                                 int64_t channels, int64_t pixels, uint8_t* x) {
    Groups groups;
    part_halves(words, pixels, groups.fours[0], groups.fours[1]);
    for (int i = 0; i < 2; i++) part_halves(groups.fours[i], pixels, groups.pairs[2 * i], groups.pairs[2 * i + 1]);
    for (int i = 0; i < 4; i++) part_halves(groups.pairs[i], pixels, groups.bytes[2 * i], groups.bytes[2 * i + 1]);
    for (int64_t group = 0; 8 * group < channels; group++) {
        uint8_t* const to = x + 8 * group * stride;
        const int64_t count = least(8, channels - 8 * group);
        int64_t p = 0;
        for (; p + (int64_t)sizeof(Register) <= pixels; p += sizeof(Register)) {
            Register sum;
            memcpy(&sum, groups.bytes[group] + p, sizeof sum);
            for (int64_t c = 0; c < count; c++) {
                const Register value = (sum >> c) & byte_ones;
                memcpy(to + c * stride + p, &value, sizeof value);
            }
        }
        part_channels<uint8_t>(values, groups.bytes[group] + p, stride, count, pixels - p, to + p);
    }
}

}  // namespace PK_TARGET
