// Operations without neurons: pooling and flattening. A task is one image, all steps of a segment.
#pragma once
#include "session.h"

// Of what stands there, only the visits of spikes and the OR of pixels are needed.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#include "../spike_bits.h"
#pragma GCC diagnostic pop

namespace PK_TARGET {

// Calls visit(output pixel, first and end of its rows, first and end of its columns), as far as these lie in the image.
template <class Visit>
static void each_window(const Step& step, const Window& w, Visit visit) {
    for (int64_t oy = 0; oy < step.H; oy++)
        for (int64_t ox = 0; ox < step.W; ox++) {
            const int64_t top = oy * w.stride_h - w.padding_h, left = ox * w.stride_w - w.padding_w;
            const int64_t y = most(top, 0), x = most(left, 0);
            visit(oy * step.W + ox, y, most(y, least(top + w.kernel_h, w.H)), x, most(x, least(left + w.kernel_w, w.W)));
        }
}

static void max_pool_values(const Step& step, const View& from, char* slot, int64_t image, int64_t steps) {
    const Window& w = step.windows[0];
    for (int64_t t = 0; t < steps; t++) {
        float* const to = (float*)(slot + (image * steps + t) * slot_bytes(step));
        each_window(step, w, [&](int64_t pixel, int64_t y0, int64_t y1, int64_t x0, int64_t x1) {
            float* const best = to + pixel * step.C;
            for (int64_t c = 0; c < step.C; c++) best[c] = -INFINITY;
            for (int64_t y = y0; y < y1; y++)
                for (int64_t x = x0; x < x1; x++)
                    for (int64_t c = 0; c < step.C; c++) {
                        const float value = from.values_at(image, t, y * w.W + x)[c * from.channel];
                        if (value > best[c]) best[c] = value;
                    }
        });
    }
}

// The maximum of spikes is their OR.
static void max_pool(const Step& step, const View& from, char* slot, int64_t image, int64_t steps) {
    if (step.real) return max_pool_values(step, from, slot, image, steps);
    const Window& w = step.windows[0];
    const int64_t bytes = step.bytes();
    for (int64_t t = 0; t < steps; t++) {
        uint8_t* const to = (uint8_t*)slot + (image * steps + t) * slot_bytes(step);
        each_window(step, w, [&](int64_t pixel, int64_t y0, int64_t y1, int64_t x0, int64_t x1) {
            uint8_t* const any = to + pixel * bytes;
            if (y0 == y1) memset(any, 0, bytes);
            for (int64_t y = y0; y < y1; y++) {
                const uint8_t* const x = from.spikes_at(image, t, y * w.W + x0);
                if (y == y0) or_pixels(any, x, x1 - x0, bytes);
                else
                    for (int64_t p = 0; p < x1 - x0; p++)
                        for (int64_t i = 0; i < bytes; i++) any[i] |= x[p * bytes + i];
            }
        });
    }
}

// As torch has it: the sum, divided by the size of the window, of which the padding is a part or is not.
static void average_pool(const Step& step, const View& from, char* slot, int64_t image, int64_t steps) {
    const Window& w = step.windows[0];
    for (int64_t t = 0; t < steps; t++) {
        float* const to = (float*)(slot + (image * steps + t) * slot_bytes(step));
        each_window(step, w, [&](int64_t pixel, int64_t y0, int64_t y1, int64_t x0, int64_t x1) {
            float* const sum = to + pixel * step.C;
            memset(sum, 0, step.C * sizeof(float));
            for (int64_t y = y0; y < y1; y++)
                for (int64_t x = x0; x < x1; x++) {
                    const int64_t p = y * w.W + x;
                    if (from.spikes) each_spike(from.spikes_at(image, t, p), step.C, [&](int64_t c) { sum[c] += 1.0f; });
                    else
                        for (int64_t c = 0; c < step.C; c++) sum[c] += from.values_at(image, t, p)[c * from.channel];
                }
            int64_t size = (y1 - y0) * (x1 - x0);
            if (step.divisor) size = step.divisor;
            else if (step.count_padding) {
                const int64_t top = pixel / step.W * w.stride_h - w.padding_h, left = pixel % step.W * w.stride_w - w.padding_w;
                size =
                    (least(top + w.kernel_h, w.H + w.padding_h) - top) * (least(left + w.kernel_w, w.W + w.padding_w) - left);
            }
            for (int64_t c = 0; c < step.C; c++) sum[c] /= (float)size;
        });
    }
}

// Feature c * P + p, torch's order.
static void flatten_image(const Step& step, const View& from, char* slot, int64_t image, int64_t steps) {
    const Window& w = step.windows[0];
    const int64_t P = w.H * w.W;
    for (int64_t t = 0; t < steps; t++) {
        char* const to = slot + (image * steps + t) * slot_bytes(step);
        if (!step.real) memset(to, 0, slot_bytes(step));
        for (int64_t p = 0; p < P; p++) {
            if (from.spikes)
                each_spike(from.spikes_at(image, t, p), w.C,
                           [&](int64_t c) { ((uint8_t*)to)[(c * P + p) / 8] |= (uint8_t)(1 << (c * P + p) % 8); });
            else
                for (int64_t c = 0; c < w.C; c++) ((float*)to)[c * P + p] = from.values_at(image, t, p)[c * from.channel];
        }
    }
}

}  // namespace PK_TARGET
