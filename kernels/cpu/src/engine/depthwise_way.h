// Depthwise convolutions of spikes, for any number of steps (../conv2d/depthwise.h). A task is a band of rows of one image.
#pragma once
#include "../conv2d/depthwise.h"
#include "convolution.h"

namespace PK_TARGET {

struct Depthwise {
    const Conv2d c;
    const int64_t rows, bands;

    Depthwise(const Op& op, const Neurons& neurons, const View& x, const uint8_t*, int64_t threads)
        : c(conv_of(op, neurons, x, nullptr, op.windows[0].depthwise)),
          rows(band_rows(op.H, neurons.N, threads)),
          bands(ceil_div(op.H, rows)) {}

    static bool fits(const Op& op) { return op.is_conv && op.count == 1 && op.windows[0].depthwise; }
    static int64_t room(const Op& op) {
        if (!fits(op)) return 0;
        Carver carver{nullptr};
        DepthwiseTaps taps;
        taps.borrow(carver, op.conv);
        return carver.bytes;
    }
    int64_t tasks() const { return c.neurons.N * bands; }

    void run(const View& x, int64_t task, char* scratch, int64_t* tally) const {
        DepthwiseTaps taps;
        Carver carver{scratch};
        taps.borrow(carver, c);
        const Neurons& n = c.neurons;
        Region out{task / bands, 1, task % bands * rows, 0, 0, n.T};
        out.rows = least(rows, n.P / c.W_out - out.row);
        const int64_t first = out.image * n.P + out.row * c.W_out;
        with_model_or_sums(n.neuron,
                           [&](auto model) { fire_depthwise_pixels(c, model, first, first + out.rows * c.W_out, taps); });
        if (!tally) return;
        tally[0] += count_of(c, n.spikes, out, 0, n.C);
        tally[1] += seen_spikes(c, x.frames(), input_of(c, out), out);
    }
};

}  // namespace PK_TARGET
