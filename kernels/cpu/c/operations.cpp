#include "operations.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "lines.h"

namespace proxykernels {

constexpr int64_t block = 32;  // channels that kernels handle at a time

static int64_t filled(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

float* Prepared::numbers(int64_t n, float fill) {
    memory.emplace_back((size_t)n, fill);
    return memory.back().data();
}

const float* Prepared::padded(const Tensor& values) {
    float* const to = numbers(filled(values.size, block));
    memcpy(to, values.floats(), (size_t)values.size * sizeof(float));
    return to;
}

Prepared::Prepared(const Plan& plan, bool has_tiles) {
    for (const Operation& op : plan.operations) made.push_back(operation(plan, op, has_tiles));
}

engine::Operation Prepared::operation(const Plan& plan, const Operation& op, bool has_tiles) {
    engine::Operation to{};
    to.kind = op.kind, to.C = op.image.C, to.H = op.image.H, to.W = op.image.W, to.real = op.real;
    to.exact = !plan.precision.empty(), to.divisor = op.divisor;
    to.count_padding = op.count_padding, to.adaptive = op.adaptive;
    put_terms(op, to);
    if (op.pixels) to.pixels = op.pixels->whole();
    if (op.channels) to.channels = op.channels->whole();
    if (op.delays) to.delays = op.delays->whole();
    if (op.sends()) {
        to.limit = op.has_senders ? op.senders.limit->floats() : numbers(op.image.C);
        to.lowest = op.has_senders && !op.senders.rectifies ? -INFINITY : 0;
        to.exponents = op.senders.exponents;
    }
    if (op.scale) to.scale = op.scale->floats();
    if (op.recurrent) to.recurrent = op.recurrent->floats(), to.recurrent_full = op.recurrent->shape.size() == 2;
    if (op.has_neurons) put_neurons(op, to), put_lines(plan, op, has_tiles, to);
    return to;
}

void Prepared::put_terms(const Operation& op, engine::Operation& to) {
    terms.emplace_back();
    for (const Window& w : op.windows) {
        engine::Term term{};
        term.slot = w.slot, term.groups = w.groups;
        term.kernel_h = w.kernel[0], term.kernel_w = w.kernel[1], term.stride_h = w.stride[0], term.stride_w = w.stride[1];
        term.padding_h = w.padding[0], term.padding_w = w.padding[1];
        term.dilation_h = w.dilation[0], term.dilation_w = w.dilation[1];
        if (w.weight) {
            term.weight = w.weight->floats();
            if (op.kind == engine::Fire) term.joined = join_in_rows(op.image.C, w.weight->shape[1], w.groups);
        }
        if (w.bias) term.bias = w.bias->floats();
        terms.back().push_back(term);
    }
    to.terms = terms.back().data(), to.count = (int64_t)terms.back().size();
}

void Prepared::put_neurons(const Operation& op, engine::Operation& to) {
    const Population& neurons = op.neurons;
    const int64_t parameters = neurons.about().channels, C = op.image.C, stride = filled(C, block);
    float* const channels = numbers(parameters * stride);
    for (int64_t k = 0; k < parameters; k++)
        memcpy(channels + k * stride, neurons.channels->floats() + k * C, (size_t)C * sizeof(float));
    std::fill(channels + C, channels + stride, INFINITY);  // the padding never fires
    to.neuron.channels = channels, to.neuron.stride = stride, to.neuron.model = neurons.model;
    memcpy(to.neuron.scalars, neurons.scalars, sizeof neurons.scalars);
    to.bias = padded(*neurons.bias), to.start = neurons.start->floats();
}

// Writes the modelled times of the kernels for neurons with the weights of one input; nothing for other operations.
void Prepared::put_lines(const Plan& plan, const Operation& op, bool has_tiles, engine::Operation& to) {
    const Window* weighted = nullptr;
    for (const Window& w : op.windows) {
        if (!w.weight) continue;
        if (weighted) return;
        weighted = &w;
    }
    if (!weighted) return;
    const Window& w = *weighted;
    const Image from = plan.source(w);
    const costs::Layer layer{1,           1,           op.image.P(), op.image.C,    from.H,       from.W, w.weight->shape[1],
                             w.kernel[0], w.kernel[1], w.padding[1], w.dilation[0], w.dilation[1]};
    const int64_t row = plan.precision == "int8" ? 64 : plan.precision == "int16" ? 32 : 16;
    find_lines(layer, w.groups, row, has_tiles, to.lines);
}

}  // namespace proxykernels
