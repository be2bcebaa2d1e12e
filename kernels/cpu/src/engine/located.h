// The place of a task of neurons: its samples, rows and pixels, and the inputs under their windows.
#pragma once
#include "tasks.h"

namespace PK_TARGET {

struct Located {
    Session& session;
    const Op& op;
    const Tasks& cut;

    Scratch* s = nullptr;
    int64_t image = 0, first_row = 0, last_row = 0, first_pixel = 0;  // the band; in layers of one pixel, `image` is the first
    int64_t pixels = 0, copies = 0;  // counts of the batch
    int64_t input_row[most_windows] = {},
            input_rows[most_windows] = {};  // for each window: first row under the band, and count

    View views[most_windows];  // the inputs of the windows, from the first step of the task on

    const View& view(const Window& w) const { return views[&w - op.windows]; }
    bool is_listed(const Window& w) const { return w.rows && view(w).spikes; }

    // The image, and the pixel, of the i-th pixel of the batch.
    int64_t image_of(int64_t i) const { return cut.one_pixel ? image + s->pixels[i] : image; }
    int64_t pixel_of(int64_t i) const { return cut.one_pixel ? 0 : s->pixels[i]; }
    int64_t in_band(int64_t i) const { return s->pixels[i] - first_pixel; }

    // Calls visit(tap, pixel) for the input pixels of the i-th pixel's window, except those in the padding.
    template <class Visit>
    void each_tap(const Window& w, int64_t i, Visit visit) const {
        const int64_t pixel = pixel_of(i), top = pixel / op.W * w.stride_h - w.padding_h;
        const int64_t left = pixel % op.W * w.stride_w - w.padding_w;
        for (int64_t ky = 0; ky < w.kernel_h; ky++) {
            const int64_t y = top + ky * w.dilation_h;
            if (y < 0 || y >= w.H) continue;
            for (int64_t kx = 0; kx < w.kernel_w; kx++) {
                const int64_t x = left + kx * w.dilation_w;
                if (x >= 0 && x < w.W) visit(ky * w.kernel_w + kx, y * w.W + x);
            }
        }
    }
};

}  // namespace PK_TARGET
