// Operations that only move values: flatten, unflatten, and selections of pixels and channels. Each handles the steps [t0, t1)
// of one image; its slot holds `steps` steps of `frame` bytes.
#pragma once
#include "session.h"

// Only some of its functions are used here.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#include "../packed_spikes.h"
#pragma GCC diagnostic pop

namespace PK_TARGET {

struct StepSpan {
    int64_t image, t0, t1, steps, frame;

    char* of(char* slot, int64_t t) const { return slot + (image * steps + t) * frame; }
};

static inline void set_bit(char* bytes, int64_t bit) { ((uint8_t*)bytes)[bit / 8] |= (uint8_t)(1 << bit % 8); }

// Flattens in torch's order: feature c * P + p.
static void flatten_image(const Op& op, const View& from, char* slot, const StepSpan& s) {
    const Window& w = op.windows[0];
    const int64_t P = w.H * w.W;
    for (int64_t t = s.t0; t < s.t1; t++) {
        char* const to = s.of(slot, t);
        if (from.spikes) memset(to, 0, s.frame);
        for (int64_t p = 0; p < P; p++) {
            if (from.spikes) each_spike(from.spikes_at(s.image, t, p), w.C, [&](int64_t c) { set_bit(to, c * P + p); });
            else
                for (int64_t c = 0; c < w.C; c++) ((float*)to)[c * P + p] = from.values_at(s.image, t, p)[c * from.channel];
        }
    }
}

static void unflatten_image(const Op& op, const View& from, char* slot, const StepSpan& s) {
    const Window& w = op.windows[0];
    const int64_t P = op.P(), stride = 8 * op.bytes();
    for (int64_t t = s.t0; t < s.t1; t++) {
        char* const to = s.of(slot, t);
        if (from.spikes) memset(to, 0, s.frame);
        if (from.spikes)
            each_spike(from.spikes_at(s.image, t, 0), w.C, [&](int64_t i) { set_bit(to, i % P * stride + i / P); });
        else
            for (int64_t i = 0; i < w.C; i++)
                ((float*)to)[i % P * op.C + i / P] = from.values_at(s.image, t, 0)[i * from.channel];
    }
}

// A channel of concatenated inputs: the input, and the channel within it.
struct InputChannel {
    int64_t input, channel;
};
static inline InputChannel place_of(const Op& op, int64_t channel) {
    int64_t input = 0, last = op.count;
    while (last - input > 1) {
        const int64_t middle = (input + last) / 2;
        (op.windows[middle].channel <= channel ? input : last) = middle;
    }
    return {input, channel - op.windows[input].channel};
}

// Whether the eight output channels from `channel` on are exactly one byte of an input, in order, so that it is copied whole.
static inline bool whole_byte(const Op& op, int64_t channel, InputChannel& place) {
    const auto at = [&](int64_t c) { return op.channels ? op.channels[c] : c; };
    if (at(channel) < 0) return false;
    place = place_of(op, at(channel));
    const Window& w = op.windows[place.input];
    const int64_t last = least(8, op.C - channel);
    if (place.channel % 8 || place.channel + last > w.C || (last < 8 && place.channel + last != w.C)) return false;
    for (int64_t i = 1; i < last; i++)
        if (at(channel + i) != at(channel) + i) return false;
    return true;
}

static void move_spikes(const Op& op, const View* views, char* slot, const StepSpan& s) {
    const int64_t P = op.P(), bytes = op.bytes();
    const auto pixel_of = [&](int64_t p) { return op.pixels ? op.pixels[p] : p; };
    for (int64_t t = s.t0; t < s.t1; t++) memset(s.of(slot, t), 0, s.frame);
    for (int64_t byte = 0; byte < bytes; byte++) {
        InputChannel place;
        const bool whole = whole_byte(op, 8 * byte, place);
        for (int64_t c = 8 * byte; c < (whole ? 8 * byte + 1 : least(8 * byte + 8, op.C)); c++) {
            const int64_t channel = op.channels ? op.channels[c] : c;
            if (channel < 0) continue;
            if (!whole) place = place_of(op, channel);
            const View& from = views[op.windows[place.input].slot];
            for (int64_t t = s.t0; t < s.t1; t++) {
                uint8_t* const to = (uint8_t*)s.of(slot, t) + byte;
                for (int64_t p = 0; p < P; p++) {
                    if (pixel_of(p) < 0) continue;
                    const uint8_t fired = from.spikes_at(s.image, t, pixel_of(p))[place.channel / 8];
                    to[p * bytes] |= whole ? fired : (uint8_t)((fired >> place.channel % 8 & 1) << c % 8);
                }
            }
        }
    }
}

static void move_values(const Op& op, const View* views, char* slot, const StepSpan& s) {
    for (int64_t c = 0; c < op.C; c++) {
        const int64_t channel = op.channels ? op.channels[c] : c;
        const InputChannel place = channel < 0 ? InputChannel{} : place_of(op, channel);
        const View& from = views[op.windows[place.input].slot];
        for (int64_t t = s.t0; t < s.t1; t++) {
            float* const to = (float*)s.of(slot, t) + c;
            for (int64_t p = 0; p < op.P(); p++) {
                const int64_t pixel = op.pixels ? op.pixels[p] : p;
                float value = 0;
                if (channel >= 0 && pixel >= 0) {
                    if (from.spikes)
                        value = (float)(from.spikes_at(s.image, t, pixel)[place.channel / 8] >> place.channel % 8 & 1);
                    else value = from.values_at(s.image, t, pixel)[place.channel * from.channel];
                }
                to[p * op.C] = value;
            }
        }
    }
}

}  // namespace PK_TARGET
