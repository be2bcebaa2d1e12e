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
    const View& only = views[op.windows[0].slot];
    if (op.count == 1 && !op.channels && only.values && only.channel == 1) {  // whole pixels
        for (int64_t t = s.t0; t < s.t1; t++)
            for (int64_t p = 0; p < op.P(); p++) {
                float* const to = (float*)s.of(slot, t) + p * op.C;
                const int64_t pixel = op.pixels ? op.pixels[p] : p;
                if (pixel < 0) memset(to, 0, op.C * sizeof(float));
                else memcpy(to, only.values_at(s.image, t, pixel), op.C * sizeof(float));
            }
        return;
    }
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

// Pooling of each step, for the steps [t0, t1) of an image; and pooling of sums over time, for some rows of the output.

// The input rows and columns under the window of an output pixel, without padding.
struct Under {
    int64_t y0, y1, x0, x1;
    int64_t size() const { return (y1 - y0) * (x1 - x0); }
};
static inline Under window_at(const Op& op, const Window& w, int64_t oy, int64_t ox) {
    if (op.adaptive) return {oy * w.H / op.H, ceil_div((oy + 1) * w.H, op.H), ox * w.W / op.W, ceil_div((ox + 1) * w.W, op.W)};
    const int64_t top = oy * w.stride_h - w.padding_h, left = ox * w.stride_w - w.padding_w;
    const int64_t y = most(top, 0), x = most(left, 0);
    return {y, most(y, least(top + w.kernel_h, w.H)), x, most(x, least(left + w.kernel_w, w.W))};
}
static inline Under window_of(const Op& op, const Window& w, int64_t pixel) {
    return window_at(op, w, pixel / op.W, pixel % op.W);
}

// The OR of a window's pixels from byte i on. Rows lie `next_row` bytes apart. Works in words of `size` bytes, and on the rest
// in words half as long.
template <int size>
static inline void or_window(uint8_t* to, const uint8_t* x, int64_t rows, int64_t pixels, int64_t next_row, int64_t bytes,
                             int64_t i = 0) {
    typedef uint8_t Word __attribute__((vector_size(size)));
    for (; i + size <= bytes; i += size) {
        Word any{};
        for (int64_t y = 0; y < rows; y++)
            for (int64_t p = 0; p < pixels; p++) {
                Word one;
                memcpy(&one, x + y * next_row + p * bytes + i, size);
                any |= one;
            }
        memcpy(to + i, &any, size);
    }
    if constexpr (size > 1)
        if (i < bytes) or_window<size / 2>(to, x, rows, pixels, next_row, bytes, i);
}

static void max_pool_values(const Op& op, const View& from, char* slot, const StepSpan& s) {
    const Window& w = op.windows[0];
    for (int64_t t = s.t0; t < s.t1; t++)
        for (int64_t pixel = 0; pixel < op.P(); pixel++) {
            const Under under = window_of(op, w, pixel);
            float* const best = (float*)s.of(slot, t) + pixel * op.C;
            for (int64_t c = 0; c < op.C; c++) best[c] = -INFINITY;
            for (int64_t y = under.y0; y < under.y1; y++)
                for (int64_t x = under.x0; x < under.x1; x++)
                    for (int64_t c = 0; c < op.C; c++) {
                        const float value = from.values_at(s.image, t, y * w.W + x)[c * from.channel];
                        if (value > best[c]) best[c] = value;
                    }
        }
}

// The maximum of spikes is their OR.
static void max_pool(const Op& op, const View& from, char* slot, const StepSpan& s) {
    if (!from.spikes) return max_pool_values(op, from, slot, s);
    const Window& w = op.windows[0];
    const int64_t bytes = op.bytes();
    for (int64_t t = s.t0; t < s.t1; t++) {  // frame by frame, in the order of memory
        uint8_t* any = (uint8_t*)s.of(slot, t);
        for (int64_t oy = 0; oy < op.H; oy++)
            for (int64_t ox = 0; ox < op.W; ox++, any += bytes) {
                const Under u = window_at(op, w, oy, ox);
                const uint8_t* const x = from.spikes_at(s.image, t, u.y0 * w.W + u.x0);
                or_window<16>(any, x, u.y1 - u.y0, u.x1 - u.x0, w.W * bytes, bytes);
            }
    }
}

// Divides the sums of n channels of a window by its size, with or without padding, as torch does. Adaptive pooling divides first by the rows
// and then by the columns, which rounds differently.
template <class Real>
static void divide(const Op& op, const Window& w, int64_t pixel, const Under& under, Real* sum, int64_t n) {
    if (op.adaptive && op.P() > 1) {
        const Real rows = (Real)(under.y1 - under.y0), columns = (Real)(under.x1 - under.x0);
        for (int64_t c = 0; c < n; c++) sum[c] = sum[c] / rows / columns;
        return;
    }
    int64_t size = under.size();
    if (op.divisor) size = op.divisor;
    else if (op.count_padding && !op.adaptive) {
        const int64_t top = pixel / op.W * w.stride_h - w.padding_h, left = pixel % op.W * w.stride_w - w.padding_w;
        size = (least(top + w.kernel_h, w.H + w.padding_h) - top) * (least(left + w.kernel_w, w.W + w.padding_w) - left);
    }
    for (int64_t c = 0; c < n; c++) sum[c] /= (Real)size;
}

static void average_pool(const Op& op, const View& from, char* slot, const StepSpan& s) {
    const Window& w = op.windows[0];
    for (int64_t t = s.t0; t < s.t1; t++)
        for (int64_t pixel = 0; pixel < op.P(); pixel++) {
            const Under under = window_of(op, w, pixel);
            float* const sum = (float*)s.of(slot, t) + pixel * op.C;
            memset(sum, 0, op.C * sizeof(float));
            for (int64_t y = under.y0; y < under.y1; y++)
                for (int64_t x = under.x0; x < under.x1; x++) {
                    const int64_t p = y * w.W + x;
                    if (from.spikes) each_spike(from.spikes_at(s.image, t, p), op.C, [&](int64_t c) { sum[c] += 1.0f; });
                    else
                        for (int64_t c = 0; c < op.C; c++) sum[c] += from.values_at(s.image, t, p)[c * from.channel];
                }
            divide(op, w, pixel, under, sum, op.C);
        }
}

// Adds the input of step t to the sums of a pixel's channels from `channel` on, n of them.
static inline void add_step(Block& sums, const View& from, int64_t image, int64_t t, int64_t pixel, int64_t channel, int n) {
    if (from.spikes) return add_spikes(sums, from.spikes_at(image, t, pixel) + channel / 8, n);
    const float* const values = from.values_at(image, t, pixel) + channel * from.channel;
    if (from.channel == 1) {
        const Block added = load_block(values, n);
        for (int i = 0; i < vecs; i++) sums.v[i] = sums.v[i] + added.v[i];
        return;
    }
    float lanes[block] = {};
    for (int i = 0; i < n; i++) lanes[i] = values[i * from.channel];
    for (int i = 0; i < vecs; i++) sums.v[i] = sums.v[i] + load(lanes + i * Vec::width);
}

// By how much the largest sum in a window grows at each step; with spikes, by one or not at all. `own`: room for the running
// sums of the window's inputs, a block of each.
static void max_sum_pool(const Op& op, const View& from, const float* sums, char* slot, const StepSpan& s, int64_t row0,
                         int64_t row1, Block* own) {
    const Window& w = op.windows[0];
    const bool rates = !op.real;
    const float* const image = sums + s.image * w.H * w.W * op.C;
    for (int64_t pixel = row0 * op.W; pixel < row1 * op.W; pixel++) {
        const Under under = window_of(op, w, pixel);
        for (int64_t channel = 0; channel < op.C; channel += block) {
            const int n = (int)least(block, op.C - channel);
            Block highest = broadcast_block(rates ? 0.0f : -INFINITY);
            int64_t taps = 0;
            for (int64_t y = under.y0; y < under.y1; y++)
                for (int64_t x = under.x0; x < under.x1; x++, taps++) {
                    own[taps] = load_block(image + (y * w.W + x) * op.C + channel, n);
                    for (int i = 0; i < vecs; i++) highest.v[i] = greater(highest.v[i], own[taps].v[i]);
                }
            for (int64_t t = 0; t < s.steps; t++) {
                Block now = broadcast_block(rates ? 0.0f : -INFINITY);
                Block* at = own;
                for (int64_t y = under.y0; y < under.y1; y++)
                    for (int64_t x = under.x0; x < under.x1; x++, at++) {
                        add_step(*at, from, s.image, t, y * w.W + x, channel, n);
                        for (int i = 0; i < vecs; i++) now.v[i] = greater(now.v[i], at->v[i]);
                    }
                char* const to = s.of(slot, t);
                uint32_t grown = 0;
                for (int i = 0; i < vecs; i++) {
                    const Vec difference = now.v[i] - highest.v[i];
                    grown |= bits(difference >= broadcast(1.0f)) << (i * Vec::width);
                    highest.v[i] = now.v[i], now.v[i] = difference;
                }
                if (rates) store_spikes((uint8_t*)to + pixel * op.bytes() + channel / 8, grown, n);
                else store_block((float*)to + pixel * op.C + channel, now, n);
            }
        }
    }
}

constexpr int most_levels = 8;

// Like max_sum_pool with spikes, for at most `levels` steps from rest and 8 channels per byte: the largest sum grows at a step
// in which some sum reaches a level (1, 2, ...) that none has reached before. Starts at byte i, works in words of `size` bytes,
// and on the rest in words half as long.
template <int levels, int size>
static inline void grow_window(char* slot, const StepSpan& s, int64_t at, const View& from, const Under& u, int64_t W,
                               int64_t bytes, int64_t i = 0) {
    typedef uint8_t Word __attribute__((vector_size(size)));
    for (; i + size <= bytes; i += size) {
        Word any[levels][levels] = {};  // [step][level]: whether some sum has reached level + 1 after the step
        for (int64_t y = u.y0; y < u.y1; y++)
            for (int64_t x = u.x0; x < u.x1; x++) {
                Word own[levels] = {};
                each<levels>([&](auto t) {
                    if (t >= s.steps) return;
                    Word spikes;
                    memcpy(&spikes, from.spikes_at(s.image, t, y * W + x) + i, size);
                    each<t + 1>([&](auto down) {
                        constexpr int level = t - down;
                        if constexpr (level > 0) own[level] |= own[level - 1] & spikes;
                        else own[level] |= spikes;
                        any[t][level] |= own[level];
                    });
                });
            }
        each<levels>([&](auto t) {
            if (t >= s.steps) return;
            Word grown = any[t][t];
            each<t>([&](auto level) { grown |= any[t][level] & ~any[t - 1][level]; });
            memcpy(s.of(slot, t) + at + i, &grown, size);
        });
    }
    if constexpr (size > 1)
        if (i < bytes) grow_window<levels, size / 2>(slot, s, at, from, u, W, bytes, i);
}

template <int levels>
static void grow_from_rest(const Op& op, const View& from, char* slot, const StepSpan& s, int64_t row0, int64_t row1) {
    const Window& w = op.windows[0];
    for (int64_t pixel = row0 * op.W; pixel < row1 * op.W; pixel++)
        grow_window<levels, 16>(slot, s, pixel * op.bytes(), from, window_of(op, w, pixel), w.W, op.bytes());
}

// Updates the sums of an image's inputs after all steps.
static void add_up(const Op& op, const View& from, float* sums, int64_t image, int64_t steps) {
    const Window& w = op.windows[0];
    for (int64_t pixel = 0; pixel < w.H * w.W; pixel++)
        for (int64_t channel = 0; channel < op.C; channel += block) {
            const int n = (int)least(block, op.C - channel);
            float* const at = sums + (image * w.H * w.W + pixel) * op.C + channel;
            Block sum = load_block(at, n);
            for (int64_t t = 0; t < steps; t++) add_step(sum, from, image, t, pixel, channel, n);
            store_block(at, sum, n);
        }
}

}  // namespace PK_TARGET
