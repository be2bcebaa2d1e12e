// For convolutions in which many inputs are active at a step: a matrix product of the values in the windows of some output
// pixels and the weights. Each sum is added up in the order of rows.cpp, so the results are bit-equal.
#include "products.h"
#include "senders.h"

namespace PK_TARGET {

// The windows of a task's pixels, at all steps.
struct DenseWindows {
    static constexpr int64_t stride = DenseScratch::stride;
    const SigmaDeltaCall& call;
    const SigmaDelta& s;
    const DenseScratch& scratch;
    const int64_t first, count;  // range in the call's list of output pixels
    int64_t filled = 0;

    DenseWindows(const SigmaDeltaCall& call, const DenseScratch& scratch, int64_t first)
        : call(call), s(call.s), scratch(scratch), first(first), count(least(dense_rows, call.count - first)) {}

    // Computes the sums of all `count` pixels; returns the number of weights added.
    template <int channels>
    int64_t multiply(int64_t channel, const float* weight, int64_t row) {
        const int64_t windows = count * s.T_in, frame = s.H * s.W * s.C_in;
        // Without dilation, the columns of a window are contiguous.
        const int64_t runs = s.dilation_w == 1 ? 1 : s.kernel_w, run = s.kernel_w / runs * s.C_in;
        const int n = (int)least(s.C - channel, channels);
        int64_t events = 0;
        for (int64_t from = 0; from < windows; from += dense_rows) {
            const int64_t some = least(dense_rows, windows - from);
            float* const of_these = scratch.sums + from * channels;
            int64_t frame_at[dense_rows], top[dense_rows], left[dense_rows];
            for (int64_t r = 0; r < some; r++) {
                const int64_t place = call.place(first + (from + r) / s.T_in), t = (from + r) % s.T_in;
                const int64_t image = place / s.P, pixel = place % s.P;
                frame_at[r] = (image * s.T_in + t) * frame;
                top[r] = pixel / s.W_out * s.stride_h - s.padding_h, left[r] = pixel % s.W_out * s.stride_w - s.padding_w;
                store_block(of_these + r * channels, besides<channels>(s, t, (image * s.T + t) * s.P + pixel, channel, n));
            }
            filled = 0;
            for (int64_t ky = 0; ky < s.kernel_h; ky++)
                for (int64_t kx = 0; kx < runs; kx++)
                    for (int64_t i = 0; i < run; i += 64) {
                        const int64_t inputs = least(64, run - i);
                        for (int64_t r = 0; r < some; r++) {
                            const int64_t y = top[r] + ky * s.dilation_h, z = left[r] + kx * s.dilation_w;
                            const bool inside = y >= 0 && y < s.H;
                            const int64_t begin = -z * s.C_in - i, end = (s.W - z) * s.C_in - i;
                            const int64_t at = frame_at[r] + (y * s.W + z) * s.C_in + i;
                            events += copy(at, inputs, inside ? begin : inputs, end, scratch.values + r * stride + filled);
                        }
                        filled += inputs;
                        if (filled < dense_depth) continue;
                        multiply_filled<channels>(some, weight, row, of_these);
                        weight += filled * row, filled = 0;
                    }
            multiply_filled<channels>(some, weight, row, of_these);
            weight -= (s.kernel_h * s.kernel_w * s.C_in - filled) * row;
        }
        return events * n;
    }

    // The sums of the task's i-th pixel at step t.
    template <int channels>
    Lanes<channels> sum(int64_t i, int64_t t) const {
        return load_block<channels>(scratch.sums + (i * s.T_in + t) * channels);
    }

private:
    // Copies at most 64 values of a window. Those in begin .. end - 1 lie in the image, the others are written as 0. Returns
    // the number of non-zero values.
    OUT_OF_LINE int64_t copy(int64_t at, int64_t inputs, int64_t begin, int64_t end, float* to) const {
        if (s.real) return copy_values((const float*)s.x + at, inputs, begin, end, to);
        return copy_values((const int8_t*)s.x + at, inputs, begin, end, to);
    }
    template <class Value>
    static int64_t copy_values(const Value* from, int64_t inputs, int64_t begin, int64_t end, float* to) {
        if (begin <= 0 && end >= inputs) {
            for (int64_t i = 0; i < inputs; i += Vec::width) store(to + i, load_values(from + i, inputs - i));
            return __builtin_popcountll(not_zero(from, inputs));
        }
        for (int64_t i = 0; i < inputs; i += Vec::width) store(to + i, broadcast(0.0f));
        int64_t events = 0;
        for (int64_t i = begin > 0 ? begin : 0; i < least(end, inputs); i++) to[i] = value_of(from[i]), events += from[i] != 0;
        return events;
    }

    template <int channels>
    void multiply_filled(int64_t some, const float* weight, int64_t row, float* of_these) {
        constexpr int vecs = channels / Vec::width, rows = rows_of_tile(vecs);
        for (int64_t r = 0; r < some; r += rows)
            multiply_tile<rows, vecs>(scratch.values + r * stride, stride, filled, weight, row, of_these + r * channels,
                                      channels);
    }
};

void dense_task(const SigmaDeltaCall& call, int64_t task, DenseScratch& scratch, Counted& counted) {
    const SigmaDelta& s = call.s;
    const int64_t groups = ceil_div(call.count, dense_rows), channel = Passes(s).channel(s, task / groups);
    const SigmaDeltaRows rows(s, channel);
    DenseWindows windows(call, scratch, task % groups * dense_rows);
    with_channels(s, channel, [&](auto channels) {
        counted.additions += windows.multiply<channels>(channel, rows.weight, rows.row);
        fire_places<channels>(call, windows.first, windows.first + windows.count, channel, counted,
                              [&](int64_t i, int64_t, int64_t t) { return windows.sum<channels>(i - windows.first, t); });
    });
}

// These rates were measured. Adding rows is as fast if the sums of several steps, or of many channels, fit registers; and it
// skips silent inputs.
double dense_rate(const SigmaDeltaCall& call) {
    constexpr double never = 2;
    const SigmaDelta& s = call.s;
    if (!s.x || s.groups > 1 || call.count * s.T_in < dense_rows) return never;
    if (can_scatter(s)) return 0.9;
    if (s.C <= 16) return 0.1;
    const int64_t sums = ceil_div(least(s.C, row_pass), Vec::width) * least(s.T_in, steps_together);
    return sums > 4 ? never : Vec::width == 16 ? 0.33 : 0.75;
}

template <class Value>
static double rate_of_values(const SigmaDelta& s) {
    const int64_t values = s.N * s.T_in * s.H * s.W * s.C_in, every = 64 * (1 + values / (64 << 10));
    int64_t events = 0, seen = 0;
    for (int64_t i = 0; i < values; i += every) {
        const int64_t n = least(64, values - i);
        events += __builtin_popcountll(not_zero((const Value*)s.x + i, n));
        seen += n;
    }
    return seen ? (double)events / (double)seen : 0;
}
double rate_of(const SigmaDelta& s) { return s.real ? rate_of_values<float>(s) : rate_of_values<int8_t>(s); }

}  // namespace PK_TARGET
