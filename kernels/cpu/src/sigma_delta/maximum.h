// Max pooling of what sigma-delta neurons have sent so far: what the maximum of a window changes by at each step.
#pragma once
#include "synapses.h"

namespace PK_TARGET {

// The changes of some channels of an output pixel. `sums` has room for those of each tap.
template <int channels, class Value>
static void pool_place(const SigmaDelta& s, int64_t image, int64_t pixel, int64_t channel, const SigmaDeltaTaps& taps,
                       Lanes<channels>* sums) {
    using Sums = Lanes<channels>;
    const int64_t n = least(s.C - channel, channels), frame = s.H * s.W * s.C, place = (image * s.P + pixel) * s.C + channel;
    const Value* x = (const Value*)s.x + image * s.T * frame + taps.first + channel;
    const float* const before = s.z ? s.z + image * frame + taps.first + channel : nullptr;
    Sums last = s.a ? load_block<channels>(s.a + place, (int)n) : broadcast_block<channels>(0.0f);
    for (int64_t k = 0; k < taps.count; k++)
        sums[k] = s.z ? load_block<channels>(before + taps.x.data[k], (int)n) : broadcast_block<channels>(0.0f);
    float* changes = s.arrived + (image * s.T * s.P + pixel) * s.C + channel;
    for (int64_t t = 0; t < s.T; t++, x += frame, changes += s.P * s.C) {
        Sums most;
        for (int64_t k = 0; k < taps.count; k++)
            for (int i = 0; i < most.vecs; i++) {
                const int64_t left = n - i * Vec::width;
                if (left > 0) sums[k].v[i] = sums[k].v[i] + load_values(x + taps.x.data[k] + i * Vec::width, left);
                most.v[i] = k ? greater(most.v[i], sums[k].v[i]) : sums[k].v[i];
            }
        Sums change = most;
        subtract(change, last);
        store_block(changes, change, (int)n);
        last = most;
    }
    if (s.a) store_block(s.a + place, last, (int)n);
}

// What each input has sent after the steps.
template <class Value>
static void add_up(const SigmaDelta& s) {
    const int64_t frame = s.H * s.W * s.C;
#pragma omp parallel for
    for (int64_t image = 0; image < s.N; image++)
        for (int64_t t = 0; t < s.T; t++) {
            const Value* const x = (const Value*)s.x + (image * s.T + t) * frame;
            for (int64_t i = 0; i < frame; i++) s.z[image * frame + i] += value_of(x[i]);
        }
}

template <class Value>
static void maximum_of_sigma_delta(const SigmaDelta& s) {
    const auto tap_weights = [](int64_t) { return 0; };
    constexpr int64_t room = 64;  // taps of most windows
    each_place<row_pass>(s, tap_weights, [&](auto channels, int64_t image, int64_t pixel, int64_t channel, const auto& taps) {
        Lanes<channels> sums[room];
        if (taps.count <= room) pool_place<channels, Value>(s, image, pixel, channel, taps, sums);
        else {
            Memory<Lanes<channels>> more(taps.count);
            pool_place<channels, Value>(s, image, pixel, channel, taps, more.data);
        }
        return std::pair<int64_t, int64_t>(0, 0);
    });
    if (s.z) add_up<Value>(s);
}

}  // namespace PK_TARGET
