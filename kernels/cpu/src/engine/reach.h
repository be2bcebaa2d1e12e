// What scattering (scatter.h) has to know of a layer: which outputs each input reaches, and what moves neurons that no input
// reaches.
#pragma once
#include "../neurons.h"
#include "engine.h"

namespace PK_TARGET {

constexpr int64_t most_reached = 1 << 21;  // along a side of an image

// An output along one side of an image, and the weights that lead there: so far from the first ones.
struct Reached {
    int64_t at, weights;
};

// Of all inputs along one side.
struct Side {
    uint32_t* first = nullptr;  // [inputs + 1]
    Reached* reached = nullptr;

    // `weights`: from one tap to the next. False if there is no memory.
    bool find(int64_t inputs, int64_t outputs, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation,
              int64_t weights) {
        first = try_allocate<uint32_t>(inputs + 1), reached = try_allocate<Reached>(inputs * kernel);
        if (!first || !reached) return false;
        uint32_t n = 0;
        for (int64_t i = 0; i < inputs; i++) {
            first[i] = n;
            for (int64_t tap = 0; tap < kernel; tap++) {
                const int64_t from = i + padding - tap * dilation;
                if (from >= 0 && from % stride == 0 && from / stride < outputs) reached[n++] = {from / stride, tap * weights};
            }
        }
        first[inputs] = n;
        return true;
    }
    int64_t all(int64_t inputs) const { return first[inputs]; }
    // The inputs that reach outputs from `begin` to `end`, and some more: from *from to *to.
    void reaching(int64_t inputs, int64_t begin, int64_t end, int64_t* from, int64_t* to) const {
        const auto none = [&](int64_t i) { return first[i] == first[i + 1]; };
        for (*from = 0; *from < inputs && (none(*from) || reached[first[*from]].at < begin);) ++*from;
        for (*to = inputs; *to > *from && (none(*to - 1) || reached[first[*to] - 1].at >= end);) --*to;
    }
};

struct Reach {
    Side rows, columns;
    float* pattern = nullptr;  // [1 + parameters of a channel][period]: bias and parameters of channels, again and again
    int64_t period = 0;        // after which a register begins with channel 0 again
    const float* weights = nullptr;  // [row][width]: those of the window, or, where these are integers, a copy
    float* copy = nullptr;
    int64_t width = 0;         // floats of a row of weights
    double outputs = 0;        // that an input reaches, on average
    // Whether neurons that nothing reaches cannot fire unless they were to fire at once; whether their potentials decay.
    bool waits = false, leaks = false;

    ~Reach() { free(rows.first), free(rows.reached), free(columns.first), free(columns.reached), free(pattern), free(copy); }
};

// Bits of a channel's number: an entry of a list is pixel << bits | channel.
static inline int64_t channel_bits(int64_t C) {
    int64_t bits = 0;
    while (int64_t(1) << bits < C) bits++;
    return bits;
}
static inline bool can_be_listed(int64_t C, int64_t P) { return C <= 1 << 16 && P << channel_bits(C) <= UINT32_MAX; }

// Whether nothing moves neurons over their thresholds but what arrives: no bias, and potentials that stay, or decay to 0.
static inline bool neurons_wait(const Neuron& n, const float* bias, int64_t C) {
    const bool leaks = n.model == models::LeakyHardReset || n.model == models::LeakySoftReset;
    if (!leaks && n.model != models::HardReset && n.model != models::SoftReset) return false;
    if (leaks && n.scalars[n.model == models::LeakyHardReset] != 0) return false;  // v_rest
    for (int64_t c = 0; c < C; c++) {
        if (bias[c] != 0) return false;
        const float decay = leaks ? n.channels[n.stride + c] : 1;
        if (leaks && !(n.channels[c] > 0 && decay >= 0 && decay <= 1)) return false;
    }
    return true;
}

// Bias and parameters, as they stand over the channels of pixels side by side. False if there is no memory.
static inline bool repeat_channels(Reach& reach, const Neuron& n, int64_t parameters, const float* bias, int64_t C) {
    reach.period = C;
    while (reach.period % Vec::width) reach.period += C;
    reach.pattern = try_allocate<float>((1 + parameters) * reach.period);
    for (int64_t k = 0; k <= parameters && reach.pattern; k++)
        for (int64_t i = 0; i < reach.period; i++)
            reach.pattern[k * reach.period + i] = k ? n.channels[(k - 1) * n.stride + i % C] : bias[i % C];
    return reach.pattern;
}

}  // namespace PK_TARGET
