// All T steps of neurons on given currents, in one pass: their states stay in registers, spikes leave as bits.
#pragma once
#include "abi.h"
#include "neurons.h"

namespace PK_TARGET {

// A neuron's steps wait for each other, so several blocks of 32 neurons go through time side by side.
constexpr int side_by_side = vecs >= 8 ? 1 : 8 / vecs;

// One block's way through memory.
struct ScanBlock {
    const float* current;
    uint8_t* spikes;
    int64_t image, pixel, channel;
    int channels;

    ScanBlock() = default;
    ScanBlock(const Scan& s, int64_t index) {
        const Neurons& n = s.neurons;
        const int64_t blocks = (n.C + block - 1) / block, place = index / blocks;
        const int64_t bytes = (n.C + 7) / 8;
        image = place / n.P, pixel = place % n.P, channel = index % blocks * block;
        current = s.current + place * n.C + channel;
        spikes = n.spikes + (image * n.T * n.P + pixel) * bytes + channel / 8;
        channels = n.C - channel < block ? (int)(n.C - channel) : block;
    }
};

template <int count, class Model>
static void scan_blocks(const Scan& s, int64_t first, Model) {
    const int64_t T = s.neurons.T, step_bytes = s.neurons.P * ((s.neurons.C + 7) / 8), time_stride = s.time_stride;
    ScanBlock part[count];
    float* kept[count];
    States<Model::states, block> state[count];
    typename Model::template Of<block> neurons[count];
    each<count>([&](auto i) {
        part[i] = ScanBlock(s, first + i);
        kept[i] = states_of<Model>(s.neurons, part[i].image, part[i].pixel, part[i].channel);
        load_states<Model>(state[i], s.neurons, 0, part[i].image, part[i].pixel, part[i].channel, part[i].channels);
        neurons[i] = typename Model::template Of<block>({s.neurons.neuron, part[i].channel});
    });
    for (int64_t t = 0; t < T; t++)
        each<count>([&](auto i) {
            const Block current = load_block(part[i].current + t * time_stride, part[i].channels);
            const uint32_t spikes = step_block(neurons[i], state[i], current);
            store_spikes(part[i].spikes + t * step_bytes, spikes, part[i].channels);
        });
    each<count>([&](auto i) { store_states(kept[i], s.neurons, state[i], part[i].channels); });
}

static void if_scan(const Scan* s) {
    const Neurons& n = s->neurons;
    const int64_t blocks = n.N * n.P * ((n.C + block - 1) / block);
    with_model(n.neuron, [&](auto model) {
#pragma omp parallel for schedule(static)
        for (int64_t first = 0; first < blocks; first += side_by_side) {
            if (first + side_by_side <= blocks) scan_blocks<side_by_side>(*s, first, model);
            else
                for (int64_t i = first; i < blocks; i++) scan_blocks<1>(*s, i, model);
        }
    });
}

}  // namespace PK_TARGET
