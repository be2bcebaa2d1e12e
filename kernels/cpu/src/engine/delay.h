// Delays each channel by a number of steps of its own; the output before the start is zero. The state holds the most recent
// inputs, [N, steps, P, C], oldest first.
#pragma once
#include "move.h"

namespace PK_TARGET {

// Whether the channels [first, last), which share a byte, all have the same delay.
static inline bool delayed_as_one(const Step& step, int64_t first, int64_t last) {
    for (int64_t c = first; c < last; c++)
        if (step.delays[c] != step.delays[first]) return false;
    return true;
}

static void delay_spikes(const Step& step, const View& from, const float* past, char* slot, const Steps& s) {
    const int64_t P = step.P(), bytes = step.bytes();
    for (int64_t byte = 0; byte < bytes; byte++) {
        const int64_t first = 8 * byte, last = least(first + 8, step.C);
        const bool as_one = delayed_as_one(step, first, last);
        for (int64_t t = s.t0; t < s.t1; t++) {
            uint8_t* const to = (uint8_t*)s.of(slot, t) + byte;
            for (int64_t p = 0; p < P; p++) {
                uint8_t fired = 0;
                if (as_one && t >= step.delays[first]) fired = from.spikes_at(s.image, t - step.delays[first], p)[byte];
                else
                    for (int64_t c = first; c < last; c++) {
                        const int64_t then = t - step.delays[c];
                        const bool fires = then >= 0 ? from.spikes_at(s.image, then, p)[byte] >> c % 8 & 1
                                                     : past[((step.states + then) * P + p) * step.C + c] != 0;
                        fired |= (uint8_t)(fires << c % 8);
                    }
                to[p * bytes] = fired;
            }
        }
    }
}

static void delay_values(const Step& step, const View& from, const float* past, char* slot, const Steps& s) {
    const int64_t P = step.P();
    for (int64_t t = s.t0; t < s.t1; t++)
        for (int64_t p = 0; p < P; p++)
            for (int64_t c = 0; c < step.C; c++) {
                const int64_t then = t - step.delays[c];
                ((float*)s.of(slot, t))[p * step.C + c] = then >= 0 ? from.values_at(s.image, then, p)[c * from.channel]
                                                                    : past[((step.states + then) * P + p) * step.C + c];
            }
}

// Updates the state of an image after a segment of `steps` steps.
static void keep_past(const Step& step, const View& from, float* past, int64_t image, int64_t steps) {
    const int64_t P = step.P(), frame = P * step.C;
    for (int64_t i = 0; i < step.states; i++) {
        const int64_t then = i + steps - step.states;
        float* const to = past + i * frame;
        if (then < 0) {
            memcpy(to, past + (i + steps) * frame, frame * sizeof(float));
            continue;
        }
        for (int64_t p = 0; p < P; p++)
            for (int64_t c = 0; c < step.C; c++)
                to[p * step.C + c] = from.spikes ? (float)(from.spikes_at(image, then, p)[c / 8] >> c % 8 & 1)
                                                 : from.values_at(image, then, p)[c * from.channel];
    }
}

}  // namespace PK_TARGET
