// Vectors of weights in bytes, of four rows side by side, and their products with codes.
#pragma once
#include "call.h"

namespace PK_TARGET {

#if defined(__AVX512F__)
// Whether one instruction multiplies bytes and adds up four products. The checked build tests the other way.
static const bool has_dot_products = !PK_IS_CHECKED && __builtin_cpu_supports("avx512vnni");
#else
constexpr bool has_dot_products = false;
#endif

#if defined(__AVX2__)
// The weights of four rows for a chunk of channels, those of a channel side by side. A vector has as many channels as a Vec.
static inline void interleave_four(const uint8_t* const (&row)[4], int64_t at, Ints* weights) {
#if defined(__AVX512F__)
    const __m512i a = _mm512_loadu_si512(row[0] + at), b = _mm512_loadu_si512(row[1] + at);
    const __m512i c = _mm512_loadu_si512(row[2] + at), d = _mm512_loadu_si512(row[3] + at);
    const __m512i ab[2] = {_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b)};
    const __m512i cd[2] = {_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d)};
    for (int half = 0; half < 2; half++) {
        weights[2 * half].x = (Ints::Whole)_mm512_unpacklo_epi16(ab[half], cd[half]);
        weights[2 * half + 1].x = (Ints::Whole)_mm512_unpackhi_epi16(ab[half], cd[half]);
    }
#else
    const auto load = [&](int k) { return _mm256_loadu_si256((const __m256i*)(row[k] + at)); };
    const __m256i a = load(0), b = load(1), c = load(2), d = load(3);
    const __m256i ab[2] = {_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)};
    const __m256i cd[2] = {_mm256_unpacklo_epi8(c, d), _mm256_unpackhi_epi8(c, d)};
    for (int half = 0; half < 2; half++) {
        weights[2 * half].x = (Ints::Whole)_mm256_unpacklo_epi16(ab[half], cd[half]);
        weights[2 * half + 1].x = (Ints::Whole)_mm256_unpackhi_epi16(ab[half], cd[half]);
    }
#endif
}

// The sum of each channel, and the products of its four weights and four codes. `codes`: all four, repeated in each 32 bits.
template <bool by_dot_products>
static inline Ints add_products(Ints sum, Ints weights, Ints codes) {
#if defined(__AVX512F__)
    if (by_dot_products) asm("vpdpbusd %2, %1, %0" : "+v"(sum.x) : "v"(weights.x), "v"(codes.x));
    else
        sum.x +=
            (Ints::Whole)_mm512_madd_epi16(_mm512_maddubs_epi16((__m512i)weights.x, (__m512i)codes.x), _mm512_set1_epi16(1));
#else
    sum.x += (Ints::Whole)_mm256_madd_epi16(_mm256_maddubs_epi16((__m256i)weights.x, (__m256i)codes.x), _mm256_set1_epi16(1));
#endif
    return sum;
}

static inline int32_t sum_of_lanes(Ints a) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_epi32((__m512i)a.x);
#else
    const __m256i whole = (__m256i)a.x;
    const __m128i half = _mm_add_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    const __m128i quarter = _mm_add_epi32(half, _mm_unpackhi_epi64(half, half));
    return _mm_cvtsi128_si32(quarter) + _mm_extract_epi32(quarter, 1);
#endif
}
#endif

// Adds four rows, times their codes, to the sums of a chunk of channels.
template <bool by_dot_products>
static inline void add_four(const uint8_t* const (&row)[4], int64_t at, Ints codes, Ints* sum) {
#if defined(__AVX2__)
    Ints weights[4];
    interleave_four(row, at, weights);
    each<4>([&](auto k) { sum[k] = add_products<by_dot_products>(sum[k], weights[k], codes); });
#else
    typedef uint8_t Weights __attribute__((vector_size(8)));
    typedef int16_t Products __attribute__((vector_size(16)));
    static_assert(sizeof(Products) == sizeof(Ints));
    const int32_t four = codes.x[0];
    for (int half = 0; half < 2; half++) {
        Products product[4];
        for (int k = 0; k < 4; k++) {
            Weights weights;
            memcpy(&weights, row[k] + at + 8 * half, sizeof weights);
            const int16_t code = (int8_t)(four >> 8 * k);  // an expression would be an int where it is sanitized
            product[k] = __builtin_convertvector(weights, Products) * code;
        }
        const Ints pairs[2] = {{(Ints::Whole)(product[0] + product[1])}, {(Ints::Whole)(product[2] + product[3])}};
        sum[2 * half] = sum[2 * half] + (widen_first(pairs[0]) + widen_first(pairs[1]));
        sum[2 * half + 1] = sum[2 * half + 1] + (widen_second(pairs[0]) + widen_second(pairs[1]));
    }
#endif
}

}  // namespace PK_TARGET
