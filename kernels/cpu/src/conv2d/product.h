// A convolution of real values by kernels of one pixel, with the neurons in the same pass: what a linear bottleneck carries
// on goes into the next layer by such a one. For each pixel the currents of a few steps grow side by side in registers, so
// that they never go to memory and a row of weights is read once for all of them.
#pragma once
#include "../neurons.h"
#include "../work.h"

namespace PK_TARGET {

constexpr int product_steps = Vec::width >= 16 ? 8 : Vec::width >= 8 ? 3 : 1;  // whose sums fill the registers

// The currents of some successive steps; `next` floats lie between the values of one and of the next.
template <int steps>
static inline void add_products(const float* x, int64_t next, const float* weight, int64_t inputs, Block* current) {
    for (int64_t k = 0; k < inputs; k++, weight += block) {
        const Block w = load_block(weight);
        for (int t = 0; t < steps; t++) {
            const Vec value = broadcast(x[t * next + k]);
            for (int i = 0; i < vecs; i++) current[t].v[i] = multiply_add(value, w.v[i], current[t].v[i]);
        }
    }
}

// All steps of 32 channels of a pixel.
template <class Model>
static void fire_products(const Product& p, Model, int64_t place, int64_t channel) {
    const Neurons& n = p.neurons;
    const int channels = (int)least(n.C - channel, block);
    const int64_t bytes = (n.C + 7) / 8, image = place / n.P, next = n.N * n.P * p.C_in;
    const float* x = p.x + place * p.C_in;
    const float* const weight = p.weight + channel * p.C_in;
    uint8_t* const out = n.spikes + (image * n.T * n.P + place % n.P) * bytes + channel / 8;
    float* const kept = states_of<Model>(n, image, place % n.P, channel);
    const Block bias = load_block(p.bias + channel);
    const typename Model::template Of<block> neurons({n.neuron, channel});
    States<Model::states, block> state;
    load_states(state, n, kept, channels);
    for (int64_t t = 0; t < n.T;) {
        Block current[product_steps];
        for (Block& sum : current) sum = bias;
        const int64_t steps = n.T - t < product_steps ? 1 : product_steps;
        if (steps == 1) add_products<1>(x, next, weight, p.C_in, current);
        else add_products<product_steps>(x, next, weight, p.C_in, current);
        for (int64_t i = 0; i < steps; i++, t++, x += next)
            store_spikes(out + t * n.P * bytes, step_block(neurons, state, current[i]), channels);
    }
    store_states(kept, n, state, channels);
}

static void real_product(const Product* product) {
    const Product& p = *product;
    const Neurons& n = p.neurons;
    with_model(n.neuron, [&](auto model) {
#pragma omp parallel for schedule(dynamic, 4)
        for (int64_t place = 0; place < n.N * n.P; place++)
            for (int64_t channel = 0; channel < n.C; channel += block) fire_products(p, model, place, channel);
    });
}

}  // namespace PK_TARGET
