// Describes a layer to the kernels of ../conv2d, and counts what simulate reports about a part of it: spikes, and additions of
// weights to potentials.
#pragma once
#include "session.h"

namespace PK_TARGET {

// Whether there are enough samples and steps for the kernels of ../conv2d to pay. With fewer, rows of weights are added by
// patterns, which is slow for grouped convolutions.
static bool is_enough(const Op& op, int64_t N, int64_t steps) {
    constexpr int64_t least_steps = 8, least_uses = 256, uses_of_layer = 8;  // steps of a segment; samples * pixels * steps
    if (op.is_layer && op.P() > 1) return op.is_long;  // weights are packed for one or the other
    const int64_t uses = N * op.P() * steps;
    return (steps >= least_steps || op.conv.groups > 1) && uses >= (op.is_layer ? uses_of_layer : least_uses);
}

// The sizes of an operation's neurons, without their parameters and states.
static Neurons shape_of(const Op& op, int64_t N, int64_t steps) {
    Neurons n{};
    n.T = steps, n.N = N, n.P = op.P(), n.C = op.C;
    return n;
}

static Pooling pooling_of(const Op& pool) {
    const Window& w = pool.windows[0];
    return {w.kernel_h, w.kernel_w, w.stride_h, w.stride_w, w.padding_h, w.padding_w, w.H, w.W};
}

// Output rows of one task, for an image of `rows` output rows.
static int64_t band_rows(int64_t rows, int64_t N, int64_t threads) {
    const int64_t wanted = threads > 1 ? 3 * threads : 1;
    return least(rows, most(1, rows * most(N, 1) / wanted));
}

// `shortcut`: spikes that are added to the currents, or null.
static Conv2d conv_of(const Op& op, const Neurons& neurons, const View& x, const uint8_t* shortcut, const void* weight) {
    Conv2d c = op.conv;
    c.neurons = neurons, c.x = x.spikes, c.x_image = x.image, c.shortcut = shortcut, c.weight = weight;
    return c;
}

// Number of outputs in [first, last) whose windows contain input `at`, along one axis.
static int64_t windows_over(int64_t at, int64_t first, int64_t last, int64_t kernel, int64_t stride, int64_t padding,
                            int64_t dilation) {
    int64_t n = 0;
    for (int64_t k = 0; k < kernel; k++) {
        const int64_t from = at + padding - k * dilation;
        n += from >= first * stride && from < last * stride && (stride == 1 || from % stride == 0);  // division is slow
    }
    return n;
}

// Counts the spikes of `in`, each once for every window of `out` that contains it. Goes frame by frame to read memory in order.
static int64_t seen_spikes(const Conv2d& c, const SpikeFrames& x, const Region& in, const Region& out) {
    constexpr int64_t most_together = 64;  // columns, and rows, per pass
    const int64_t bytes = (c.C_in + 7) / 8;
    int64_t sum = 0, across[most_together], down[most_together];
    for (int64_t left = 0; left < c.W; left += most_together) {
        const int64_t columns = least(most_together, c.W - left);
        for (int64_t i = 0; i < columns; i++)
            across[i] = windows_over(left + i, 0, c.W_out, c.kernel_w, c.stride_w, c.padding_w, c.dilation_w);
        for (int64_t top = in.row; top < in.row + in.rows; top += most_together) {
            const int64_t rows = least(most_together, in.row + in.rows - top);
            for (int64_t i = 0; i < rows; i++)
                down[i] = windows_over(top + i, out.row, out.row + out.rows, c.kernel_h, c.stride_h, c.padding_h, c.dilation_h);
            for (int64_t image = in.image; image < in.image + in.images; image++)
                for (int64_t t = 0; t < in.steps; t++)
                    for (int64_t row = 0; row < rows; row++) {
                        const uint8_t* const at = x.at(image, t, (top + row) * c.W + left);
                        if (is_silent(at, (columns - 1) * x.pixel + bytes)) continue;
                        int64_t spikes = 0;
                        for (int64_t i = 0, end; i < columns; i = end) {
                            for (end = i + 1; end < columns && across[end] == across[i]; end++);
                            spikes += across[i] * count_pixels(at + i * x.pixel, end - i, x.pixel, bytes);
                        }
                        sum += spikes * down[row];
                    }
        }
    }
    return sum;
}

// Counts the spikes of `out` in the channels [first, last), rounded out to whole bytes; `spikes` has the layout of the output.
static int64_t count_of(const Conv2d& c, const uint8_t* spikes, const Region& out, int64_t first, int64_t last) {
    const Neurons& n = c.neurons;
    const int64_t bytes = (n.C + 7) / 8, own = ceil_div(last, 8) - first / 8, pixels = out.rows * c.W_out;
    int64_t sum = 0;
    for (int64_t image = out.image; image < out.image + out.images; image++)
        for (int64_t t = 0; t < out.steps; t++) {
            const uint8_t* const at = spikes + ((image * n.T + t) * n.P + out.row * c.W_out) * bytes + first / 8;
            sum += count_pixels(at, pixels, bytes, own);
        }
    return sum;
}

// Adds the counts of a task to `tally`: its spikes, and its additions. The task of the first channels counts the additions of
// the input to all channels.
static inline void count_part(const Conv2d& c, const View& x, const Region& out, int64_t first, int64_t last, int64_t* tally) {
    if (!tally) return;
    tally[0] += count_of(c, c.neurons.spikes, out, first, last);
    if (!first) tally[1] += seen_spikes(c, x.frames(), input_of(c, out), out) * (c.neurons.C / c.groups);
    if (c.shortcut) tally[1] += count_of(c, c.shortcut, out, first, last);
}

// Stands in for a kernel that this instruction set lacks: it never fits.
struct NoKernel {
    NoKernel(const Op&, const Neurons&, const View&, const uint8_t*, int64_t) {}
    static bool fits(const Op&, int64_t, int64_t) { return false; }
    static int64_t room(const Op&, int64_t, int64_t, int64_t) { return 0; }
    int64_t tasks() const { return 0; }
    void run(const View&, int64_t, char*, int64_t*) const {}
};

}  // namespace PK_TARGET
