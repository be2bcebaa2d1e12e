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

}  // namespace PK_TARGET
