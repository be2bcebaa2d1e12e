// Event-driven convolution with the IF neuron in the same pass. A multiplication by a spike is nothing (0) or an addition
// (1), so the current of an output channel is the sum of the weights of the inputs that fired: work in proportion to the
// spikes. It goes in three stages, for a band of output rows and a tile of time steps:
//
// 1. list_inputs: for each input pixel and step, the channels that fired. Each bit is looked at once.
// 2. list_window: for one output pixel and each step, the lists of all pixels in its window, joined.
// 3. fire: for 32 output channels at a time, walk the window's lists step by step with the potentials in registers: add
//    the weight rows, fire, write the spikes.
//
// A fully connected layer is the same thing on an image of one pixel.
#pragma once
#include "neurons.h"
#include "work.h"

namespace PK_TARGET {

// Limits of a tile and a band, so that their lists stay in the second-level cache: steps; entries of a window's lists if
// everything fired; lists of input pixels (a pixel and step each).
constexpr int64_t tile_steps = 64, tile_entries = 1 << 20, band_lists = 1 << 17;

// A window's list is filled up to a whole number of rows, so that they can be summed in groups.
constexpr int group = 4;
constexpr int overrun = 16;  // vectors are read and written whole, past the end of a list

static inline int64_t weight_rows(const Conv2d& c) { return c.kernel_h * c.kernel_w * c.C_in; }

// Memory of one thread that grows when needed. Entries are positions in a slice of the packed weights.
struct Lists {
    uint32_t* input = nullptr;         // what fired, of all input pixels of a band
    uint32_t* input_start = nullptr;   // [pixel of the band][step]: where its list starts in `input`; it ends at the next
    uint32_t* window = nullptr;        // what fired in the window of one output pixel
    int64_t* window_start = nullptr;   // [step]
    const uint32_t** tap_start = nullptr;  // [tap inside the image]: input_start of its pixel
    uint32_t* tap_base = nullptr;          // [tap inside the image]: position of its first weight row
    int64_t input_size = 0;
};

template <class T>
static T* reserve(T* memory, int64_t n) {
    memory = (T*)realloc((void*)memory, (n + overrun) * sizeof(T));
    if (!memory) abort();  // out of memory, and no caller inside a parallel region to tell
    return memory;
}

// How the work is cut: bands of output rows of one image and, only where these are too few for the threads (a batch of
// one through a fully connected layer), spans of output channels.
struct Cut {
    int64_t steps, rows, bands, channels, spans;
};

static Cut cut_work(const Conv2d& c, int threads) {
    const Neurons& n = c.neurons;
    const int64_t wanted = 4 * threads, blocks = ceil_div(n.C, block);
    Cut cut;
    cut.steps = most(1, least(least(n.T, tile_steps), tile_entries / weight_rows(c)));
    const int64_t for_threads = ceil_div(rows_out(c), ceil_div(wanted, most(n.N, 1)));
    const int64_t for_cache = band_lists / (cut.steps * c.W * c.stride_h);
    cut.rows = most(1, least(for_threads, for_cache));
    cut.bands = ceil_div(rows_out(c), cut.rows);
    cut.channels = ceil_div(blocks, least(blocks, most(1, wanted / most(1, n.N * cut.bands)))) * block;
    cut.spans = ceil_div(n.C, cut.channels);
    return cut;
}

// A part of an image at some time: output rows of a band or input rows under it, and steps.
struct Part {
    int64_t image, row, rows, t, steps;
};

static Part input_of(const Conv2d& c, const Part& out) {
    const int64_t first = out.row * c.stride_h - c.padding_h;
    const int64_t last = first + (out.rows - 1) * c.stride_h + (c.kernel_h - 1) * c.dilation_h + 1;
    Part in = out;
    in.row = least(most(first, 0), c.H);
    in.rows = most(least(last, c.H) - in.row, 0);
    return in;
}

static void list_inputs(const Conv2d& c, const Part& in, Lists& lists) {
    const int64_t bytes = (c.C_in + 7) / 8, frame = c.H * c.W * bytes, pixels = in.rows * c.W;
    const uint8_t* x = c.x + (in.image * c.neurons.T + in.t) * frame + in.row * c.W * bytes;
    int64_t spikes = 0;
    for (int64_t t = 0; t < in.steps; t++) spikes += count_bits(x + t * frame, pixels * bytes);
    if (spikes > lists.input_size) lists.input = reserve(lists.input, lists.input_size = spikes);
    int64_t n = 0;
    uint32_t* start = lists.input_start;
    for (int64_t pixel = 0; pixel < pixels; pixel++)
        for (int64_t t = 0; t < in.steps; t++) {
            *start++ = (uint32_t)n;
            n += append_set_bits(x + t * frame + pixel * bytes, bytes, 0, block, lists.input + n);
        }
    *start = (uint32_t)n;
}

OUT_OF_LINE static void list_window(const Conv2d& c, const Part& in, int64_t y, int64_t x, Lists& lists) {
    int64_t taps = 0;
    for (int64_t ky = 0; ky < c.kernel_h; ky++) {
        const int64_t iy = y * c.stride_h - c.padding_h + ky * c.dilation_h;
        if (iy < 0 || iy >= c.H) continue;
        for (int64_t kx = 0; kx < c.kernel_w; kx++) {
            const int64_t ix = x * c.stride_w - c.padding_w + kx * c.dilation_w;
            if (ix < 0 || ix >= c.W) continue;
            lists.tap_start[taps] = lists.input_start + ((iy - in.row) * c.W + ix) * in.steps;
            lists.tap_base[taps++] = (uint32_t)((ky * c.kernel_w + kx) * c.C_in * block);
        }
    }
    const uint32_t zero_row = (uint32_t)(weight_rows(c) * block);
    const uint32_t *const input = lists.input, *const *const tap_start = lists.tap_start, *const base = lists.tap_base;
    uint32_t* end = lists.window;
    for (int64_t t = 0; t < in.steps; t++) {
        const uint32_t* begin = end;
        lists.window_start[t] = begin - lists.window;
        for (int64_t tap = 0; tap < taps; tap++) {
            const uint32_t first = tap_start[tap][t], last = tap_start[tap][t + 1];
            end = append_shifted(input + first, last - first, base[tap], end);
        }
        while ((end - begin) % group) *end++ = zero_row;
    }
    lists.window_start[in.steps] = end - lists.window;
}

// 32 output channels of one pixel, all steps of a tile. Additions to one register wait for each other, so a sum is spread
// over several: eight registers in all hide the latency of an addition, and still fit the sixteen of AVX2.
template <class Reset>
OUT_OF_LINE static void fire(const Conv2d& c, const Reset& neuron, const Part& in, int64_t pixel, int64_t channel,
                             const Lists& lists) {
    constexpr int sums = vecs >= 8 ? 1 : 8 / vecs;
    static_assert(group % sums == 0, "a group is a whole number of rounds");
    const Neurons& n = c.neurons;
    const int channels = (int)least(n.C - channel, block);
    const int64_t bytes = (n.C + 7) / 8;
    const float* weight = (const float*)c.weight + channel * (weight_rows(c) + 1);
    const Block bias = load_block(c.bias + channel), theta = load_block(n.theta + channel);
    uint8_t* out = n.spikes + ((in.image * n.T + in.t) * n.P + pixel) * bytes + channel / 8;
    float* state = n.v + (in.image * n.P + pixel) * n.C + channel;
    Block v = load_block(state, channels);
    for (int64_t t = 0; t < in.steps; t++, out += n.P * bytes) {
        Block sum[sums];
        sum[0] = bias;
        for (int s = 1; s < sums; s++) sum[s] = broadcast_block(0.0f);
        const uint32_t* end = lists.window + lists.window_start[t + 1];
        for (const uint32_t* entry = lists.window + lists.window_start[t]; entry < end; entry += sums)
            for (int s = 0; s < sums; s++) add(sum[s], load_block(weight + entry[s]));
        for (int s = 1; s < sums; s++) add(sum[0], sum[s]);
        store_spikes(out, step_block(neuron, v, sum[0], theta), channels);
    }
    store_block(state, v, channels);
}

static void run_band(const Conv2d& c, const Cut& cut, int64_t task, Lists& lists) {
    const Neurons& n = c.neurons;
    const int64_t first = task % cut.spans * cut.channels, last = least(n.C, first + cut.channels);
    Part out{task / cut.spans / cut.bands, task / cut.spans % cut.bands * cut.rows, 0, 0, 0};
    out.rows = least(cut.rows, rows_out(c) - out.row);
    for (; out.t < n.T; out.t += cut.steps) {
        out.steps = least(cut.steps, n.T - out.t);
        const Part in = input_of(c, out);
        list_inputs(c, in, lists);
        for (int64_t pixel = out.row * c.W_out; pixel < (out.row + out.rows) * c.W_out; pixel++) {
            list_window(c, in, pixel / c.W_out, pixel % c.W_out, lists);
            with_reset(n, [&](const auto& neuron) {
                for (int64_t channel = first; channel < last; channel += block)
                    fire(c, neuron, in, pixel, channel, lists);
            });
        }
    }
}

static void event_conv2d(const Conv2d* c) {
    const Cut cut = cut_work(*c, max_threads());
    const int64_t tasks = c->neurons.N * cut.bands * cut.spans, taps = c->kernel_h * c->kernel_w;
    const int64_t in_rows = input_rows(*c, cut.rows);
#pragma omp parallel
    {
        Lists lists;
        lists.input = reserve(lists.input, 0);
        lists.input_start = reserve(lists.input_start, in_rows * c->W * cut.steps + 1);
        lists.window = reserve(lists.window, (weight_rows(*c) + group) * cut.steps);
        lists.window_start = reserve(lists.window_start, cut.steps + 1);
        lists.tap_start = reserve(lists.tap_start, taps);
        lists.tap_base = reserve(lists.tap_base, taps);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; task++) run_band(*c, cut, task, lists);
        free(lists.input);
        free(lists.input_start);
        free(lists.window);
        free(lists.window_start);
        free((void*)lists.tap_start);
        free(lists.tap_base);
    }
}

static void pack_weight(const float* weight, float* packed, int64_t C_out, int64_t C_in, int64_t taps) {
    const int64_t rows = taps * C_in, blocks = (C_out + block - 1) / block;
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < blocks; b++) {
        float* slice = packed + b * (rows + 1) * block;
        const int64_t channels = least(block, C_out - b * block);
        memset(slice, 0, (rows + 1) * block * sizeof(float));
        for (int64_t i = 0; i < C_in; i++)
            for (int64_t tap = 0; tap < taps; tap++)
                for (int64_t o = 0; o < channels; o++)
                    slice[(tap * C_in + i) * block + o] = weight[((b * block + o) * C_in + i) * taps + tap];
    }
}

}  // namespace PK_TARGET
