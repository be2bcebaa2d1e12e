// Convolution of spikes that are periodic, with the IF neuron in the same pass. A neuron that starts at rest, is reset to 0
// and receives the same current at every step repeats itself exactly, so its spikes are one number: its period p, and it
// fires at the steps t where p divides t + 1. Each input is then added once, not once a spike:
//
//     A[p] = sum of the weight rows of all inputs of period p,      I[t] = bias + sum of A[p] over all p that divide t + 1
//
// Few numbers divide t + 1 (4.4 on average up to 64), so most of the work is one addition an input that fires at all.
//
// Time goes in tiles of up to 64 steps. Inputs whose period is longer than a tile fire in it at most once, and have buckets
// of their own: one a step. The stages are those of event_conv2d.h, with buckets in the place of steps:
//
// 1. list_periods: for each input pixel, the channels that fire in this tile with their buckets, and how many each has.
// 2. sort_window: for one output pixel, the lists of all pixels in its window, sorted by bucket, in groups of four rows.
// 3. fire_periods: for 32 output channels at a time, add up the groups, then fire step by step.
#pragma once
#include "event_conv2d.h"

namespace PK_TARGET {

constexpr int64_t period_steps = 64, period_buckets = 2 * period_steps, no_bucket = period_buckets;

// Which periods meet which steps of a tile that starts at step `start`.
struct Divisors {
    Memory<uint8_t> bucket;  // of each period: p - 1 within a tile, period_steps + t beyond, or no_bucket
    uint8_t divisor[period_steps][period_steps], count[period_steps];  // buckets of the periods that divide t + 1
    explicit Divisors(int64_t longest) : bucket(longest + 1) {}
    void prepare(int64_t start, int64_t steps, int64_t longest) {
        bucket.data[0] = no_bucket;  // never fires
        for (int64_t p = 1; p <= longest; p++) {
            const int64_t next = ceil_div(start + 1, p) * p - start - 1;
            bucket.data[p] = (uint8_t)(next >= steps ? no_bucket : p <= period_steps ? p - 1 : period_steps + next);
        }
        for (int64_t t = 0; t < steps; t++) {
            count[t] = 0;
            for (int64_t p = 1; p <= period_steps; p++)
                if ((start + t + 1) % p == 0) divisor[t][count[t]++] = (uint8_t)(p - 1);
        }
    }
};

struct Periodic {
    uint32_t row, bucket;
};

// Memory of one thread.
struct PeriodLists {
    Divisors divisors;
    Memory<Periodic> input;            // [pixel of the band][C_in]
    Memory<uint16_t> input_count;  // [pixel of the band][bucket]
    Memory<uint32_t> input_length;
    Memory<int64_t> tap_pixel, tap_base;  // of each tap inside the image
    Memory<uint32_t> rows;                // of the window's groups, four each
    Memory<uint8_t> buckets;              // of each group
    int64_t groups = 0;
    alignas(64) float sums[period_buckets * block];
    PeriodLists(const PeriodConv2d& c, int64_t in_rows)
        : divisors(c.longest), input(in_rows * c.conv.W * c.conv.C_in + overrun),
          input_count(in_rows * c.conv.W * period_buckets), input_length(in_rows * c.conv.W),
          tap_pixel(c.conv.kernel_h * c.conv.kernel_w), tap_base(c.conv.kernel_h * c.conv.kernel_w),
          rows(weight_rows(c.conv) + period_buckets * group), buckets(weight_rows(c.conv) / group + period_buckets) {}
};

static void list_periods(const PeriodConv2d& c, const Part& in, PeriodLists& lists) {
    const int64_t C = c.conv.C_in, pixels = in.rows * c.conv.W;
    const uint16_t* period = c.periods + (in.image * c.conv.H + in.row) * c.conv.W * C;
    for (int64_t pixel = 0; pixel < pixels; pixel++, period += C) {
        Periodic* list = lists.input.data + pixel * C;
        uint16_t* count = lists.input_count.data + pixel * period_buckets;
        memset(count, 0, period_buckets * sizeof *count);
        int64_t n = 0;
        for (int64_t i = 0; i < C; i++) {
            const uint8_t bucket = period[i] > c.longest ? no_bucket : lists.divisors.bucket.data[period[i]];
            list[n] = {(uint32_t)(i * block), bucket};
            if (bucket == no_bucket) continue;
            count[bucket]++;
            n++;
        }
        lists.input_length.data[pixel] = (uint32_t)n;
    }
}

OUT_OF_LINE static void sort_window(const Conv2d& c, const Part& in, int64_t y, int64_t x, PeriodLists& lists) {
    int64_t *const tap_pixel = lists.tap_pixel.data, *const tap_base = lists.tap_base.data, taps = 0;
    uint32_t count[period_buckets] = {};
    for (int64_t ky = 0; ky < c.kernel_h; ky++) {
        const int64_t iy = y * c.stride_h - c.padding_h + ky * c.dilation_h;
        if (iy < 0 || iy >= c.H) continue;
        for (int64_t kx = 0; kx < c.kernel_w; kx++) {
            const int64_t ix = x * c.stride_w - c.padding_w + kx * c.dilation_w;
            if (ix < 0 || ix >= c.W) continue;
            const int64_t pixel = (iy - in.row) * c.W + ix;
            const uint16_t* own = lists.input_count.data + pixel * period_buckets;
            for (int64_t b = 0; b < period_buckets; b++) count[b] += own[b];
            tap_pixel[taps] = pixel;
            tap_base[taps++] = (ky * c.kernel_w + kx) * c.C_in * block;
        }
    }
    const uint32_t zero_row = (uint32_t)(weight_rows(c) * block);
    uint32_t next[period_buckets];
    int64_t groups = 0;
    for (int64_t b = 0; b < period_buckets; b++) {
        next[b] = (uint32_t)(groups * group);
        const int64_t end = groups + ceil_div(count[b], group);
        for (; groups < end; groups++) lists.buckets.data[groups] = (uint8_t)b;
        for (int i = 0; i < group; i++)  // the last group may not be full
            if (count[b]) lists.rows.data[end * group - 1 - i] = zero_row;
    }
    lists.groups = groups;
    for (int64_t tap = 0; tap < taps; tap++) {
        const Periodic* list = lists.input.data + tap_pixel[tap] * c.C_in;
        for (const Periodic* end = list + lists.input_length.data[tap_pixel[tap]]; list < end; list++)
            lists.rows.data[next[list->bucket]++] = list->row + (uint32_t)tap_base[tap];
    }
}

// 32 output channels of one pixel, all steps of a tile.
template <class Reset>
OUT_OF_LINE static void fire_periods(const Conv2d& c, const Reset& neuron, const Part& in, int64_t pixel, int64_t channel,
                                     PeriodLists& lists) {
    const Neurons& n = c.neurons;
    const int channels = (int)least(n.C - channel, block);
    const int64_t bytes = (n.C + 7) / 8;
    const float* weight = (const float*)c.weight + channel * (weight_rows(c) + 1);
    float* const sums = lists.sums;
    memset(sums, 0, sizeof lists.sums);
    const uint32_t* row = lists.rows.data;
    for (int64_t g = 0; g < lists.groups; g++, row += group) {
        Block sum = load_block(weight + row[0]), other = load_block(weight + row[1]);
        add(sum, load_block(weight + row[2]));
        add(other, load_block(weight + row[3]));
        add(sum, other);
        float* const to = sums + lists.buckets.data[g] * block;
        add(sum, load_block(to));
        store_block(to, sum, block);
    }
    const Block bias = load_block(c.bias + channel), theta = load_block(n.theta + channel);
    uint8_t* out = n.spikes + ((in.image * n.T + in.t) * n.P + pixel) * bytes + channel / 8;
    float* state = n.v + (in.image * n.P + pixel) * n.C + channel;
    Block v = load_block(state, channels);
    for (int64_t t = 0; t < in.steps; t++, out += n.P * bytes) {
        Block current = load_block(sums + (period_steps + t) * block);
        for (int64_t i = 0; i < lists.divisors.count[t]; i++)
            add(current, load_block(sums + lists.divisors.divisor[t][i] * block));
        add(current, bias);
        store_spikes(out, step_block(neuron, v, current, theta), channels);
    }
    store_block(state, v, channels);
}

static void run_period_band(const PeriodConv2d& c, const Cut& cut, int64_t task, PeriodLists& lists) {
    const Neurons& n = c.conv.neurons;
    const int64_t first = task % cut.spans * cut.channels, last = least(n.C, first + cut.channels);
    Part out{task / cut.spans / cut.bands, task / cut.spans % cut.bands * cut.rows, 0, 0, 0};
    out.rows = least(cut.rows, rows_out(c.conv) - out.row);
    for (; out.t < n.T; out.t += period_steps) {
        out.steps = least(period_steps, n.T - out.t);
        const Part in = input_of(c.conv, out);
        lists.divisors.prepare(c.start + out.t, out.steps, c.longest);
        list_periods(c, in, lists);
        for (int64_t pixel = out.row * c.conv.W_out; pixel < (out.row + out.rows) * c.conv.W_out; pixel++) {
            sort_window(c.conv, in, pixel / c.conv.W_out, pixel % c.conv.W_out, lists);
            with_reset(n, [&](const auto& neuron) {
                for (int64_t channel = first; channel < last; channel += block)
                    fire_periods(c.conv, neuron, in, pixel, channel, lists);
            });
        }
    }
}

static void period_conv2d(const PeriodConv2d* c) {
    const Cut cut = cut_work(c->conv, max_threads());
    const int64_t tasks = c->conv.neurons.N * cut.bands * cut.spans;
    const int64_t in_rows = input_rows(c->conv, cut.rows);
#pragma omp parallel
    {
        PeriodLists lists(*c, in_rows);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; task++) run_period_band(*c, cut, task, lists);
    }
}

}  // namespace PK_TARGET
