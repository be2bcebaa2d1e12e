// Delays each channel by a number of steps of its own; the output before the start is zero. The state holds the most recent
// inputs, [N, steps, P, C], oldest first.
#pragma once
#include "move.h"

namespace PK_TARGET {

// Whether the channels [first, last), which share a byte, all have the same delay.
static inline bool delayed_as_one(const Op& op, int64_t first, int64_t last) {
    for (int64_t c = first; c < last; c++)
        if (op.delays[c] != op.delays[first]) return false;
    return true;
}

static void delay_spikes(const Op& op, const View& from, const float* past, char* slot, const StepSpan& s) {
    const int64_t P = op.P(), bytes = op.bytes();
    for (int64_t byte = 0; byte < bytes; byte++) {
        const int64_t first = 8 * byte, last = least(first + 8, op.C);
        const bool as_one = delayed_as_one(op, first, last);
        for (int64_t t = s.t0; t < s.t1; t++) {
            uint8_t* const to = (uint8_t*)s.of(slot, t) + byte;
            for (int64_t p = 0; p < P; p++) {
                uint8_t fired = 0;
                if (as_one && t >= op.delays[first]) fired = from.spikes_at(s.image, t - op.delays[first], p)[byte];
                else
                    for (int64_t c = first; c < last; c++) {
                        const int64_t then = t - op.delays[c];
                        const bool fires = then >= 0 ? from.spikes_at(s.image, then, p)[byte] >> c % 8 & 1
                                                     : past[((op.states + then) * P + p) * op.C + c] != 0;
                        fired |= (uint8_t)(fires << c % 8);
                    }
                to[p * bytes] = fired;
            }
        }
    }
}

static void delay_values(const Op& op, const View& from, const float* past, char* slot, const StepSpan& s) {
    const int64_t P = op.P();
    for (int64_t t = s.t0; t < s.t1; t++)
        for (int64_t p = 0; p < P; p++)
            for (int64_t c = 0; c < op.C; c++) {
                const int64_t then = t - op.delays[c];
                ((float*)s.of(slot, t))[p * op.C + c] = then >= 0 ? from.values_at(s.image, then, p)[c * from.channel]
                                                                  : past[((op.states + then) * P + p) * op.C + c];
            }
}

// Updates the state of an image after a segment of `steps` steps.
static void keep_past(const Op& op, const View& from, float* past, int64_t image, int64_t steps) {
    const int64_t P = op.P(), frame = P * op.C;
    for (int64_t i = 0; i < op.states; i++) {
        const int64_t then = i + steps - op.states;
        float* const to = past + i * frame;
        if (then < 0) {
            memcpy(to, past + (i + steps) * frame, frame * sizeof(float));
            continue;
        }
        for (int64_t p = 0; p < P; p++)
            for (int64_t c = 0; c < op.C; c++)
                to[p * op.C + c] = from.spikes ? (float)(from.spikes_at(image, then, p)[c / 8] >> c % 8 & 1)
                                               : from.values_at(image, then, p)[c * from.channel];
    }
}

}  // namespace PK_TARGET
