// Max pooling of what has been sent, or has arrived, so far: what the maximum of a window changes by at each step, or what the
// neurons behind it send.
#pragma once
#include "synapses.h"

namespace PK_TARGET {

// Calls give(maxima) after each step, of some channels of an output pixel. `sums` has room for those of each tap.
template <int channels, class Value, class Give>
static inline void maxima_of_place(const SigmaDelta& s, int64_t image, int64_t channel, const SigmaDeltaTaps& taps,
                                   Lanes<channels>* sums, Give give) {
    const int64_t n = least(s.C - channel, channels), frame = s.H * s.W * s.C;
    const Value* x = (const Value*)s.x + image * s.T_in * frame + taps.first + channel;
    const float* const before = s.z ? s.z + image * frame + taps.first + channel : nullptr;
    for (int64_t k = 0; k < taps.count; k++)
        sums[k] = s.z ? load_block<channels>(before + taps.x.data[k], (int)n) : broadcast_block<channels>(0.0f);
    Lanes<channels> most = broadcast_block<channels>(0.0f);
    for (int64_t t = 0; t < s.T; t++, x += frame) {
        for (int64_t k = 0; k < taps.count && (t < s.T_in || t == 0); k++)
            for (int i = 0; i < most.vecs; i++) {
                const int64_t left = t < s.T_in ? n - i * Vec::width : 0;
                if (left > 0) sums[k].v[i] = sums[k].v[i] + load_values(x + taps.x.data[k] + i * Vec::width, left);
                most.v[i] = k ? greater(most.v[i], sums[k].v[i]) : sums[k].v[i];
            }
        give(most);
    }
}

// The changes of the maxima, and 0, or the neurons' spikes, and their number.
template <int channels, class Value>
static int64_t pool_place(const SigmaDelta& s, int64_t image, int64_t pixel, int64_t channel, const SigmaDeltaTaps& taps,
                          Lanes<channels>* sums) {
    using Sums = Lanes<channels>;
    const int n = (int)least(s.C - channel, channels);
    float* const kept = s.a ? s.a + (image * s.P + pixel) * s.C + channel : nullptr;
    int64_t at = (image * s.T * s.P + pixel) * s.C + channel, spikes = 0;
    if (s.codes) {
        Senders<channels> neurons(s, channel, kept);
        maxima_of_place<channels, Value>(s, image, channel, taps, sums, [&](const Sums& most) {
            spikes += neurons.send(most, s.codes + at);
            at += s.P * s.C;
        });
        if (kept) store_block(kept, neurons.a, n);
        return spikes;
    }
    Sums last = kept ? load_block<channels>(kept, n) : broadcast_block<channels>(0.0f);
    maxima_of_place<channels, Value>(s, image, channel, taps, sums, [&](const Sums& most) {
        Sums change = most;
        subtract(change, last);
        store_block(s.arrived + at, change, n);
        last = most;
        at += s.P * s.C;
    });
    if (kept) store_block(kept, last, n);
    return 0;
}

// What each input has sent after the steps.
template <class Value>
static void add_up(const SigmaDelta& s) {
    const int64_t frame = s.H * s.W * s.C;
#pragma omp parallel for
    for (int64_t image = 0; image < s.N; image++)
        for (int64_t t = 0; t < s.T_in; t++) {
            const Value* const x = (const Value*)s.x + (image * s.T_in + t) * frame;
            for (int64_t i = 0; i < frame; i++) s.z[image * frame + i] += value_of(x[i]);
        }
}

template <class Value>
static void maximum_of_sigma_delta(const SigmaDelta& s) {
    const auto tap_weights = [](int64_t) { return 0; };
    constexpr int64_t room = 64;  // taps of most windows
    each_place<row_pass>(s, tap_weights, [&](auto channels, int64_t image, int64_t pixel, int64_t channel, const auto& taps) {
        Lanes<channels> sums[room];
        int64_t spikes;
        if (taps.count <= room) spikes = pool_place<channels, Value>(s, image, pixel, channel, taps, sums);
        else {
            Memory<Lanes<channels>> more(taps.count);
            spikes = pool_place<channels, Value>(s, image, pixel, channel, taps, more.data);
        }
        return std::pair<int64_t, int64_t>(0, spikes);
    });
    if (s.z) add_up<Value>(s);
}

}  // namespace PK_TARGET
