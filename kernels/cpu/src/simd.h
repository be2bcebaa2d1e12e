// A vector of floats and its comparison mask, for each instruction set. All other code uses these few functions, so a new
// instruction set needs one more section here and one more line in setup.py.
//
// Each translation unit defines PK_TARGET (avx512, avx2 or portable); all names live in a namespace of that name, so that
// code compiled for a newer machine can never be linked into the path of an older one.
//
// multiply_add rounds once wherever the processor can, so that all targets except portable compute the same sums. Where the
// definition rounds a product and a sum separately, as in neurons, the code does so too.
#pragma once
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace PK_TARGET {

#if defined(__AVX512F__)

struct Vec {
    static constexpr int width = 16;
    using Mask = __mmask16;
    __m512 x;
};
static inline __mmask16 first_lanes(int n) { return n >= 16 ? 0xffff : (__mmask16)((1u << n) - 1); }
static inline Vec broadcast(float a) { return {_mm512_set1_ps(a)}; }
static inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
static inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.x); }
static inline Vec load_first(const float* p, int n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
static inline void store_first(float* p, Vec a, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), a.x); }
static inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.x, b.x)}; }
static inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.x, b.x)}; }
static inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.x, b.x)}; }
static inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.x, b.x)}; }
static inline Vec multiply_add(Vec a, Vec b, Vec sum) { return {_mm512_fmadd_ps(a.x, b.x, sum.x)}; }
static inline Vec lesser(Vec a, Vec b) { return {_mm512_min_ps(a.x, b.x)}; }
static inline Vec toward_zero(Vec a) { return {_mm512_roundscale_ps(a.x, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC)}; }
static inline Vec greater(Vec a, Vec b) { return {_mm512_max_ps(a.x, b.x)}; }
static inline Vec::Mask operator>=(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.x, b.x, _CMP_GE_OQ); }
static inline Vec select(Vec::Mask m, Vec yes, Vec no) { return {_mm512_mask_blend_ps(m, no.x, yes.x)}; }
static inline Vec add_where(Vec::Mask m, Vec a, Vec b) { return {_mm512_mask_add_ps(a.x, m, a.x, b.x)}; }
static inline uint32_t bits(Vec::Mask m) { return m; }
static inline Vec::Mask mask_of(uint32_t bits) { return (__mmask16)bits; }

#elif defined(__AVX2__)

struct Vec {
    static constexpr int width = 8;
    using Mask = __m256;
    __m256 x;
};
static inline __m256i first_lanes(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline Vec broadcast(float a) { return {_mm256_set1_ps(a)}; }
static inline Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
static inline void store(float* p, Vec a) { _mm256_storeu_ps(p, a.x); }
static inline Vec load_first(const float* p, int n) { return {_mm256_maskload_ps(p, first_lanes(n))}; }
static inline void store_first(float* p, Vec a, int n) { _mm256_maskstore_ps(p, first_lanes(n), a.x); }
static inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.x, b.x)}; }
static inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.x, b.x)}; }
static inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.x, b.x)}; }
static inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.x, b.x)}; }
static inline Vec multiply_add(Vec a, Vec b, Vec sum) { return {_mm256_fmadd_ps(a.x, b.x, sum.x)}; }
static inline Vec lesser(Vec a, Vec b) { return {_mm256_min_ps(a.x, b.x)}; }
static inline Vec toward_zero(Vec a) { return {_mm256_round_ps(a.x, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC)}; }
static inline Vec greater(Vec a, Vec b) { return {_mm256_max_ps(a.x, b.x)}; }
static inline Vec::Mask operator>=(Vec a, Vec b) { return _mm256_cmp_ps(a.x, b.x, _CMP_GE_OQ); }
static inline Vec select(Vec::Mask m, Vec yes, Vec no) { return {_mm256_blendv_ps(no.x, yes.x, m)}; }
static inline Vec add_where(Vec::Mask m, Vec a, Vec b) { return {_mm256_add_ps(a.x, _mm256_and_ps(m, b.x))}; }
static inline uint32_t bits(Vec::Mask m) { return (uint32_t)_mm256_movemask_ps(m); }
static inline Vec::Mask mask_of(uint32_t bits) {
    const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)bits), lane), lane));
}

#elif defined(__aarch64__)

struct Vec {
    static constexpr int width = 4;
    using Mask = uint32x4_t;
    float32x4_t x;
};
static inline Vec broadcast(float a) { return {vdupq_n_f32(a)}; }
static inline Vec load(const float* p) { return {vld1q_f32(p)}; }
static inline void store(float* p, Vec a) { vst1q_f32(p, a.x); }
static inline Vec operator+(Vec a, Vec b) { return {vaddq_f32(a.x, b.x)}; }
static inline Vec operator-(Vec a, Vec b) { return {vsubq_f32(a.x, b.x)}; }
static inline Vec operator*(Vec a, Vec b) { return {vmulq_f32(a.x, b.x)}; }
static inline Vec operator/(Vec a, Vec b) { return {vdivq_f32(a.x, b.x)}; }
static inline Vec multiply_add(Vec a, Vec b, Vec sum) { return {vfmaq_f32(sum.x, a.x, b.x)}; }
static inline Vec lesser(Vec a, Vec b) { return {vminq_f32(a.x, b.x)}; }
static inline Vec toward_zero(Vec a) { return {vrndq_f32(a.x)}; }
static inline Vec greater(Vec a, Vec b) { return {vmaxq_f32(a.x, b.x)}; }
static inline Vec::Mask operator>=(Vec a, Vec b) { return vcgeq_f32(a.x, b.x); }
static inline Vec select(Vec::Mask m, Vec yes, Vec no) { return {vbslq_f32(m, yes.x, no.x)}; }
static inline Vec add_where(Vec::Mask m, Vec a, Vec b) {
    return {vaddq_f32(a.x, vreinterpretq_f32_u32(vandq_u32(m, vreinterpretq_u32_f32(b.x))))};
}
static inline uint32x4_t lane_bits() { return uint32x4_t{1, 2, 4, 8}; }
static inline uint32_t bits(Vec::Mask m) { return vaddvq_u32(vandq_u32(m, lane_bits())); }
static inline Vec::Mask mask_of(uint32_t bits) { return vtstq_u32(vdupq_n_u32(bits), lane_bits()); }

#else  // the compiler's own four-lane vectors: SSE2 on any x86-64, scalar code elsewhere

typedef float float4 __attribute__((vector_size(16)));
typedef int32_t int4 __attribute__((vector_size(16)));

struct Vec {
    static constexpr int width = 4;
    using Mask = int4;
    float4 x;
};
static inline Vec broadcast(float a) { return {float4{a, a, a, a}}; }
static inline Vec load(const float* p) {
    Vec a;
    memcpy(&a, p, sizeof a);
    return a;
}
static inline void store(float* p, Vec a) { memcpy(p, &a, sizeof a); }
static inline Vec operator+(Vec a, Vec b) { return {a.x + b.x}; }
static inline Vec operator-(Vec a, Vec b) { return {a.x - b.x}; }
static inline Vec operator*(Vec a, Vec b) { return {a.x * b.x}; }
static inline Vec operator/(Vec a, Vec b) { return {a.x / b.x}; }
static inline Vec multiply_add(Vec a, Vec b, Vec sum) { return sum + a * b; }
static inline Vec::Mask operator>=(Vec a, Vec b) { return a.x >= b.x; }
static inline Vec select(Vec::Mask m, Vec yes, Vec no) { return {(float4)((m & (int4)yes.x) | (~m & (int4)no.x))}; }
static inline Vec add_where(Vec::Mask m, Vec a, Vec b) { return {a.x + (float4)(m & (int4)b.x)}; }
static inline Vec lesser(Vec a, Vec b) { return select(a >= b, b, a); }
static inline Vec toward_zero(Vec a) {
    for (int i = 0; i < Vec::width; i++) a.x[i] = __builtin_truncf(a.x[i]);
    return a;
}
static inline Vec greater(Vec a, Vec b) { return select(a >= b, a, b); }
static inline uint32_t bits(Vec::Mask m) {
#if defined(__SSE2__)
    return (uint32_t)_mm_movemask_ps((__m128)m);
#else
    return (m[0] & 1) | (m[1] & 2) | (m[2] & 4) | (m[3] & 8);
#endif
}
static inline Vec::Mask mask_of(uint32_t bits) {
    const int4 lane = {1, 2, 4, 8}, all = {(int32_t)bits, (int32_t)bits, (int32_t)bits, (int32_t)bits};
    return (all & lane) == lane;
}

#endif

#if !defined(__AVX2__)  // without masked loads and stores
__attribute__((noinline)) static Vec load_some(const float* p, int n) {
    Vec a = broadcast(0.0f);
    for (int i = 0; i < n; i++) a.x[i] = p[i];
    return a;
}
__attribute__((noinline)) static void store_some(float* p, Vec a, int n) {
    for (int i = 0; i < n; i++) p[i] = a.x[i];
}
static inline Vec load_first(const float* p, int n) { return n >= Vec::width ? load(p) : load_some(p, n); }
static inline void store_first(float* p, Vec a, int n) {
    if (n >= Vec::width) store(p, a);
    else store_some(p, a, n);
}
#endif

// 32-bit integers, as many as floats in a Vec, which can also be taken as two 16-bit halves or four bytes each.
struct Ints {
    typedef int32_t Whole __attribute__((vector_size(4 * Vec::width)));
    typedef uint16_t Halves __attribute__((vector_size(4 * Vec::width)));
    typedef int16_t HalfAsMany __attribute__((vector_size(2 * Vec::width)));
    typedef uint8_t Bytes __attribute__((vector_size(4 * Vec::width)));
    typedef float Floats __attribute__((vector_size(4 * Vec::width)));
    Whole x;
};
static inline Ints load(const int32_t* p) {
    Ints a;
    memcpy(&a, p, sizeof a);
    return a;
}
static inline void store(int32_t* p, Ints a) { memcpy(p, &a, sizeof a); }
static inline Ints operator+(Ints a, Ints b) { return {a.x + b.x}; }
static inline Ints operator-(Ints a, Ints b) { return {a.x - b.x}; }
// Modulo 2^16.
static inline Ints add_halves(Ints a, Ints b) { return {(Ints::Whole)((Ints::Halves)a.x + (Ints::Halves)b.x)}; }
static inline Ints subtract_halves(Ints a, Ints b) { return {(Ints::Whole)((Ints::Halves)a.x - (Ints::Halves)b.x)}; }
static inline Ints broadcast_half(uint16_t a) { return {(Ints::Whole)(Ints::Halves{} + a)}; }
static inline Ints add_bytes(Ints a, Ints b) { return {(Ints::Whole)((Ints::Bytes)a.x + (Ints::Bytes)b.x)}; }
static inline Ints high_bytes(Ints a) { return {(Ints::Whole)((Ints::Halves)a.x >> 8)}; }  // of each half
static inline Ints low_bytes(Ints halves, Ints high) {  // sums of halves, less the sums of their high bytes
    return {(Ints::Whole)((Ints::Halves)halves.x - ((Ints::Halves)high.x << 8))};
}
// The first or second half of all signed 16-bit numbers, widened to 32 bits.
static inline Ints widen_first(Ints a) {
#if defined(__AVX512F__)  // compilers would go through memory
    return {(Ints::Whole)_mm512_cvtepi16_epi32(_mm512_castsi512_si256((__m512i)a.x))};
#else
    Ints::HalfAsMany halves;
    memcpy(&halves, &a.x, sizeof halves);
    return {__builtin_convertvector(halves, Ints::Whole)};
#endif
}
static inline Ints widen_second(Ints a) {
#if defined(__AVX512F__)
    return {(Ints::Whole)_mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64((__m512i)a.x, 1))};
#else
    Ints::HalfAsMany halves;
    memcpy(&halves, (const char*)&a.x + sizeof halves, sizeof halves);
    return {__builtin_convertvector(halves, Ints::Whole)};
#endif
}
static inline Ints high_half(Ints a) { return {a.x >> 16}; }
static inline Ints low_half(Ints a) {  // on x86 by madd, which does not compete with the shift of high_half for a port
#if defined(__AVX512BW__)
    return {(Ints::Whole)_mm512_madd_epi16((__m512i)a.x, _mm512_set1_epi32(1))};
#elif defined(__AVX2__)
    return {(Ints::Whole)_mm256_madd_epi16((__m256i)a.x, _mm256_set1_epi32(1))};
#else
    return {(Ints::Whole)((Ints::Whole)(a.x << 16) >> 16)};
#endif
}
static inline Ints broadcast_whole(int32_t a) { return {Ints::Whole{} + a}; }
static inline Ints or_where(Vec::Mask m, Ints a, Ints b) {
#if defined(__AVX512F__)
    return {(Ints::Whole)_mm512_mask_or_epi32((__m512i)a.x, m, (__m512i)a.x, (__m512i)b.x)};
#else
    return {a.x | ((Ints::Whole)m & b.x)};
#endif
}
static inline Vec to_floats(Ints a) { return {(decltype(Vec::x))__builtin_convertvector(a.x, Ints::Floats)}; }

// Prefetches a cache line into the second-level cache, to which more lines can be on their way than to the first.
static inline void prefetch(const void* line) { __builtin_prefetch(line, 0, 2); }

// Registers of some channels: 32 of them, whose spikes are four bytes (Block), or the 16 of a row of weights (Row).
template <int channels>
struct Lanes {
    static constexpr int vecs = channels / Vec::width;
    Vec v[vecs];
};
constexpr int block = 32, row = 16;
using Block = Lanes<block>;
using Row = Lanes<row>;
constexpr int vecs = Block::vecs;

// Without a loop, which GCC replaces by `rep stos` where `a` is 0: some 40 cycles.
template <int channels, int... i>
static inline Lanes<channels> broadcast_each(float a, std::integer_sequence<int, i...>) {
    return {{((void)i, broadcast(a))...}};
}
template <int channels = block>
static inline Lanes<channels> broadcast_block(float a) {
    return broadcast_each<channels>(a, std::make_integer_sequence<int, Lanes<channels>::vecs>{});
}
template <int channels = block>
static inline Lanes<channels> load_block(const float* p) {
    Lanes<channels> b;
    for (int i = 0; i < b.vecs; i++) b.v[i] = load(p + i * Vec::width);
    return b;
}
#if defined(__AVX2__)
#define PART static inline  // by masks
#else  // lane by lane, and not inlined: there are many calls, but incomplete blocks are rare
#define PART __attribute__((noinline)) static
#endif

// The first n floats, fewer than there are lanes.
template <int channels>
PART Lanes<channels> load_part(const float* p, int n) {
    Lanes<channels> b;
    for (int i = 0; i < b.vecs; i++) {
        int left = n - i * Vec::width;
        b.v[i] = left > 0 ? load_first(p + i * Vec::width, left) : broadcast(0.0f);
    }
    return b;
}
template <int channels>
PART void store_part(float* p, const Lanes<channels>& b, int n) {
    for (int i = 0; i < b.vecs; i++) {
        int left = n - i * Vec::width;
        if (left >= Vec::width) store(p + i * Vec::width, b.v[i]);
        else if (left > 0) store_first(p + i * Vec::width, b.v[i], left);
    }
}
#undef PART

// The first n floats; the other lanes are zero and their memory is not touched.
template <int channels = block>
static inline Lanes<channels> load_block(const float* p, int n) {
    return n >= channels ? load_block<channels>(p) : load_part<channels>(p, n);
}
template <int channels>
static inline void store_block(float* p, const Lanes<channels>& b) {
    for (int i = 0; i < b.vecs; i++) store(p + i * Vec::width, b.v[i]);
}
template <int channels>
static inline void store_block(float* p, const Lanes<channels>& b, int n) {
    if (n >= channels) store_block(p, b);
    else store_part(p, b, n);
}
template <int channels>
static inline void add(Lanes<channels>& a, const Lanes<channels>& b) {
    for (int i = 0; i < a.vecs; i++) a.v[i] = a.v[i] + b.v[i];
}
template <int channels>
static inline void subtract(Lanes<channels>& a, const Lanes<channels>& b) {
    for (int i = 0; i < a.vecs; i++) a.v[i] = a.v[i] - b.v[i];
}

}  // namespace PK_TARGET
