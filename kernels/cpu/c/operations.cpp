#include "operations.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "lines.h"

namespace proxykernels {

constexpr int64_t block = 32;  // channels that kernels handle at a time

static int64_t filled(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Weights of sigma-delta neurons, [C, C_in / groups, taps], in rows of 64 output channels of a group: sigma_delta/row_weights.h.
static void pack_rows(const float* weight, int64_t C, int64_t C_in, int64_t taps, int64_t groups, float* to) {
    constexpr int64_t row = 64, fill = 16;
    const int64_t outputs = C / groups;
    for (int64_t group = 0; group < groups; group++, weight += outputs * C_in * taps)
        for (int64_t first = 0; first < outputs; first += row) {
            const int64_t width = std::min(row, filled(outputs - first, fill));
            for (int64_t tap = 0; tap < taps; tap++)
                for (int64_t i = 0; i < C_in; i++, to += width)
                    for (int64_t o = first; o < std::min(outputs, first + width); o++)
                        to[o - first] = weight[(o * C_in + i) * taps + tap];
        }
}

// Those of a depthwise convolution: [tap][C, a multiple of 16].
static void pack_taps(const float* weight, int64_t C, int64_t taps, float* to) {
    for (int64_t tap = 0; tap < taps; tap++, to += filled(C, 16))
        for (int64_t c = 0; c < C; c++) to[c] = weight[c * taps + tap];
}

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
    put_terms(plan, op, to);
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

void Prepared::put_terms(const Plan& plan, const Operation& op, engine::Operation& to) {
    terms.emplace_back();
    for (const Window& w : op.windows) {
        engine::Term term{};
        term.slot = w.slot, term.groups = w.groups;
        term.kernel_h = w.kernel[0], term.kernel_w = w.kernel[1], term.stride_h = w.stride[0], term.stride_w = w.stride[1];
        term.padding_h = w.padding[0], term.padding_w = w.padding[1];
        term.dilation_h = w.dilation[0], term.dilation_w = w.dilation[1];
        if (w.weight) {
            const int64_t C = op.image.C, C_in = w.weight->shape[1], taps = w.taps();
            term.weight = w.weight->floats();
            if (op.kind == engine::Fire) term.joined = join_in_rows(C, C_in, w.groups);
            if (op.kind == engine::Send) {
                const bool depthwise = w.groups > 1 && w.groups == plan.source(w).C && w.groups == C;
                const int64_t rows = w.groups * filled(C / w.groups, 16) * C_in;
                float* const packed = numbers(taps * (depthwise ? filled(C, 16) : rows));
                if (depthwise) pack_taps(w.weight->floats(), C, taps, packed);
                else pack_rows(w.weight->floats(), C, C_in, taps, w.groups, packed);
                term.weight = packed;
            }
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

// Of neurons with the weights of one input, what the kernels that are chosen from take; of others nothing.
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
