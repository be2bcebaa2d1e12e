// What the depthwise kernel and the product of real values share: the neurons of a pixel walk through all steps, and the
// currents of a few steps at a time are in registers.
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

}  // namespace PK_TARGET
