// Depthwise convolution with the IF neuron in the same pass: output channel c sees input channel c alone. The lanes are
// channels, and the bits of an input pixel are the mask of an addition, so nothing is unpacked.
#pragma once
#include "neurons.h"
#include "work.h"

namespace PK_TARGET {

// The taps of a window that lie inside the image: where their bits and their weights are.
struct DepthwiseTaps {
    Memory<int64_t> x, weight;
    int64_t count = 0;
    explicit DepthwiseTaps(const Conv2d& c) : x(c.kernel_h * c.kernel_w), weight(c.kernel_h * c.kernel_w) {}
    void find(const Conv2d& c, int64_t pixel) {
        const int64_t bytes = (c.C_in + 7) / 8, channels = ceil_div(c.C_in, block) * block;
        const int64_t top = pixel / c.W_out * c.stride_h - c.padding_h, left = pixel % c.W_out * c.stride_w - c.padding_w;
        count = 0;
        for (int64_t tap = 0; tap < c.kernel_h * c.kernel_w; tap++) {
            const int64_t y = top + tap / c.kernel_w * c.dilation_h, x_ = left + tap % c.kernel_w * c.dilation_w;
            if (y < 0 || y >= c.H || x_ < 0 || x_ >= c.W) continue;
            x.data[count] = (y * c.W + x_) * bytes;
            weight.data[count++] = tap * channels;
        }
    }
};

// All steps of 32 channels of an output pixel.
template <class Reset>
static void fire_depthwise(const Conv2d& c, const Reset& neuron, int64_t place, int64_t channel, const DepthwiseTaps& taps) {
    const Neurons& n = c.neurons;
    const int channels = (int)least(n.C - channel, block);
    const int64_t bytes = (n.C + 7) / 8, size = least(4, bytes - channel / 8);
    const int64_t frame = c.H * c.W * bytes, image = place / n.P;
    const uint8_t* x = c.x + image * n.T * frame + channel / 8;
    const float* const weight = (const float*)c.weight + channel;
    uint8_t* out = n.spikes + (image * n.T * n.P + place % n.P) * bytes + channel / 8;
    float* const state = n.v + place * n.C + channel;
    const Block bias = load_block(c.bias + channel), theta = load_block(n.theta + channel);
    const Vec zero = broadcast(0.0f);
    Block v = load_block(state, channels);
    for (int64_t t = 0; t < n.T; t++, x += frame, out += n.P * bytes) {
        Block current = bias;
        for (int64_t tap = 0; tap < taps.count; tap++) {
            uint32_t fired = 0;
            if (size == 4) memcpy(&fired, x + taps.x.data[tap], 4);
            else memcpy(&fired, x + taps.x.data[tap], size);
            if (!fired) continue;
            const float* const w = weight + taps.weight.data[tap];
            for (int i = 0; i < vecs; i++)
                current.v[i] = current.v[i] + select(mask_of(fired >> (i * Vec::width)), load(w + i * Vec::width), zero);
        }
        store_spikes(out, step_block(neuron, v, current, theta), channels);
    }
    store_block(state, v, channels);
}

// The weight is [tap][C, a multiple of 32].
static void depthwise_conv2d(const Conv2d* conv) {
    const Conv2d& c = *conv;
    const Neurons& n = c.neurons;
    with_reset(n, [&](const auto& neuron) {
#pragma omp parallel
        {
            DepthwiseTaps taps(c);
#pragma omp for schedule(dynamic, 16)
            for (int64_t place = 0; place < n.N * n.P; place++) {
                taps.find(c, place % n.P);
                for (int64_t channel = 0; channel < n.C; channel += block) fire_depthwise(c, neuron, place, channel, taps);
            }
        }
    });
}

}  // namespace PK_TARGET
