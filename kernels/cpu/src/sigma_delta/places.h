// Walks over the output pixels of a task, with the channels of its pass in registers.
#pragma once
#include "senders.h"

namespace PK_TARGET {

// Calls work(channels) with the number of channels of the pass that begins at `channel`, rounded up to whole vectors, as an
// integral constant.
template <class Work>
static inline void with_channels(const SigmaDelta& s, int64_t channel, Work work) {
    const int64_t vecs = ceil_div(least(channels_left(s, channel), row_pass), Vec::width);
    each<row_pass / Vec::width>([&](auto before) {
        if (vecs == before + 1) work(std::integral_constant<int, (before + 1) * Vec::width>());
    });
}

// Calls fire(channels, image, pixel, channel, taps) for each output pixel of a task, with the number of channels of its pass as
// an integral constant; it returns the number of weights added, and the spikes. tap_weights(channel): weights from one tap to
// the next.
template <class TapWeights, class Fire>
static void each_place(const SigmaDeltaCall& call, int64_t task, SigmaDeltaTaps& taps, Counted& counted, TapWeights tap_weights,
                       Fire fire) {
    const SigmaDelta& s = call.s;
    const int64_t groups = ceil_div(call.count, place_group), begin = task % groups * place_group;
    const int64_t channel = Passes(s).channel(s, task / groups), weights = tap_weights(channel);
    with_channels(s, channel, [&](auto channels) {
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
