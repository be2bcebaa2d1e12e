// The codes that sigma-delta neurons send (reference.py defines them): 0 for nothing, +-(k + 1) for +-2^-k. Float values, such
// as images, are read by functions of the same names.
#pragma once
#include "../simd.h"
#include "../work.h"

namespace PK_TARGET {

typedef uint32_t VecBits __attribute__((vector_size(4 * Vec::width)));  // the bits of a Vec
typedef int8_t VecCodes __attribute__((vector_size(Vec::width)));

template <class To, class From>
static inline To same_bits(const From& from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

constexpr uint32_t sign_bit = 1u << 31, exponent_bits = 0xffu << 23, half_a_power = 1u << 22, bits_of_1 = 127u << 23;

// The value of each code, indexed by its lowest five bits.
alignas(64) constexpr float code_values[32] = {
    0,          1,          1.0f / 2,     1.0f / 4,     1.0f / 8,    1.0f / 16,   1.0f / 32,   1.0f / 64,  1.0f / 128,
    1.0f / 256, 1.0f / 512, 1.0f / 1024,  1.0f / 2048,  0,           0,           0,           0,          0,
    0,          0,          -1.0f / 2048, -1.0f / 1024, -1.0f / 512, -1.0f / 256, -1.0f / 128, -1.0f / 64, -1.0f / 32,
    -1.0f / 16, -1.0f / 8,  -1.0f / 4,    -1.0f / 2,    -1};
static inline float value_of(int8_t code) { return code_values[code & 31]; }
static inline float value_of(float value) { return value; }

// The values of as many codes as a Vec has lanes.
static inline Vec values_of(const int8_t* codes) {
#if defined(__AVX512F__)
    const __m512i places = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)codes));
    return {_mm512_permutex2var_ps(_mm512_load_ps(code_values), places, _mm512_load_ps(code_values + 16))};
#else
    VecCodes narrow;
    memcpy(&narrow, codes, sizeof narrow);
    const Ints::Whole code = __builtin_convertvector(narrow, Ints::Whole);
    const VecBits negative = (VecBits)(code < 0), size = ((VecBits)code ^ negative) - negative;
    return same_bits<Vec>((((128u - size) << 23) | (negative & sign_bit)) & (VecBits)(code != 0));
#endif
}

// A bit mask of the non-zero values among n, which is at most 64.
static inline uint64_t not_zero(const int8_t* codes, int64_t n) {
#if defined(__AVX512BW__)
    const __mmask64 first = n >= 64 ? ~0ull : (1ull << n) - 1;
    const __m512i x = _mm512_maskz_loadu_epi8(first, codes);
    return _mm512_test_epi8_mask(x, x);
#else
    uint64_t found = 0;
    for (int64_t i = 0; i < n; i += 8) {
        uint64_t word = 0;
        if (n - i >= 8) memcpy(&word, codes + i, 8);
        else
            for (int64_t k = 0; k < n - i; k++) word |= (uint64_t)(uint8_t)codes[i + k] << (8 * k);
        // Sets the highest bit of each byte that is not zero, then gathers these eight bits.
        constexpr uint64_t high = 0x8080808080808080u;
        const uint64_t set = ((((word & ~high) + ~high) | word) & high) >> 7;
        found |= (set * 0x0102040810204080u >> 56) << i;
    }
    return found;
#endif
}
static inline uint64_t not_zero(const float* values, int64_t n) {
    uint64_t found = 0;
    const Vec zero = broadcast(0.0f);
    for (int64_t i = 0; i < n; i += Vec::width) {
        const Vec x = load_first(values + i, (int)least(n - i, Vec::width));
#if defined(__AVX512F__)
        found |= (uint64_t)_mm512_cmp_ps_mask(x.x, zero.x, _CMP_NEQ_UQ) << i;
#else
        const uint32_t all = (uint32_t)((1ull << Vec::width) - 1);
        found |= (uint64_t)(~(bits(x >= zero) & bits(zero >= x)) & all) << i;  // NaN counts as non-zero
#endif
    }
    return found;
}

static inline Vec load_values(const int8_t* codes, int64_t n) {
    if (n >= Vec::width) return values_of(codes);
    int8_t first[Vec::width] = {};
    memcpy(first, codes, n);
    return values_of(first);
}
static inline Vec load_values(const float* values, int64_t n) { return load_first(values, (int)least(n, Vec::width)); }

}  // namespace PK_TARGET
