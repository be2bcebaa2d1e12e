// Packs dense spikes (0 and 1 of any type, in any memory order), and unpacks them, at the speed of memory. Packing checks in
// the same pass that all values are 0 or 1. abi.h has the layout of packed spikes.
#pragma once
#include <atomic>

#include "abi.h"
#include "work.h"

namespace PK_TARGET {

// Words of spikes: the bits of some channels of a pixel in one integer. They are made from dense values (0 and 1 of any type)
// and written to packed spikes (abi.h has the layout), and the other way round.
//
// Values are read as unsigned integers U of their size. `one` is the bit pattern of 1; any bit set in it tells 1 from 0.

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

// Packs some channels of an image whose pixels are contiguous. Returns whether all values are 0 or 1.
template <class U>
static bool pack_planes(const Values<U>& values, const DenseSpikes& d, const U* x, uint8_t* spikes, int64_t channel) {
    const int64_t bytes = (d.C + 7) / 8, channels = least(d.C - channel, values.width), used = (channels + 7) / 8;
    const bool whole = d.H == 1 || d.row == d.W;
    const int64_t runs = whole ? 1 : d.H, length = whole ? d.H * d.W : d.W;
    typedef typename Values<U>::Word Word;
    constexpr int64_t most_pixels = plane_bytes / (int64_t)sizeof(Word);
    Word words[most_pixels];
    U others = 0;
    for (int64_t run = 0; run < runs; run++)
        for (int64_t first = 0; first < length; first += most_pixels) {
            const int64_t pixels = least(length - first, most_pixels);
            const U* const from = x + run * d.row + first + channel * d.channel;
            others |= join_channels(values, from, d.channel, channels, pixels, words);
            put_words(words, spikes + (run * length + first) * bytes + channel / 8, pixels, bytes, used);
        }
    return !others;
}

// Joins the low bits of eight bytes to one byte.
static inline uint8_t join_bits(uint64_t bytes) { return (uint8_t)((bytes * 0x0102040810204080u) >> 56); }

// Packs n contiguous values to ceil(n / 8) bytes.
template <class U>
static bool pack_run(const Values<U>& values, const U* __restrict x, int64_t n, uint8_t* __restrict spikes) {
    constexpr int64_t step = 64;
    uint8_t bits[step];
    U others = 0;
    for (int64_t i = 0; i + step <= n; i += step) {
        for (int64_t k = 0; k < step; k++) {
            const U value = x[i + k], bit = values.bit(value);
            others |= values.other(value, bit);
            bits[k] = (uint8_t)bit;
        }
        for (int64_t k = 0; k < step; k += 8) {
            uint64_t eight;
            memcpy(&eight, bits + k, 8);
            spikes[(i + k) / 8] = join_bits(eight);
        }
    }
    const int64_t done = n / step * step;
    for (int64_t i = done; i < n; i += 8) {
        uint8_t byte = 0;
        for (int64_t k = i; k < n && k < i + 8; k++) {
            const U value = x[k], bit = values.bit(value);
            others |= values.other(value, bit);
            byte |= (uint8_t)(bit << (k - i));
        }
        spikes[i / 8] = byte;
    }
    return !others;
}

// Packs an image whose channels are contiguous.
template <class U>
static bool pack_pixels(const Values<U>& values, const DenseSpikes& d, const U* x, uint8_t* spikes) {
    const int64_t bytes = (d.C + 7) / 8;
    const bool rows = d.W == 1 || d.pixel == d.C, whole = rows && (d.H == 1 || d.row == d.W * d.C);
    if (d.C % 8 == 0 && whole) return pack_run(values, x, d.H * d.W * d.C, spikes);
    bool binary = true;
    for (int64_t y = 0; y < d.H; y++)
        for (int64_t column = 0; column < d.W; column++, spikes += bytes)
            binary &= pack_run(values, x + y * d.row + column * d.pixel, d.C, spikes);
    return binary;
}

// Packs an image of any strides.
template <class U>
static bool pack_scattered(const Values<U>& values, const DenseSpikes& d, const U* x, uint8_t* spikes) {
    const int64_t bytes = (d.C + 7) / 8;
    U others = 0;
    for (int64_t y = 0; y < d.H; y++)
        for (int64_t column = 0; column < d.W; column++, spikes += bytes) {
            const U* const pixel = x + y * d.row + column * d.pixel;
            for (int64_t c0 = 0; c0 < d.C; c0 += 8) {
                uint8_t byte = 0;
                for (int64_t c = c0; c < d.C && c < c0 + 8; c++) {
                    const U value = pixel[c * d.channel], bit = values.bit(value);
                    others |= values.other(value, bit);
                    byte |= (uint8_t)(bit << (c - c0));
                }
                spikes[c0 / 8] = byte;
            }
        }
    return !others;
}

template <class U>
static bool pack_values(const DenseSpikes& d) {
    const Values<U> values(d);
    const int64_t P = d.H * d.W, image_bytes = P * ((d.C + 7) / 8);
    const bool planes = (d.W == 1 || d.pixel == 1) && P > 1, pixels = d.C == 1 || d.channel == 1;
    const int64_t parts = planes && d.C > 1 ? ceil_div(d.C, values.width) : 1;  // parts of an image's channels
    std::atomic<bool> binary{true};
#pragma omp parallel for schedule(static) collapse(2) if (d.size * d.T * d.N * d.C * P > worth_threads)
    for (int64_t frame = 0; frame < d.T * d.N; frame++)  // frame = t * N + n
        for (int64_t part = 0; part < parts; part++) {
            if (!binary.load(std::memory_order_relaxed)) continue;
            const U* const x = (const U*)d.dense + frame / d.N * d.step + frame % d.N * d.image;
            uint8_t* const spikes = d.spikes + (frame % d.N * d.T + frame / d.N) * image_bytes;
            const bool good = planes   ? pack_planes(values, d, x, spikes, part * values.width)
                              : pixels ? pack_pixels(values, d, x, spikes)
                                       : pack_scattered(values, d, x, spikes);
            if (!good) binary.store(false, std::memory_order_relaxed);
        }
    return binary;
}

// Unpacks some channels of an image to contiguous planes.
template <class U>
static void unpack_planes(const Values<U>& values, const uint8_t* spikes, U* dense, int64_t C, int64_t P, int64_t channel) {
    const int64_t bytes = (C + 7) / 8, channels = least(C - channel, values.width);
    typedef typename Values<U>::Word Word;
    constexpr int64_t most_pixels = plane_bytes / (int64_t)sizeof(Word);
    Word words[most_pixels];
    for (int64_t first = 0; first < P; first += most_pixels) {
        const int64_t pixels = least(P - first, most_pixels);
        get_words(words, spikes + first * bytes + channel / 8, pixels, bytes, (channels + 7) / 8);
        part_channels(values, words, P, channels, pixels, dense + channel * P + first);
    }
}

struct EightBits {
    uint8_t of[256][8] = {};
    constexpr EightBits() {
        for (int byte = 0; byte < 256; byte++)
            for (int bit = 0; bit < 8; bit++) of[byte][bit] = (uint8_t)(byte >> bit & 1);
    }
};
static constexpr EightBits eight_bits;

// Unpacks n bits to contiguous values.
template <class U>
static void unpack_run(const Values<U>& values, const uint8_t* __restrict spikes, U* __restrict dense, int64_t n) {
    for (int64_t i = 0; i + 8 <= n; i += 8) {
        const uint8_t* const bits = eight_bits.of[spikes[i / 8]];
        for (int k = 0; k < 8; k++) dense[i + k] = values.value(bits[k]);
    }
    for (int64_t i = n / 8 * 8; i < n; i++) dense[i] = values.value((U)(spikes[i / 8] >> (i % 8)) & 1);
}

template <class U>
static void unpack_values(const DenseSpikes& d) {
    const Values<U> values(d);
    const int64_t P = d.H * d.W, image_bytes = P * ((d.C + 7) / 8), parts = P > 1 ? ceil_div(d.C, values.width) : 1;
#pragma omp parallel for schedule(static) collapse(2) if (d.size * d.T * d.N * d.C * P > worth_threads)
    for (int64_t frame = 0; frame < d.T * d.N; frame++)
        for (int64_t part = 0; part < parts; part++) {
            const uint8_t* const spikes = d.spikes + (frame % d.N * d.T + frame / d.N) * image_bytes;
            U* const dense = (U*)d.dense + frame * d.C * P;
            if (P > 1) unpack_planes(values, spikes, dense, d.C, P, part * values.width);
            else unpack_run(values, spikes, dense, d.C);
        }
}

// Packs dense spikes. Returns whether all values are 0 or 1; otherwise the packed spikes are meaningless.
int64_t pack(const DenseSpikes* d) {
    if (d->T * d->N * d->C * d->H * d->W == 0) return true;
    switch (d->size) {
        case 1: return pack_values<uint8_t>(*d);
        case 2: return pack_values<uint16_t>(*d);
        case 4: return pack_values<uint32_t>(*d);
        default: return pack_values<uint64_t>(*d);
    }
}

// Unpacks to contiguous dense spikes; strides are ignored.
void unpack(const DenseSpikes* d) {
    if (d->T * d->N * d->C * d->H * d->W == 0) return;
    switch (d->size) {
        case 1: return unpack_values<uint8_t>(*d);
        case 2: return unpack_values<uint16_t>(*d);
        case 4: return unpack_values<uint32_t>(*d);
        default: return unpack_values<uint64_t>(*d);
    }
}

}  // namespace PK_TARGET
