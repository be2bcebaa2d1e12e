// Sigma-delta neurons (the definition: reference.py). A code is what a neuron sends at a step: 0 for nothing, +-(k + 1) for
// +-2^-k. A power of two is the exponent of a float, so that the nearest one takes a sum of integers, and no logarithm.
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

// The values that codes stand for, by their lowest five bits.
alignas(64) constexpr float code_values[32] = {
    0,          1,          1.0f / 2,     1.0f / 4,     1.0f / 8,    1.0f / 16,   1.0f / 32,   1.0f / 64,  1.0f / 128,
    1.0f / 256, 1.0f / 512, 1.0f / 1024,  1.0f / 2048,  0,           0,           0,           0,          0,
    0,          0,          -1.0f / 2048, -1.0f / 1024, -1.0f / 512, -1.0f / 256, -1.0f / 128, -1.0f / 64, -1.0f / 32,
    -1.0f / 16, -1.0f / 8,  -1.0f / 4,    -1.0f / 2,    -1};
static inline float value_of(int8_t code) { return code_values[code & 31]; }
static inline float value_of(float value) { return value; }

// Those of as many codes as a Vec has lanes.
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

// What neurons send of what they have not sent yet: the nearest signed power of two, from 1 down to `least`, the bits of a
// float; three quarters of a power are rounded up to it.
struct Sent {
    Vec value;
#if defined(__AVX512F__)
    __m512i code;
    __mmask16 fires;
    explicit Sent(Vec left, uint32_t least) {
        const __m512i bits = _mm512_castps_si512(left.x), sign = _mm512_set1_epi32((int)sign_bit);
        const __m512i size = _mm512_add_epi32(_mm512_andnot_si512(sign, bits), _mm512_set1_epi32((int)half_a_power));
        const __m512i one = _mm512_set1_epi32((int)bits_of_1);
        const __m512i power = _mm512_min_epu32(_mm512_and_si512(size, _mm512_set1_epi32((int)exponent_bits)), one);
        fires = _mm512_cmpge_epu32_mask(power, _mm512_set1_epi32((int)least));
        value.x = _mm512_castsi512_ps(_mm512_mask_or_epi32(_mm512_setzero_si512(), fires, power, _mm512_and_si512(bits, sign)));
        code = _mm512_sub_epi32(_mm512_set1_epi32(128), _mm512_srli_epi32(power, 23));
        code = _mm512_mask_sub_epi32(code, _mm512_movepi32_mask(bits), _mm512_setzero_si512(), code);
    }
    void store_codes(int8_t* codes) const { _mm_storeu_si128((__m128i*)codes, _mm512_maskz_cvtepi32_epi8(fires, code)); }
    int count() const { return __builtin_popcount(fires); }
#else
    Ints::Whole code;
    explicit Sent(Vec left, uint32_t least) {
        const VecBits bits = same_bits<VecBits>(left), rounded = ((bits & ~sign_bit) + half_a_power) & exponent_bits;
        const VecBits large = (VecBits)(rounded > bits_of_1), power = (large & bits_of_1) | (rounded & ~large);
        const VecBits fires = (VecBits)(power >= least), negative = (VecBits)((Ints::Whole)bits < 0);
        const VecBits size = ((bits_of_1 - power) >> 23) + 1;
        value = same_bits<Vec>((power | (bits & sign_bit)) & fires);
        code = (Ints::Whole)(((size ^ negative) - negative) & fires);
    }
    void store_codes(int8_t* codes) const {
        const VecCodes narrow = __builtin_convertvector(code, VecCodes);
        memcpy(codes, &narrow, sizeof narrow);
    }
    int count() const { return __builtin_popcount(bits(same_bits<Vec::Mask>(code != 0))); }
#endif
};

// What arrives at some channels besides what the synapses bring, at step t, and the place of its neurons then.
template <int channels>
static inline Lanes<channels> besides(const SigmaDelta& s, int64_t t, int64_t place, int64_t channel, int n) {
    Lanes<channels> sum = t || !s.bias ? broadcast_block<channels>(0.0f) : load_block<channels>(s.bias + channel, n);
    if (s.added) add(sum, load_block<channels>(s.added + place * s.C + channel, n));
    return sum;
}

// Channels from one on, to the end of its group.
static inline int64_t channels_left(const SigmaDelta& s, int64_t channel) {
    return s.groups == 1 ? s.C - channel : s.C / s.groups - channel % (s.C / s.groups);
}

// Spikes of all steps, and of the last one.
struct Fired {
    int64_t all = 0, last = 0;
};

// The neurons of some channels, and a, what they have sent.
template <int channels>
struct Senders {
    Lanes<channels> limit, a;
    Vec lowest;
    uint32_t smallest;
    int n;  // channels that there are
    // `before`: where a is; null: 0.
    Senders(const SigmaDelta& s, int64_t channel, const float* before)
        : lowest(broadcast(s.lowest)),
          smallest((128u - (uint32_t)s.exponents) << 23),
          n((int)least(channels_left(s, channel), channels)) {
        limit = load_block<channels>(s.limit + channel, n);
        a = before ? load_block<channels>(before, n) : broadcast_block<channels>(0.0f);
    }
    // What they send of what z, or its maximum, has come to: codes; returns the number of spikes.
    __attribute__((always_inline)) int64_t send(const Lanes<channels>& z, int8_t* codes) {
        int64_t spikes = 0;
        int8_t last[channels];
        int8_t* const to = n == channels ? codes : last;
        each<channels / Vec::width>([&](auto i) __attribute__((always_inline)) {
            const Sent sent(greater(lesser(z.v[i], limit.v[i]), lowest) - a.v[i], smallest);
            a.v[i] = a.v[i] + sent.value;
            spikes += sent.count();
            sent.store_codes(to + i * Vec::width);
        });
        if (n < channels) memcpy(codes, last, n);
        return spikes;
    }
};

constexpr int steps_together = Vec::width == 16 ? 4 : Vec::width == 8 ? 2 : 1;  // whose sums have registers

// All steps of some channels of an output pixel, with z, what has arrived, and a, what was sent. arrive(t, steps, sums) adds
// what the synapses bring at some steps, an integral constant, at a time.
template <int channels, class Arrive>
static inline Fired fire_sigma_delta(const SigmaDelta& s, int64_t image, int64_t pixel, int64_t channel, Arrive arrive) {
    const int n = (int)least(channels_left(s, channel), channels);
    const int64_t place = (image * s.P + pixel) * s.C + channel;
    Senders<channels> neurons(s, channel, s.z ? s.a + place : nullptr);
    Lanes<channels> z = s.z ? load_block<channels>(s.z + place, n) : broadcast_block<channels>(0.0f);
    Fired fired;
    int64_t at = (image * s.T * s.P + pixel) * s.C + channel;
    const auto part = [&](int64_t t, auto steps) __attribute__((always_inline)) {
        Lanes<channels> sums[steps];
        for (int k = 0; k < steps; k++) sums[k] = besides<channels>(s, t + k, (image * s.T + t + k) * s.P + pixel, channel, n);
        if (t + steps <= s.T_in) arrive(t, steps, sums);
        else
            for (int k = 0; t + k < s.T_in; k++) arrive(t + k, std::integral_constant<int, 1>(), sums + k);
        for (int k = 0; k < steps; k++, at += s.P * s.C) {
            if (s.arrived) {
                store_block(s.arrived + at, sums[k], n);
                continue;
            }
            add(z, sums[k]);
            fired.all += fired.last = neurons.send(z, s.codes + at);
        }
    };
    int64_t t = 0;
    for (; t + steps_together <= s.T; t += steps_together) part(t, std::integral_constant<int, steps_together>());
    each<steps_together - 1>([&](auto fewer) {  // what is left of them at once
        constexpr int steps = steps_together - 1 - fewer;
        if (s.T - t == steps) part(t, std::integral_constant<int, steps>()), t += steps;
    });
    if (s.z) store_block(s.z + place, z, n), store_block(s.a + place, neurons.a, n);
    return fired;
}

}  // namespace PK_TARGET
