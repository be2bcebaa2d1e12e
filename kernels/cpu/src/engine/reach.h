// What scattering (scatter.h) has to know of a layer: which outputs each input reaches, and what moves neurons that no input
// reaches.
#pragma once
#include "../neurons.h"
#include "engine.h"

namespace PK_TARGET {

constexpr int64_t most_reached = 1 << 21;  // along a side of an image

// Outputs along one side of an image, side by side, and the weights that lead to the first: so far from the first of all.
struct Reached {
    int64_t at, n, weights;
};

// Of all inputs along one side.
struct Side {
    uint32_t* first = nullptr;  // [inputs + 1]
    Reached* reached = nullptr;  // of each input, they ascend
    int64_t all = 0;  // outputs that inputs reach

    // `weights`: of each tap; `next`: from those of an output to those of the one beside it. False if there is no memory.
    bool find(int64_t inputs, int64_t outputs, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation,
              const int64_t* weights, int64_t next) {
        first = try_allocate<uint32_t>(inputs + 1), reached = try_allocate<Reached>(inputs * kernel);
        if (!first || !reached) return false;
        uint32_t n = 0;
        for (int64_t i = 0; i < inputs; i++) {
            first[i] = n;
            for (int64_t tap = kernel - 1; tap >= 0; tap--) {
                const int64_t from = i + padding - tap * dilation, at = from / stride;
                if (from < 0 || from % stride || at >= outputs) continue;
                all++;
                Reached* const last = n > first[i] ? reached + n - 1 : nullptr;
                if (last && last->at + last->n == at && last->weights + last->n * next == weights[tap]) last->n++;
                else reached[n++] = {at, 1, weights[tap]};
            }
        }
        first[inputs] = n;
        return true;
    }
};

struct Reach {
    Side rows, columns;
    // [1 + parameters of a channel + 1][period]: bias, parameters, and the potential that is calm, of channels, again and again
    float* pattern = nullptr;
    int64_t period = 0;  // after which a register begins with channel 0 again
    const float* calm = nullptr;  // [period]
    // [row of taps][input][tap][output]: the taps of a row so that outputs side by side have theirs side by side.
    float* weights = nullptr;
    double outputs = 0;  // that an input reaches, on average
    // Whether neurons that nothing reaches cannot fire unless they were to fire at once; whether their potentials decay.
    bool waits = false, leaks = false;
    bool drifts = false;  // whether neurons that nothing reaches are moved by their biases, and by nothing else

    ~Reach() { free(rows.first), free(rows.reached), free(columns.first), free(columns.reached), free(pattern), free(weights); }
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

// The places of the taps of a row, in which an output's comes behind that of the output before it.
static inline void place_taps(int64_t kernel, int64_t stride, int64_t dilation, int64_t* place) {
    int64_t apart = 1;  // taps that an input takes one after another
    while (apart * dilation % stride) apart++;
    int64_t n = 0;
    for (int64_t phase = 0; phase < least(apart, kernel); phase++)
        for (int64_t tap = (kernel - 1 - phase) / apart * apart + phase; tap >= 0; tap -= apart) place[tap] = n++;
}

constexpr uint32_t nap = PK_IS_CHECKED ? 2 : 16;  // steps: a power of two; few for tests, whose biases are large

// A neuron with a lower potential does not fire in the steps of a nap, in which its bias alone is added. A rounded sum grows with
// what it is a sum of: what holds of the highest such potential holds of all.
static inline float calm_below(float theta, float bias) {
    if (bias <= 0) return theta;
    const float calm = theta - (float)(nap + 1) * bias;
    float v = nextafterf(calm, -INFINITY);
    for (uint32_t t = 0; t < nap; t++) v += bias;
    return v < theta ? calm : -INFINITY;
}

// What stands over the channels of pixels side by side. False if there is no memory.
static inline bool repeat_channels(Reach& reach, const Neuron& n, int64_t parameters, const float* bias, int64_t C) {
    reach.period = C;
    while (reach.period % Vec::width) reach.period += C;
    reach.pattern = try_allocate<float>((2 + parameters) * reach.period);
    for (int64_t i = 0; i < reach.period && reach.pattern; i++) {
        float* const to = reach.pattern + i;
        *to = bias[i % C];
        for (int64_t k = 0; k < parameters; k++) to[(1 + k) * reach.period] = n.channels[k * n.stride + i % C];
        to[(1 + parameters) * reach.period] = calm_below(n.channels[i % C], bias[i % C]);
    }
    reach.calm = reach.pattern + (1 + parameters) * reach.period;
    return reach.pattern;
}

}  // namespace PK_TARGET
