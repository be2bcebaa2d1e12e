// Plans of one operation, for layers that Python calls by themselves (../layer_plans.py).
#include "../src/cost_model.h"
#include "../src/engine/engine.h"
#include "include/proxykernels.h"

#include <cmath>
#include <vector>

namespace proxykernels {

// Thresholds rounded down to powers of two, so that a plan serves neurons whose thresholds differ by little.
static std::vector<float> least_thresholds(const Neuron& neuron, int64_t C) {
    std::vector<float> least(neuron.channels, neuron.channels + C);
    for (float& theta : least)
        if (std::isfinite(theta)) theta = std::ldexp(1.0f, std::ilogb(theta));
    return least;
}

// A number that two layers of C channels share only if one plan serves the thresholds of both.
extern "C" PK_API int64_t proxykernels_thresholds(const Neuron* neuron, int64_t C) {
    uint64_t hash = 0;
    for (const float theta : least_thresholds(*neuron, C))
        hash = (hash ^ (uint64_t)(std::isfinite(theta) ? std::ilogb(theta) + 1000 : 0)) * 0x9e3779b97f4a7c15u;
    return (int64_t)hash;
}

static costs::Layer layer_of(const Conv2d& c) {
    return {1,          1,          c.neurons.P, c.neurons.C,  c.H,         c.W, c.C_in / c.groups,
            c.kernel_h, c.kernel_w, c.padding_w, c.dilation_h, c.dilation_w};
}

// The share of inputs that fire at a step from which on torch's convolution takes less time than any kernel of spikes, by the
// cost model. The sizes of `conv` count, and T and N of its neurons.
extern "C" PK_API double proxykernels_dense_rate(const Conv2d* conv, int64_t has_tiles, int64_t has_tables) {
    if (conv->groups > 1) return INFINITY;
    costs::Layer layer = layer_of(*conv);
    layer.T = conv->neurons.T, layer.N = conv->neurons.N;
    const costs::Work& cost = costs::machine_with(has_tiles).costs;
    const double dense = costs::cycles(cost.dense, costs::dense(layer));
    if (has_tiles && costs::tiles_hold(layer) && costs::cycles(cost.tiles, costs::tiles(layer, 4)) < dense) return INFINITY;
    if (has_tables && costs::cycles(cost.lookup, costs::lookup(layer)) < dense) return INFINITY;
    const auto rows = [&](double rate) {
        const int64_t slice_rows = costs::machine_with(has_tiles).slice_rows;
        return costs::cycles(cost.events, costs::adding(layer, rate, costs::float_row, slice_rows));
    };
    return (dense - rows(0)) / (rows(1) - rows(0));
}

static engine::Plan* made(const engine::Functions* functions, const engine::Input& input, const engine::Operation& op,
                          int64_t has_tiles) {
    constexpr int64_t bits = 24;  // rows are of integers where the weights are few bits
    const engine::Description described{input, bits, &op, 1};
    return functions->make_plan(&described, has_tiles);
}

// Makes the plan of neurons behind a convolution. `conv`: plain weights [C, C_in / groups, taps], a bias [C] or null, and the
// sizes; of its neurons the model, thresholds [C], P and C. `has_shortcut`: whether spikes of its output's shape add to the
// currents.
// `is_periodic`, `is_long`: Input of ../src/engine/description.h.
extern "C" PK_API engine::Plan* proxykernels_plan_of_conv(const engine::Functions* functions, const Conv2d* conv,
                                                          int64_t has_shortcut, int64_t is_periodic, int64_t is_long,
                                                          int64_t has_tiles) {
    const Conv2d& c = *conv;
    const std::vector<float> least = least_thresholds(c.neurons.neuron, c.neurons.C), none((size_t)c.neurons.C);
    engine::Window reads[2];
    engine::Window& window = reads[0];
    window.kernel_h = c.kernel_h, window.kernel_w = c.kernel_w, window.stride_h = c.stride_h, window.stride_w = c.stride_w;
    window.padding_h = c.padding_h, window.padding_w = c.padding_w;
    window.dilation_h = c.dilation_h, window.dilation_w = c.dilation_w;
    window.groups = c.groups, window.weight = (const float*)c.weight;
    reads[1].slot = 2;
    engine::Operation op;
    op.kind = engine::Fire, op.reads = reads, op.count = 1 + has_shortcut, op.has_neurons = true;
    op.C = c.neurons.C, op.H = c.neurons.P / c.W_out, op.W = c.W_out;
    op.neurons.model = c.neurons.neuron.model, op.neurons.channels = least.data();
    op.neurons.bias = c.bias ? c.bias : none.data();
    return made(functions, {c.C_in, c.H, c.W, true, is_periodic != 0, is_long != 0}, op, has_tiles);
}

// Makes the plan of recurrent neurons on given currents: their model and C count. `weight`: plain, [C][C] if `full`, else [C].
extern "C" PK_API engine::Plan* proxykernels_plan_of_recurrent(const engine::Functions* functions, const Neurons* neurons,
                                                               const float* weight, int64_t full) {
    const engine::Window currents;
    engine::Operation op;
    op.kind = engine::Recur, op.reads = &currents, op.count = 1, op.has_neurons = true;
    op.C = neurons->C, op.H = op.W = 1;
    op.neurons.model = neurons->neuron.model, op.recurrent = weight, op.recurrent_full = full;
    return made(functions, {neurons->C, 1, 1, true}, op, false);
}

}  // namespace proxykernels
