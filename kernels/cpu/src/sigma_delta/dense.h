// Where many inputs of a convolution are not silent at a step: a product of matrices, of the values in the windows of some
// output pixels and the weights. Each sum is added up in the order of synapses.h, and so has the same bits.
#pragma once
#include "synapses.h"

namespace PK_TARGET {

constexpr int64_t dense_rows = 24;     // pixels of a task, and windows that are multiplied at a time
constexpr int64_t dense_depth = 1024;  // values of a window that are multiplied at a time

// Windows whose sums have registers at a time, of some vectors of channels: a divisor of dense_rows.
constexpr int rows_of_tile(int vecs) {
    int rows = 12;
    while (rows > 1 && (dense_rows % rows || (rows + 1) * vecs + 1 > (Vec::width == 16 ? 32 : 16))) rows--;
    return rows;
}

// Adds `depth` values of each window times their weights to its sums.
template <int rows, int vecs>
static inline void multiply_tile(const float* values, int64_t stride, int64_t depth, const float* weight, int64_t row,
                                 float* sums) {
    Vec sum[rows][vecs];
    each<rows>([&](auto r) { each<vecs>([&](auto v) { sum[r][v] = load(sums + (r * vecs + v) * Vec::width); }); });
    for (int64_t k = 0; k < depth; k++, weight += row) {
        Vec weights[vecs];
        each<vecs>([&](auto v) { weights[v] = load(weight + v * Vec::width); });
        each<rows>([&](auto r) {
            const Vec value = broadcast(values[r * stride + k]);
            each<vecs>([&](auto v) { sum[r][v] = multiply_add(value, weights[v], sum[r][v]); });
        });
    }
    each<rows>([&](auto r) { each<vecs>([&](auto v) { store(sums + (r * vecs + v) * Vec::width, sum[r][v]); }); });
}

// What a thread works on: the windows of a task's pixels, at all steps.
template <class Value>
struct DenseWindows {
    static constexpr int64_t stride = dense_depth + 64 + Vec::width;  // 64 more fit, and a vector is stored whole
    const SigmaDelta& s;
    Memory<float> values, sums;  // [dense_rows][stride]; [place, step][channels]
    int64_t first = 0, count = 0, filled = 0;

    explicit DenseWindows(const SigmaDelta& s)
        : s(s), values(dense_rows * stride), sums((s.T_in + 1) * dense_rows * row_pass) {}

    // All sums of `count` places from `first` on; returns the weights added.
    template <int channels>
    int64_t multiply(int64_t channel, const float* weight, int64_t row) {
        const int64_t windows = count * s.T_in, frame = s.H * s.W * s.C_in;
        // Columns of a window lie side by side.
        const int64_t runs = s.dilation_w == 1 ? 1 : s.kernel_w, run = s.kernel_w / runs * s.C_in;
        const int n = (int)least(s.C - channel, channels);
        int64_t events = 0;
        for (int64_t from = 0; from < windows; from += dense_rows) {
            const int64_t some = least(dense_rows, windows - from);
            float* const of_these = sums.data + from * channels;
            const Value* x[dense_rows];
            int64_t top[dense_rows], left[dense_rows];
            for (int64_t r = 0; r < some; r++) {
                const int64_t place = first + (from + r) / s.T_in, t = (from + r) % s.T_in;
                const int64_t image = place / s.P, pixel = place % s.P;
                x[r] = (const Value*)s.x + (image * s.T_in + t) * frame;
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
                            events += copy(x[r] + (y * s.W + z) * s.C_in + i, inputs, inside ? begin : inputs, end, r);
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

    // The sums of a place at step t.
    template <int channels>
    Lanes<channels> sum(int64_t place, int64_t t) const {
        return load_block<channels>(sums.data + ((place - first) * s.T_in + t) * channels);
    }

private:
    // 64 values of a window at most, of which those from `begin` to `end` lie in the image, and the others are zeros; returns
    // how many are not zero.
    int64_t copy(const Value* from, int64_t inputs, int64_t begin, int64_t end, int64_t r) {
        float* const to = values.data + r * stride + filled;
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
            multiply_tile<rows, vecs>(values.data + r * stride, stride, filled, weight, row, of_these + r * channels);
    }
};

// As rows_sigma_delta.
template <class Value>
static void dense_sigma_delta(const SigmaDelta& s) {
    const int64_t places = s.N * s.P, groups = ceil_div(places, dense_rows), tasks = groups * ceil_div(s.C, row_pass);
    int64_t additions = 0, spikes = 0;
#pragma omp parallel reduction(+ : additions, spikes)
    {
        DenseWindows<Value> windows(s);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; task++) {
            const int64_t channel = task / groups * row_pass, block = channel / sigma_delta_row * sigma_delta_row;
            const float* const weight = s.weight + block * s.kernel_h * s.kernel_w * s.C_in + (channel - block);
            windows.first = task % groups * dense_rows;
            windows.count = least(dense_rows, places - windows.first);
            each<row_pass / Vec::width>([&](auto before) {
                constexpr int channels = (before + 1) * Vec::width;
                if (ceil_div(least(s.C - channel, row_pass), Vec::width) * Vec::width != channels) return;
                additions += windows.template multiply<channels>(channel, weight, row_of(s, block));
                for (int64_t place = windows.first; place < windows.first + windows.count; place++)
                    spikes += fire_sigma_delta<channels>(
                        s, place / s.P, place % s.P, channel, [&](int64_t t, auto steps, auto* sums) {
                            each<steps>([&](auto k) { sums[k] = windows.template sum<channels>(place, t + k); });
                        });
            });
        }
    }
    s.counts[0] += spikes, s.counts[1] += additions;
}

// The share of inputs that are not silent, from which on products of matrices take less time: measured. Adding rows is as fast
// where the sums of several steps, or of many channels, have registers at once; and it leaves out what is silent.
static inline double dense_rate(const SigmaDelta& s) {
    constexpr double never = 2;
    if (s.N * s.P * s.T_in < dense_rows) return never;
    if (s.C <= 16) return 0.1;
    const int64_t sums = ceil_div(least(s.C, row_pass), Vec::width) * least(s.T_in, steps_together);
    return sums > 4 ? never : Vec::width == 16 ? 0.33 : 0.75;
}

// The share of the inputs that are not silent, of a part of them.
template <class Value>
static double rate_of(const SigmaDelta& s) {
    const int64_t values = s.N * s.T_in * s.H * s.W * s.C_in, every = 64 * (1 + values / (64 << 10));
    int64_t events = 0, seen = 0;
    for (int64_t i = 0; i < values; i += every) {
        const int64_t n = least(64, values - i);
        events += __builtin_popcountll(not_zero((const Value*)s.x + i, n));
        seen += n;
    }
    return seen ? (double)events / (double)seen : 0;
}

}  // namespace PK_TARGET
