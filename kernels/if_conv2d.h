// Event-driven convolution with the IF neuron in the same pass. A multiplication by a spike is nothing (0) or an addition
// (1), so the current of 32 output channels is the sum of the weight rows of the inputs that fired: work in proportion to
// the spikes.
//
// For each output pixel and a tile of time steps, the inputs that fired in its window are listed once. Then, for each
// block of 32 output channels, the lists are walked step by step with the potentials in registers: sum the rows, fire,
// write four bytes. A fully connected layer is the same thing on an image of one pixel.
#pragma once
#include <cstdlib>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "cpu_kernels.h"
#include "neurons.h"

namespace PK_TARGET {

// Additions to one register wait for each other, so a block's sum is spread over several; eight registers in all hide
// the latency of an addition and still fit AVX2's sixteen.
constexpr int sums = vecs >= 8 ? 1 : 8 / vecs;

// Lists longer than this would leave the L2 cache; also the most steps in one tile.
constexpr int64_t tile_entries = 1 << 20, tile_steps = 128;

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// The inputs that fired, step by step: entry e of step t, offset[t] <= e < offset[t + 1], is the position of its row in
// a slice of the packed weights.
struct Events {
    uint32_t* entry;
    int64_t* offset;
};

static inline int64_t weight_rows(const Conv2d& c) { return c.kernel_h * c.kernel_w * c.C_in; }

static inline int64_t append_bytes(const uint8_t* bytes, int64_t n, uint32_t base, uint32_t* out) {
    int64_t count = 0;
    uint64_t word;
    for (; n >= 8; n -= 8, bytes += 8, base += 64 * block) {
        memcpy(&word, bytes, 8);
        if (word) count += append_set_bits(word, base, block, out + count);
    }
    word = 0;
    if (n >= 4) {
        uint32_t half;
        memcpy(&half, bytes, 4);
        word = half;
    }
    for (int64_t i = n & ~int64_t(3); i < n; i++) word |= (uint64_t)bytes[i] << (8 * i);
    return word ? count + append_set_bits(word, base, block, out + count) : count;
}

// The part of a window that lies inside the image: taps first <= k < last.
struct Taps {
    int64_t first, last;
};
static inline Taps taps_inside(int64_t origin, int64_t dilation, int64_t taps, int64_t size) {
    Taps r{0, taps};
    while (r.first < taps && origin + r.first * dilation < 0) r.first++;
    while (r.last > r.first && origin + (r.last - 1) * dilation >= size) r.last--;
    return r;
}

static void list_events(const Conv2d& c, int64_t image, int64_t pixel, int64_t t0, int64_t steps, Events events) {
    const int64_t bytes = (c.C_in + 7) / 8, row_bytes = c.W * bytes;
    const int64_t y0 = pixel / c.W_out * c.stride_h - c.padding_h, x0 = pixel % c.W_out * c.stride_w - c.padding_w;
    const Taps ys = taps_inside(y0, c.dilation_h, c.kernel_h, c.H), xs = taps_inside(x0, c.dilation_w, c.kernel_w, c.W);
    // Neighbouring taps of a row lie side by side in memory and in the weights: read them as one string of bits.
    const bool joined = c.dilation_w == 1 && c.C_in % 8 == 0;
    const int64_t run = joined ? most(xs.last - xs.first, 1) : 1;
    int64_t n = 0;
    for (int64_t t = 0; t < steps; t++) {
        const uint8_t* x = c.x + (image * c.neurons.T + t0 + t) * c.H * row_bytes;
        events.offset[t] = n;
        for (int64_t ky = ys.first; ky < ys.last; ky++) {
            const uint8_t* row = x + (y0 + ky * c.dilation_h) * row_bytes;
            for (int64_t kx = xs.first; kx < xs.last; kx += run) {
                const uint32_t base = (uint32_t)((ky * c.kernel_w + kx) * c.C_in * block);
                n += append_bytes(row + (x0 + kx * c.dilation_w) * bytes, run * bytes, base, events.entry + n);
            }
        }
        // Whole groups of `sums` rows: fill up with the zero row.
        while ((n - events.offset[t]) % sums) events.entry[n++] = (uint32_t)(weight_rows(c) * block);
    }
    events.offset[steps] = n;
}

template <class Reset>
static void fire_block(const Conv2d& c, const Reset& neuron, int64_t image, int64_t pixel, int64_t t0, int64_t steps,
                       int64_t channel, Events events) {
    const Neurons& n = c.neurons;
    const int channels = (int)least(n.C - channel, block);
    const int64_t bytes = (n.C + 7) / 8;
    const float* weight = c.weight + channel * (weight_rows(c) + 1);
    const Block bias = load_block(c.bias + channel);
    uint8_t* out = n.spikes + ((image * n.T + t0) * n.P + pixel) * bytes + channel / 8;
    float* state = n.v + (image * n.P + pixel) * n.C + channel;
    Block v = load_block(state, channels);
    for (int64_t t = 0; t < steps; t++, out += n.P * bytes) {
        Block sum[sums];
        sum[0] = bias;
        for (int s = 1; s < sums; s++) sum[s] = broadcast_block(0.0f);
        for (int64_t e = events.offset[t]; e < events.offset[t + 1]; e += sums)
            for (int s = 0; s < sums; s++) add(sum[s], load_block(weight + events.entry[e + s]));
        for (int s = 1; s < sums; s++) add(sum[0], sum[s]);
        store_spikes(out, neuron.step(v, sum[0]), channels);
    }
    store_block(state, v, channels);
}

// How the work is cut: bands of pixels of one image and, only where these are too few for the threads (a batch of one
// through a fully connected layer), spans of output channels.
struct Cut {
    int64_t bands, band, spans, span;
};
static Cut cut_work(const Conv2d& c, int threads) {
    const Neurons& n = c.neurons;
    const int64_t blocks = (n.C + block - 1) / block, wanted = 8 * threads;
    Cut cut;
    cut.band = most(1, n.P / most(1, (wanted + n.N - 1) / most(n.N, 1)));
    cut.bands = (n.P + cut.band - 1) / cut.band;
    const int64_t spans = least(blocks, most(1, wanted / most(1, n.N * cut.bands)));
    cut.span = (blocks + spans - 1) / most(spans, 1) * block;
    cut.spans = (n.C + cut.span - 1) / most(cut.span, 1);
    return cut;
}

static void run_band(const Conv2d& c, const Cut& cut, int64_t task, int64_t tile, Events events) {
    const Neurons& n = c.neurons;
    const int64_t first = task % cut.spans * cut.span, last = least(n.C, first + cut.span);
    const int64_t band = task / cut.spans % cut.bands * cut.band, image = task / cut.spans / cut.bands;
    for (int64_t t0 = 0; t0 < n.T; t0 += tile) {
        const int64_t steps = least(tile, n.T - t0);
        for (int64_t pixel = band; pixel < least(n.P, band + cut.band); pixel++) {
            list_events(c, image, pixel, t0, steps, events);
            for (int64_t channel = first; channel < last; channel += block) {
                const Block theta = load_block(n.theta + channel);
                if (n.soft_reset) fire_block(c, SoftReset{theta}, image, pixel, t0, steps, channel, events);
                else fire_block(c, HardReset{theta, broadcast(n.v_reset)}, image, pixel, t0, steps, channel, events);
            }
        }
    }
}

static void if_conv2d(const Conv2d* c) {
#if defined(_OPENMP)
    const int threads = omp_get_max_threads();
#else
    const int threads = 1;
#endif
    const int64_t rows = weight_rows(*c) + sums;
    const int64_t tile = least(c->neurons.T, most(1, least(tile_steps, tile_entries / rows)));
    const Cut cut = cut_work(*c, threads);
    const int64_t tasks = c->neurons.N * cut.bands * cut.spans;
#pragma omp parallel
    {
        const int64_t overrun = 16;  // append_set_bits writes whole vectors
        Events events{(uint32_t*)malloc((tile * rows + overrun) * sizeof(uint32_t)),
                      (int64_t*)malloc((tile + 1) * sizeof(int64_t))};
        if (!events.entry || !events.offset) abort();  // out of memory, and no caller inside a parallel region to tell
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; task++) run_band(*c, cut, task, tile, events);
        free(events.entry);
        free(events.offset);
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
