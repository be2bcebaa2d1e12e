// A 1x1 convolution of real values, with the neurons in the same pass: the layer behind a linear bottleneck is one. For each
// pixel the currents of a few steps are accumulated in registers, so that they never go to memory, and each row of weights is
// read once for all of these steps.
#pragma once
#include "pixel_steps.h"

namespace PK_TARGET {

constexpr int product_steps = Vec::width >= 16 ? 8 : Vec::width >= 8 ? 3 : 1;  // as many as have sums in registers

// Adds to the currents of some successive steps, whose inputs are `next` floats apart.
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

void real_product(const Product* product) {
    const Product& p = *product;
    const Neurons& n = p.neurons;
    with_model(n.neuron, [&](auto model) {
#pragma omp parallel for schedule(dynamic, 4)
        for (int64_t place = 0; place < n.N * n.P; place++)
            for (int64_t channel = 0; channel < n.C; channel += block)
                fire_pixel<product_steps>(n, p.bias, model, place, channel, [&](int64_t t, auto steps, Block* current) {
                    const int64_t next =
                        p.neurons.N * p.neurons.P * p.C_in;  // not outside: clang with OpenMP cannot capture it
                    add_products<steps>(p.x + t * next + place * p.C_in, next, p.weight + channel * p.C_in, p.C_in, current);
                });
    });
}

}  // namespace PK_TARGET
