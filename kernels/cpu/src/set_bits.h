// Reads packed spikes as words, and as lists of the channels that fired.
#pragma once
#include "simd.h"
#include "work.h"

namespace PK_TARGET {

constexpr int overrun = 32;  // lists are read and written in whole vectors, up to this many entries past their end

// The first n bytes as a word; if n is above 8, the first eight.
static inline uint64_t load_bits(const uint8_t* bytes, int64_t n) {
    uint64_t word = 0;
    if (n >= 8) {
        memcpy(&word, bytes, 8);
        return word;
    }
    for (int size = 4, at = 0; size; size /= 2)  // memcpy of a variable length would be a function call
        if (n & size) {
            uint32_t part = 0;
            memcpy(&part, bytes + at, size);
            word |= (uint64_t)part << (8 * at);
            at += size;
        }
    return word;
}

// For few bytes, where a call of memcmp or memcpy would take longer.
static inline bool equal_bytes(const uint8_t* a, const uint8_t* b, int64_t n) {
    for (; n >= 8; n -= 8, a += 8, b += 8)
        if (load_bits(a, 8) != load_bits(b, 8)) return false;
    return load_bits(a, n) == load_bits(b, n);
}
static inline void copy_bytes(const uint8_t* from, uint8_t* to, int64_t n) {
    for (; n >= 8; n -= 8, from += 8, to += 8) memcpy(to, from, 8);
    for (int64_t i = 0; i < n; i++) to[i] = from[i];
}

// Whether no bit is set.
static inline bool is_silent(const uint8_t* bytes, int64_t n) {
    uint64_t any = 0, word;
    for (; n >= 8; n -= 8, bytes += 8) {
        memcpy(&word, bytes, 8);
        any |= word;
    }
    return !(any | load_bits(bytes, n));
}

static inline int64_t count_bits(const uint8_t* bytes, int64_t n) {
    int64_t sum = 0;
    uint64_t word;
    for (; n >= 8; n -= 8, bytes += 8) {
        memcpy(&word, bytes, 8);
        sum += __builtin_popcountll(word);
    }
    for (int64_t i = 0; i < n; i++) sum += __builtin_popcount(bytes[i]);
    return sum;
}

// Counts the bits of `pixels` pixels, which are `pixel` bytes apart.
static inline int64_t count_pixels(const uint8_t* at, int64_t pixels, int64_t pixel, int64_t bytes) {
    if (bytes == pixel) return count_bits(at, pixels * bytes);
    int64_t sum = 0;
    for (int64_t p = 0; p < pixels; p++) sum += count_bits(at + p * pixel, bytes);
    return sum;
}

// The positions of the bits that are set in a byte, lowest first.
struct BitPositions {
    uint8_t of[256][8] = {};
    constexpr BitPositions() {
        for (int byte = 0; byte < 256; byte++)
            for (int bit = 0, n = 0; bit < 8; bit++)
                if (byte >> bit & 1) of[byte][n++] = (uint8_t)bit;
    }
};
static constexpr BitPositions bit_positions;

#if defined(__AVX512F__)
// append_set_bits for 64 bits at a time: one instruction compresses the indices of the set bits.
__attribute__((target("avx512vbmi2"))) OUT_OF_LINE static int64_t append_compressed(const uint8_t* bytes, int64_t n,
                                                                                    uint16_t scale, int64_t before,
                                                                                    uint16_t* out) {
    struct Indices {
        uint8_t of[64] = {};
        constexpr Indices() {
            for (int i = 0; i < 64; i++) of[i] = (uint8_t)i;
        }
    };
    static constexpr Indices indices;
    const __m512i lanes = _mm512_loadu_si512(indices.of), scales = _mm512_set1_epi16((short)scale);
    const auto entries = [&](__m256i index, __m512i base) {
        return _mm512_add_epi16(_mm512_mullo_epi16(_mm512_cvtepu8_epi16(index), scales), base);
    };
    const uint16_t* const start = out;
    for (uint16_t first = (uint16_t)((before + 1) * scale); n > 0; n -= 8, bytes += 8, first += 64 * scale) {
        const uint64_t word = load_bits(bytes, n);
        const int64_t count = __builtin_popcountll(word);
        const __m512i found = _mm512_maskz_compress_epi8(word, lanes), base = _mm512_set1_epi16((short)first);
        _mm512_storeu_si512(out, entries(_mm512_castsi512_si256(found), base));
        if (count > 32) _mm512_storeu_si512(out + 32, entries(_mm512_extracti64x4_epi64(found, 1), base));
        out += count;
    }
    return out - start;
}
#endif

// Writes `(before + index + 1) * scale` for every set bit of the first n bytes, lowest first; returns their number. It may
// write up to `overrun` entries past the last one, which avoids an unpredictable branch on the number of set bits.
static inline int64_t append_set_bits(const uint8_t* bytes, int64_t n, uint16_t scale, int64_t before, uint16_t* out) {
#if defined(__AVX512F__)
    if (n > 2 && __builtin_cpu_supports("avx512vbmi2")) return append_compressed(bytes, n, scale, before, out);
#endif
    typedef uint8_t Positions __attribute__((vector_size(8)));
    typedef uint16_t Entries __attribute__((vector_size(16)));
    const uint16_t* const start = out;
    uint16_t first = (uint16_t)((before + 1) * scale);
    for (int64_t i = 0; i < n; i++, first += 8 * scale) {
        Positions positions;
        memcpy(&positions, bit_positions.of[bytes[i]], sizeof positions);
        const Entries entries = __builtin_convertvector(positions, Entries) * scale + first;
        memcpy(out, &entries, sizeof entries);
        out += __builtin_popcount(bytes[i]);
    }
    return out - start;
}

// Writes the spike pattern of each of 64 channels over up to 32 steps: bit t of pattern c is bit c of load_word(t). Returns the
// channels that fired at all.
template <class Load>
static inline uint64_t patterns_of(int64_t steps, Load load_word, uint32_t* patterns) {
    constexpr int all = 64 / Vec::width, some = all < 8 ? all : 8;  // registers
    uint64_t any = 0;
    for (int first = 0; first < all; first += some) {
        Ints found[some];
        for (Ints& f : found) f = broadcast_whole(0);
        for (int64_t t = 0; t < steps; t++) {
            const uint64_t word = load_word(t);
            any |= word;
            const Ints bit = broadcast_whole((int32_t)(1u << t));
            for (int i = 0; i < some; i++) {
                const uint32_t here = (uint32_t)(word >> ((first + i) * Vec::width)) & (uint32_t)((1ull << Vec::width) - 1);
                found[i] = or_where(mask_of(here), found[i], bit);
            }
        }
        for (int i = 0; i < some; i++) store((int32_t*)patterns + (first + i) * Vec::width, found[i]);
    }
    return any;
}

// Writes `from[i] + base` for i < n; returns the end of these entries. It always reads and writes whole vectors, at least one,
// so that the usual short list costs no branch.
template <class Number>
static inline Number* append_shifted(const Number* from, int64_t n, Number base, Number* out) {
    constexpr int together = 16;
    typedef Number Numbers __attribute__((vector_size(together * sizeof(Number))));
    int64_t i = 0;
    do {
        Numbers numbers;
        memcpy(&numbers, from + i, sizeof numbers);
        numbers += base;
        memcpy(out + i, &numbers, sizeof numbers);
        i += together;
    } while (i < n);
    return out + n;
}

}  // namespace PK_TARGET
