// Packs dense spikes (0 and 1 of any type, in any memory order), and unpacks them, at the speed of memory. Packing checks in
// the same pass that all values are 0 or 1. abi.h has the layout of packed spikes.
#pragma once
#include <atomic>

#include "spike_words.h"

namespace PK_TARGET {

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
