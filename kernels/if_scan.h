// All T steps of IF neurons on given currents, in one pass: potentials stay in registers, spikes leave as bits.
#pragma once
#include "cpu_kernels.h"
#include "neurons.h"

namespace PK_TARGET {

// A neuron's steps wait for each other, so several blocks of 32 neurons go through time side by side.
constexpr int side_by_side = vecs >= 8 ? 1 : 8 / vecs;

// One block's way through memory.
struct ScanBlock {
    const float* current;
    float* v;
    uint8_t* spikes;
    const float* theta;
    int channels;

    ScanBlock() = default;
    ScanBlock(const Scan& s, int64_t index) {
        const Neurons& n = s.neurons;
        const int64_t blocks = (n.C + block - 1) / block, pixel = index / blocks, channel = index % blocks * block;
        const int64_t bytes = (n.C + 7) / 8;
        current = s.current + pixel * n.C + channel;
        v = n.v + pixel * n.C + channel;
        spikes = n.spikes + ((pixel / n.P) * n.T * n.P + pixel % n.P) * bytes + channel / 8;
        theta = n.theta + channel;
        channels = n.C - channel < block ? (int)(n.C - channel) : block;
    }
};

template <int count, class MakeNeuron>
static void scan_blocks(const Scan& s, int64_t first, MakeNeuron make) {
    const int64_t step_bytes = s.neurons.P * ((s.neurons.C + 7) / 8);
    ScanBlock part[count];
    Block v[count];
    decltype(make(part[0].theta)) neuron[count];
    for (int i = 0; i < count; i++) {
        part[i] = ScanBlock(s, first + i);
        v[i] = load_block(part[i].v, part[i].channels);
        neuron[i] = make(part[i].theta);
    }
    for (int64_t t = 0; t < s.neurons.T; t++)
        for (int i = 0; i < count; i++) {
            const Block current = load_block(part[i].current + t * s.time_stride, part[i].channels);
            store_spikes(part[i].spikes + t * step_bytes, neuron[i].step(v[i], current), part[i].channels);
        }
    for (int i = 0; i < count; i++) store_block(part[i].v, v[i], part[i].channels);
}

template <class MakeNeuron>
static void scan_all(const Scan& s, MakeNeuron make) {
    const Neurons& n = s.neurons;
    const int64_t blocks = n.N * n.P * ((n.C + block - 1) / block);
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < blocks; first += side_by_side) {
        if (first + side_by_side <= blocks) scan_blocks<side_by_side>(s, first, make);
        else
            for (int64_t i = first; i < blocks; i++) scan_blocks<1>(s, i, make);
    }
}

static void if_scan(const Scan* s) {
    const Vec v_reset = broadcast(s->neurons.v_reset);
    if (s->neurons.soft_reset) scan_all(*s, [](const float* theta) { return SoftReset{load_block(theta)}; });
    else scan_all(*s, [=](const float* theta) { return HardReset{load_block(theta), v_reset}; });
}

}  // namespace PK_TARGET
