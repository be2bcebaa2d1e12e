// Sigma-delta neurons. A power of two is a float whose mantissa is 0, so the nearest one is found by adding to the float's bits
// as an integer, without a logarithm.
#pragma once
#include "call.h"
#include "codes.h"

namespace PK_TARGET {

// What neurons send of the value `left`, which they have not sent yet: the nearest signed power of two from 1 down to `least`
// (given as the bits of a float). Three quarters of a power and more are rounded up to it.
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

// Adds s.added to the sums of some channels of an output pixel. `place`: its index at its step.
template <int channels>
static inline void add_added(const SigmaDelta& s, int64_t place, int64_t channel, int n, Lanes<channels>& sums) {
    if (!s.added) return;
    const Lanes<channels> added = load_block<channels>(s.added + place * s.C + channel, n);
    each<channels / Vec::width>([&](auto v) { sums.v[v] = sums.v[v] + added.v[v] * broadcast(s.added_scale); });
}

// The input of some channels at step t apart from the synapses: bias (at step 0) and s.added. `place`: the index of the output
// pixel at step t.
template <int channels>
static inline Lanes<channels> besides(const SigmaDelta& s, int64_t t, int64_t place, int64_t channel, int n) {
    Lanes<channels> sum = t || !s.bias ? broadcast_block<channels>(0.0f) : load_block<channels>(s.bias + channel, n);
    add_added(s, place, channel, n, sum);
    return sum;
}

// A number that is added and taken away to round smaller numbers to multiples of a unit; 0, which rounds nothing, for infinity.
static inline float rounding_to(float unit) { return unit < INFINITY ? 0x1.8p23f * unit : 0.0f; }

// The neurons of some channels, with a, the sum of what they have sent.
template <int channels>
struct Senders {
    Lanes<channels> limit, a;
    Vec lowest, threshold, rounds;
    uint32_t smallest;
    int n;  // number of channels that exist
    // `before`: a before the steps; null: 0.
    Senders(const SigmaDelta& s, int64_t channel, const float* before)
        : lowest(broadcast(s.lowest)),
          threshold(broadcast(s.threshold)),
          rounds(broadcast(rounding_to(s.unit))),
          smallest((128u - (uint32_t)s.exponents) << 23),
          n((int)least(channels_left(s, channel), channels)) {
        limit = load_block<channels>(s.limit + channel, n);
        a = before ? load_block<channels>(before, n) : broadcast_block<channels>(0.0f);
    }
    // Sends codes for the activation of z (or of a pool's maximum); returns the number of spikes.
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
    // Graded neurons: sends the change of the activation, where it is at least the threshold; returns the number of changes.
    __attribute__((always_inline)) int64_t send_values(const Lanes<channels>& z, float* values) {
        int64_t spikes = 0;
        Lanes<channels> sent;
        each<channels / Vec::width>([&](auto i) __attribute__((always_inline)) {
            const Vec activation = greater(lesser(z.v[i], limit.v[i]), lowest) + rounds - rounds, change = activation - a.v[i];
            const Vec zero = broadcast(0.0f), size = greater(change, zero - change);
            const Vec::Mask sends = size >= threshold;
            sent.v[i] = select(sends, change, zero);
            a.v[i] = select(sends, activation, a.v[i]);
            spikes += __builtin_popcount(bits(sends) & ~bits(zero >= size));
        });
        store_block(values, sent, n);
        return spikes;
    }
};

constexpr int steps_together = Vec::width == 16 ? 4 : Vec::width == 8 ? 2 : 1;  // as many steps as have sums in registers

// Wraps add(t, steps, sums), which adds the input from the synapses at some steps to the sums of some channels; `steps` is an
// integral constant. Its type is erased, so that the code of the neurons is compiled once for all synapses.
class Arrive {
public:
    const int channels;  // of the pass
    template <int channels, class Add>
    static Arrive of(const Add& add) {
        return {channels, &add, [](const void* add, int64_t t, int steps, void* sums) {
                    each<steps_together>([&](auto before) {
                        if (steps == before + 1)
                            (*(const Add*)add)(t, std::integral_constant<int, before + 1>(), (Lanes<channels>*)sums);
                    });
                }};
    }
    template <int channels>
    void operator()(int64_t t, int steps, Lanes<channels>* sums) const {
        call(add, t, steps, sums);
    }

private:
    using Call = void (*)(const void*, int64_t, int, void*);
    Arrive(int channels, const void* add, Call call) : channels(channels), add(add), call(call) {}
    const void* const add;
    const Call call;
};

// Runs all steps of an output pixel, for the channels of a pass that begins at `channel`, and updates their z and a.
Fired fire_sigma_delta(const SigmaDelta& s, int64_t image, int64_t pixel, int64_t channel, const Arrive& arrive);

// The same for the only step of a run, where `sums` is all that arrives at the output pixel `place`, image * P + pixel.
template <int channels>
static inline Fired fire_once(const SigmaDelta& s, Senders<channels>& neurons, int64_t place, int64_t channel,
                              const Lanes<channels>& sums) {
    const int64_t at = place * s.C + channel;
    const int n = neurons.n;
    if (passes_on(s)) return store_block(s.arrived + at, sums, n), Fired();
    Lanes<channels> z = s.z ? load_block<channels>(s.z + at, n) : broadcast_block<channels>(0.0f);
    add(z, sums);
    neurons.a = s.z ? load_block<channels>(s.a + at, n) : broadcast_block<channels>(0.0f);
    const int64_t fired = s.arrived ? neurons.send_values(z, s.arrived + at) : neurons.send(z, s.codes + at);
    if (s.z) store_block(s.z + at, z, n), store_block(s.a + at, neurons.a, n);
    return {fired, fired};
}

// Runs all steps of an output pixel. `add`: as Arrive takes it.
template <int channels, class Add>
static inline Fired fire(const SigmaDelta& s, int64_t image, int64_t pixel, int64_t channel, const Add& add) {
    if (s.T != 1 || s.T_in != 1) return fire_sigma_delta(s, image, pixel, channel, Arrive::of<channels>(add));
    Senders<channels> neurons(s, channel, nullptr);
    const int64_t place = image * s.P + pixel;
    Lanes<channels> sums = besides<channels>(s, 0, place, channel, neurons.n);
    add(0, std::integral_constant<int, 1>(), &sums);
    return fire_once(s, neurons, place, channel, sums);
}

// Runs the neurons of a call's output pixels first .. last - 1, at which sums(i, place, t) arrives, the bias included.
template <int channels, class Sums>
static inline void fire_places(const SigmaDeltaCall& call, int64_t first, int64_t last, int64_t channel, Counted& counted,
                               Sums sums) {
    const SigmaDelta& s = call.s;
    Senders<channels> neurons(s, channel, nullptr);
    for (int64_t i = first; i < last; i++) {
        const int64_t place = call.place(i);
        const auto give = [&](int64_t t, auto steps, auto* to) { each<steps>([&](auto k) { to[k] = sums(i, place, t + k); }); };
        const Fired fired = s.T == 1 && s.T_in == 1
                                ? fire_once(s, neurons, place, channel, sums(i, place, 0))
                                : fire_sigma_delta(s, place / s.P, place % s.P, channel, Arrive::of<channels>(give));
        call.note(place, fired);
        counted.spikes += fired.all;
    }
}

// Walks over the output pixels of a task, with the channels of its pass in registers.
// Calls work(channels) with the number of channels of the pass that begins at `channel`, rounded up to whole vectors, as an
// integral constant. `most`: of any pass.
template <int most = row_pass, class Work>
static inline void with_channels(const SigmaDelta& s, int64_t channel, Work work) {
    const int64_t vecs = ceil_div(least(channels_left(s, channel), most), Vec::width);
    each<most / Vec::width>([&](auto before) {
        if (vecs == before + 1) work(std::integral_constant<int, (before + 1) * Vec::width>());
    });
}

// Calls fire(channels, image, pixel, channel, taps) for each output pixel of a task, with the number of channels of its pass as
// an integral constant; it returns the number of weights added, and the spikes. tap_weights(channel): weights from one tap to
// the next.
template <int most = row_pass, class TapWeights, class Fire>
static void each_place(const SigmaDeltaCall& call, int64_t task, SigmaDeltaTaps& taps, Counted& counted, TapWeights tap_weights,
                       Fire fire) {
    const SigmaDelta& s = call.s;
    const int64_t groups = ceil_div(call.count, place_group), begin = task % groups * place_group;
    const int64_t channel = Passes(s, most).channel(s, task / groups), weights = tap_weights(channel);
    with_channels<most>(s, channel, [&](auto channels) {
        int64_t image = 0, row = 0, column = -1, before = -2;
        for (int64_t i = begin; i < least(begin + place_group, call.count); i++) {
            const int64_t place = call.place(i);
            if (place == before + 1 && column + 1 < s.W_out) column++;
            else image = place / s.P, row = place % s.P / s.W_out, column = place % s.P % s.W_out;
            before = place;
            taps.find(s, row, column, weights);
            const auto [added, fired] = fire(channels, image, row * s.W_out + column, channel, taps);
            call.note(place, fired);
            counted.additions += added, counted.spikes += fired.all;
        }
    });
}

}  // namespace PK_TARGET
