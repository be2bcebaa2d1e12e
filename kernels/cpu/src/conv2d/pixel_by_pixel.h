// Convolutions that run the neurons of a pixel through all steps, with the currents of a few steps in registers: depthwise ones
// of spikes, and 1x1 ones of values.
#pragma once
#include <type_traits>

#include "../neurons.h"
#include "../work.h"

namespace PK_TARGET {

// Runs all steps of 32 channels of an output pixel. add(t, steps, current) adds to the currents of `steps` steps from t on,
// which hold the bias already; steps is an integral constant, 1 or `together`.
template <int together, class Model, class Add>
static inline void fire_pixel(const Neurons& n, const float* biases, Model, int64_t place, int64_t channel, Add add) {
    const int channels = (int)least(n.C - channel, block);
    const int64_t bytes = (n.C + 7) / 8, image = place / n.P;
    uint8_t* const out = n.spikes + (image * n.T * n.P + place % n.P) * bytes + channel / 8;
    float* const kept = states_of<Model>(n, image, place % n.P, channel);
    const Block bias = load_block(biases + channel);
    const NeuronBlock<Model, block> neurons(n.neuron, channel);
    NeuronStates<Model::states, block> state;
    load_states<Model>(state, n, 0, image, place % n.P, channel, channels);
    for (int64_t t = 0; t < n.T;) {
        Block current[together];
        for (Block& sum : current) sum = bias;
        const int64_t steps = n.T - t < together ? 1 : together;
        if (steps == 1) add(t, std::integral_constant<int, 1>(), current);
        else add(t, std::integral_constant<int, together>(), current);
        for (int64_t i = 0; i < steps; i++, t++)
            store_spikes(out + t * n.P * bytes, step_block(neurons, state, current[i]), channels);
    }
    store_states(kept, n, state, channels);
}

// Depthwise: output channel c reads only input channel c. Lanes are channels, and the bits of an input pixel mask an addition,
// so nothing is unpacked.

// The taps of a window that lie inside the image, as offsets of their bits and of their weights.
struct DepthwiseTaps {
    Grown<int64_t> x, weight;
    int64_t count = 0;
    void borrow(Carver& carver, const Conv2d& c) {
        for (Grown<int64_t>* list : {&x, &weight}) list->borrow(carver, c.kernel_h * c.kernel_w);
    }
    void find(const Conv2d& c, int64_t pixel) {
        for (Grown<int64_t>* list : {&x, &weight}) list->reserve(c.kernel_h * c.kernel_w);
        const int64_t bytes = (c.C_in + 7) / 8, channels = ceil_div(c.C_in, block) * block;
        const int64_t top = pixel / c.W_out * c.stride_h - c.padding_h, left = pixel % c.W_out * c.stride_w - c.padding_w;
        count = 0;
        for (int64_t ky = 0, y = top; ky < c.kernel_h; ky++, y += c.dilation_h) {
            if (y < 0 || y >= c.H) continue;
            for (int64_t kx = 0, x_ = left; kx < c.kernel_w; kx++, x_ += c.dilation_w) {
                if (x_ < 0 || x_ >= c.W) continue;
                x.data[count] = (y * c.W + x_) * bytes;
                weight.data[count++] = (ky * c.kernel_w + kx) * channels;
            }
        }
    }
};

// Adds all taps to the currents of a few successive steps. Several independent sums hide the latency of the addition.
template <int steps>
static inline void add_taps(const DepthwiseTaps& taps, const uint8_t* x, int64_t frame, int64_t bytes, const float* weight,
                            Block* current) {
    for (int64_t tap = 0; tap < taps.count; tap++) {
        const uint8_t* const at = x + taps.x.data[tap];
        const float* const w = weight + taps.weight.data[tap];
        for (int t = 0; t < steps; t++) {
            uint32_t fired;
            if (bytes >= 4) memcpy(&fired, at + t * frame, 4);
            else fired = (uint32_t)load_bits(at + t * frame, bytes);
            for (int i = 0; i < vecs; i++) {
                Vec& sum = current[t].v[i];
                sum = add_where(mask_of(fired >> (i * Vec::width)), sum, load(w + i * Vec::width));
            }
        }
    }
}

// All steps of 32 channels of an output pixel.
template <class Model>
static void fire_depthwise(const Conv2d& c, Model model, int64_t place, int64_t channel, const DepthwiseTaps& taps) {
    constexpr int together = 4;  // steps
    const Neurons& n = c.neurons;
    const int64_t bytes = (n.C + 7) / 8, frame = x_frame(c);
    const uint8_t* const x = c.x + place / n.P * x_image(c) + channel / 8;
    const float* const weight = (const float*)c.weight + channel;
    fire_pixel<together>(n, c.bias, model, place, channel, [&](int64_t t, auto steps, Block* current) {
        add_taps<steps>(taps, x + t * frame, frame, bytes - channel / 8, weight, current);
        float* const to = n.currents + ((t * n.N + place / n.P) * n.P + place % n.P) * n.C + channel;
        for (int64_t i = 0; i < steps && n.currents; i++)
            store_block(to + i * n.N * n.P * n.C, current[i], (int)least(block, n.C - channel));
    });
}

// Packs weights [C][taps] in the order in which they are read: [tap][C, padded to a multiple of 32].
inline void pack_taps(const float* weight, float* packed, int64_t C, int64_t taps) {
    for (int64_t tap = 0; tap < taps; tap++)
        for (int64_t c = 0; c < ceil_div(C, block) * block; c++) *packed++ = c < C ? weight[c * taps + tap] : 0;
}

// Computes output pixels first .. last - 1, numbered through all images.
template <class Model>
static void fire_depthwise_pixels(const Conv2d& c, Model model, int64_t first, int64_t last, DepthwiseTaps& taps) {
    for (int64_t place = first; place < last; place++) {
        taps.find(c, place % c.neurons.P);
        for (int64_t channel = 0; channel < c.neurons.C; channel += block) fire_depthwise(c, model, place, channel, taps);
    }
}

}  // namespace PK_TARGET
