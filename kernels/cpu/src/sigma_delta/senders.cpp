// The steps of sigma-delta neurons, for all kinds of synapses. Compiled once for each number of vectors of a pass.
#include "senders.h"

namespace PK_TARGET {

template <int channels>
OUT_OF_LINE static Fired fire_channels(const SigmaDelta& s, int64_t image, int64_t pixel, int64_t channel,
                                       const Arrive& arrive) {
    const int n = (int)least(channels_left(s, channel), channels);
    const int64_t place = (image * s.P + pixel) * s.C + channel;
    Senders<channels> neurons(s, channel, s.z ? s.a + place : nullptr);
    Lanes<channels> z = s.z ? load_block<channels>(s.z + place, n) : broadcast_block<channels>(0.0f);
    Lanes<channels> sums[steps_together];
    Fired fired;
    int64_t at = (image * s.T * s.P + pixel) * s.C + channel;
    for (int64_t t = 0; t < s.T; t += steps_together) {
        const int steps = (int)least(steps_together, s.T - t), arriving = (int)least(steps, s.T_in - t);
        for (int k = 0; k < steps; k++) sums[k] = besides<channels>(s, t + k, (image * s.T + t + k) * s.P + pixel, channel, n);
        if (arriving > 0) arrive(t, arriving, sums);
        for (int k = 0; k < steps; k++, at += s.P * s.C) {
            if (passes_on(s)) {
                store_block(s.arrived + at, sums[k], n);
                continue;
            }
            add(z, sums[k]);
            fired.all += fired.last = s.arrived ? neurons.send_values(z, s.arrived + at) : neurons.send(z, s.codes + at);
        }
    }
    if (s.z) store_block(s.z + place, z, n), store_block(s.a + place, neurons.a, n);
    return fired;
}

Fired fire_sigma_delta(const SigmaDelta& s, int64_t image, int64_t pixel, int64_t channel, const Arrive& arrive) {
    Fired fired;
    each<message_pass / Vec::width>([&](auto before) {
        constexpr int channels = (before + 1) * Vec::width;
        if (arrive.channels == channels) fired = fire_channels<channels>(s, image, pixel, channel, arrive);
    });
    return fired;
}

// Max pooling of the sums of all input so far: at each step the change of a window's maximum, or what the neurons behind the
// pool send.

// A vector of input values from offset `at` on, of which n exist.
static inline Vec input_at(const SigmaDelta& s, int64_t at, int64_t n) {
    return s.real ? load_values((const float*)s.x + at, n) : load_values((const int8_t*)s.x + at, n);
}

// Calls give(maxima) after each step, for some channels of an output pixel. `sums`: room for the sums of each tap.
template <int channels, class Give>
static inline void maxima_of_place(const SigmaDelta& s, int64_t image, int64_t channel, const SigmaDeltaTaps& taps,
                                   Lanes<channels>* sums, Give give) {
    const int64_t n = least(s.C - channel, channels), frame = s.H * s.W * s.C;
    int64_t x = image * s.T_in * frame + taps.first + channel;
    const float* const before = s.z ? s.z + image * frame + taps.first + channel : nullptr;
    for (int64_t k = 0; k < taps.count; k++)
        sums[k] = s.z ? load_block<channels>(before + taps.x[k], (int)n) : broadcast_block<channels>(0.0f);
    Lanes<channels> most = broadcast_block<channels>(0.0f);
    for (int64_t t = 0; t < s.T; t++, x += frame) {
        for (int64_t k = 0; k < taps.count && (t < s.T_in || t == 0); k++)
            for (int i = 0; i < most.vecs; i++) {
                const int64_t left = t < s.T_in ? n - i * Vec::width : 0;
                if (left > 0) sums[k].v[i] = sums[k].v[i] + input_at(s, x + taps.x[k] + i * Vec::width, left);
                most.v[i] = k ? greater(most.v[i], sums[k].v[i]) : sums[k].v[i];
            }
        give(most);
    }
}

// Writes the changes of the maxima of an output pixel, or its neurons' spikes.
template <int channels>
static Fired pool_place(const SigmaDelta& s, int64_t image, int64_t pixel, int64_t channel, const SigmaDeltaTaps& taps,
                        Lanes<channels>* sums) {
    using Sums = Lanes<channels>;
    const int n = (int)least(s.C - channel, channels);
    float* const kept = s.a ? s.a + (image * s.P + pixel) * s.C + channel : nullptr;
    int64_t at = (image * s.T * s.P + pixel) * s.C + channel;
    Fired fired;
    if (!passes_on(s)) {
        Senders<channels> neurons(s, channel, kept);
        maxima_of_place<channels>(s, image, channel, taps, sums, [&](const Sums& most) {
            fired.all += fired.last = s.arrived ? neurons.send_values(most, s.arrived + at) : neurons.send(most, s.codes + at);
            at += s.P * s.C;
        });
        if (kept) store_block(kept, neurons.a, n);
        return fired;
    }
    Sums last = kept ? load_block<channels>(kept, n) : broadcast_block<channels>(0.0f);
    maxima_of_place<channels>(s, image, channel, taps, sums, [&](const Sums& most) {
        Sums change = most;
        subtract(change, last);
        store_block(s.arrived + at, change, n);
        last = most;
        at += s.P * s.C;
    });
    if (kept) store_block(kept, last, n);
    return fired;
}

template <class Value>
static void add_up_values(const SigmaDelta& s, int64_t first, int64_t last) {
    const int64_t P = s.H * s.W;
    for (int64_t place = first; place < last; place++)
        for (int64_t t = 0; t < s.T_in; t++) {
            const Value* const x = (const Value*)s.x + ((place / P * s.T_in + t) * P + place % P) * s.C;
            for (int64_t i = 0; i < s.C; i++) s.z[place * s.C + i] += value_of(x[i]);
        }
}

void maximum_task(const SigmaDeltaCall& call, int64_t task, MaximumScratch& scratch, Counted& counted) {
    const SigmaDelta& s = call.s;
    const Passes passes(s);
    for (int64_t i = task * place_group; i < least((task + 1) * place_group, call.count); i++) {
        const int64_t place = call.place(i), image = place / s.P, pixel = place % s.P;
        scratch.taps.find(s, pixel / s.W_out, pixel % s.W_out, 0);
        for (int64_t pass = 0; pass < passes.count; pass++)  // a pixel's channels lie side by side
            with_channels(s, passes.channel(s, pass), [&](auto channels) {
                auto* const sums = (Lanes<channels>*)scratch.sums;
                const Fired fired = pool_place<channels>(s, image, pixel, passes.channel(s, pass), scratch.taps, sums);
                call.note(place, fired);
                counted.spikes += fired.all;
            });
    }
}

void add_up_sent(const SigmaDelta& s, int64_t first, int64_t last) {
    (s.real ? add_up_values<float> : add_up_values<int8_t>)(s, first, last);
}

}  // namespace PK_TARGET
