// All T steps of IF neurons on given currents, in one pass: potentials stay in registers, spikes leave as bits.
#pragma once
#include "cpu_kernels.h"
#include "neurons.h"

namespace PK_TARGET {

template <class Reset>
static void scan_block(const Scan& s, const Reset& neuron, int64_t pixel, int64_t channel) {
    const Neurons& n = s.neurons;
    const int channels = n.C - channel < block ? (int)(n.C - channel) : block;
    const int64_t bytes = (n.C + 7) / 8;
    const float* current = s.current + pixel * n.C + channel;
    uint8_t* out = n.spikes + ((pixel / n.P) * n.T * n.P + pixel % n.P) * bytes + channel / 8;
    float* state = n.v + pixel * n.C + channel;
    Block v = load_block(state, channels);
    for (int64_t t = 0; t < n.T; t++) {
        store_spikes(out, neuron.step(v, load_block(current, channels)), channels);
        current += s.time_stride;
        out += n.P * bytes;
    }
    store_block(state, v, channels);
}

static void if_scan(const Scan* s) {
    const Neurons& n = s->neurons;
    const int64_t blocks = (n.C + block - 1) / block;
#pragma omp parallel for schedule(static)
    for (int64_t unit = 0; unit < n.N * n.P * blocks; unit++) {
        const int64_t pixel = unit / blocks, channel = unit % blocks * block;
        const Block theta = load_block(n.theta + channel);
        if (n.soft_reset) scan_block(*s, SoftReset{theta}, pixel, channel);
        else scan_block(*s, HardReset{theta, broadcast(n.v_reset)}, pixel, channel);
    }
}

}  // namespace PK_TARGET
