// Precomputed facts about a layer for scattering (scatter.h): the outputs that each input reaches, and whether neurons without
// input change.
#pragma once
#include "../neurons.h"
#include "engine.h"

namespace PK_TARGET {

constexpr int64_t most_reached = 1 << 21;  // limit of inputs * kernel size, per axis

// n adjacent outputs along one axis, from `at` on, and the offset of the weights of the first.
struct Reached {
    int64_t at, n, weights;
};

// The outputs reached by each input along one axis.
struct Side {
    uint32_t* first = nullptr;  // [inputs + 1]
    Reached* reached = nullptr;  // ascending for each input
    int64_t all = 0;  // outputs reached, summed over all inputs

    // `weights`: the offset of each tap's weights; `next`: from the weights of an output to those of the next output. False if
    // there is no memory.
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
    // [1 + parameters of a channel + 1][period]: bias, neuron parameters and calm potential (calm_below), repeated channel by
    // channel
    float* pattern = nullptr;
    int64_t period = 0;  // the least multiple of the channels that is a multiple of a register
    const float* calm = nullptr;  // [period]
    // [row of taps][input][tap][output]; the taps of a row are ordered so that adjacent outputs have adjacent weights.
    float* weights = nullptr;
    double outputs = 0;  // reached by an input, on average
    // Whether neurons without input cannot fire, unless they were already above threshold; whether their potentials decay.
    bool waits = false, leaks = false;
    bool drifts = false;  // whether neurons without input change only by their biases

    ~Reach() { free(rows.first), free(rows.reached), free(columns.first), free(columns.reached), free(pattern), free(weights); }
};

// Bits of a channel's number: an entry of a list is pixel << bits | channel.
static inline int64_t channel_bits(int64_t C) {
    int64_t bits = 0;
    while (int64_t(1) << bits < C) bits++;
    return bits;
}
static inline bool can_be_listed(int64_t C, int64_t P) { return C <= 1 << 16 && P << channel_bits(C) <= UINT32_MAX; }

// Whether only input can move neurons over their thresholds: biases are zero, and potentials stay or decay to 0.
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

// Orders the taps of a row so that an output's tap comes right after that of the output before it.
static inline void place_taps(int64_t kernel, int64_t stride, int64_t dilation, int64_t* place) {
    int64_t apart = 1;  // distance between successive taps of one input
    while (apart * dilation % stride) apart++;
    int64_t n = 0;
    for (int64_t phase = 0; phase < least(apart, kernel); phase++)
        for (int64_t tap = (kernel - 1 - phase) / apart * apart + phase; tap >= 0; tap -= apart) place[tap] = n++;
}

constexpr uint32_t nap =
    PK_IS_CHECKED ? 2 : 16;  // steps, a power of two; few in the checked build, whose tests have large biases

// A neuron whose potential is below the returned one cannot fire within `nap` steps in which only its bias is added. Rounded
// addition is monotonic, so it is enough to check the highest such potential.
static inline float calm_below(float theta, float bias) {
    if (bias <= 0) return theta;
    const float calm = theta - (float)(nap + 1) * bias;
    float v = nextafterf(calm, -INFINITY);
    for (uint32_t t = 0; t < nap; t++) v += bias;
    return v < theta ? calm : -INFINITY;
}

// Fills `pattern`, so that it lines up with the channels of adjacent pixels. False if there is no memory.
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
