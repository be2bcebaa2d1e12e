// Weights packed for the tile kernel: each digit a tile of its own, for 16 output channels at a time.
#pragma once
#if defined(__AMX_INT8__)
#include "amx_digits.h"
#include "amx_layout.h"

namespace PK_TARGET {

static int64_t tiles_size(const Conv2d* c) {
    const Layout layout(*c);
    return layout.runs * layout.run_tiles * c->digits * tile_bytes;
}

static int64_t count_digits(const float* weight, const float* theta, int64_t C_out, int64_t K) {
    int most_digits = 1, possible = 1;
#pragma omp parallel for reduction(max : most_digits) reduction(min : possible)
    for (int64_t o = 0; o < C_out; o++) {
        const int digits = digits_needed(weight + o * K, K, theta[o]);
        most_digits = digits > most_digits ? digits : most_digits;
        possible = digits > 0 ? possible : 0;
    }
    return possible ? most_digits : 0;
}

// The digits of n weights, each in a byte of a word: 0x80 added to every digit carries as digits of -128 to 127 ask for.
static void to_digits(const float* weight, int64_t n, double scale, uint32_t* to) {
    const __m256i half = _mm256_set1_epi32((int)0x80808080);
    for (int64_t i = 0; i < n; i += 8) {
        const __mmask8 exist = (__mmask8)(n - i >= 8 ? 0xff : (1 << (n - i)) - 1);
        const __m512d number = _mm512_cvtps_pd(_mm256_maskz_loadu_ps(exist, weight + i)) * _mm512_set1_pd(scale);
        const __m256i nearest = _mm512_cvtpd_epi32(number);
        _mm256_mask_storeu_epi32(to + i, exist, _mm256_xor_si256(_mm256_add_epi32(nearest, half), half));
    }
}

// One digit of four inputs, which lie side by side in a tile.
static inline uint32_t digit_of_four(const uint32_t (&four)[4], int digit) {
    uint32_t bytes = 0;
    for (int j = 0; j < 4; j++) bytes |= (four[j] >> 8 * digit & 0xff) << 8 * j;
    return bytes;
}

static void pack_tiles(const float* weight, int8_t* packed, float* unit, const Conv2d* conv) {
    const Conv2d& c = *conv;
    const Layout layout(c);
    const int64_t taps = c.kernel_h * c.kernel_w, K = c.C_in * taps, size = tiles_size(conv);
    const int digits = (int)c.digits;
#pragma omp parallel
    {
        Memory<uint32_t> words(K);
#pragma omp for schedule(dynamic)
        for (int64_t o = 0; o < c.neurons.C; o++) {
            const float* row = weight + o * K;
            unit[o] = finest_unit(row, K, digits);
            to_digits(row, K, 1.0 / unit[o], words.data);
            int8_t* block_start = packed + o / tile_channels * size + o % tile_channels * 4;
            for (int64_t tap = 0; tap < taps; tap++) {
                const int64_t run = tap / layout.run_taps, offset = tap % layout.run_taps * layout.channels;
                for (int64_t i = 0; i < c.C_in; i += 4) {
                    const int64_t k = offset + i;  // of the run's inputs; a multiple of 4
                    int8_t* to = block_start + (run * layout.run_tiles + k / tile_width) * digits * tile_bytes +
                                 k % tile_width / 4 * tile_width;
                    uint32_t four[4] = {};
                    for (int64_t j = 0; j < std::min<int64_t>(4, c.C_in - i); j++) four[j] = words.data[(i + j) * taps + tap];
                    for (int digit = 0; digit < digits; digit++, to += tile_bytes) {
                        const uint32_t bytes = digit_of_four(four, digit);
                        memcpy(to, &bytes, sizeof bytes);
                    }
                }
            }
        }
    }
}

}  // namespace PK_TARGET
#endif  // __AMX_INT8__
