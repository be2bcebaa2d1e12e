// The neuron models: one step on a vector of channels. A new model is one more struct here, and its name in models.h.
#pragma once
#include "abi.h"
#include "models.h"
#include "simd.h"

namespace PK_TARGET {

// A model's `Of<channels>` holds the parameters of a block of channels; its step takes vector i of the block.

// h = v + I;  s = h >= theta;  v = v_reset where s, else h
// Parameters: v_reset.
struct HardReset {
    template <int channels>
    struct Of {
        Lanes<channels> theta;
        Vec v_reset;
        Of() = default;
        Of(const Neuron& n, int64_t channel)
            : theta(load_block<channels>(n.theta + channel)), v_reset(broadcast(n.parameters[0])) {}
        inline Vec::Mask step(Vec& v, Vec current, int i) const {
            const Vec h = v + current;
            const Vec::Mask fires = h >= theta.v[i];
            v = select(fires, v_reset, h);
            return fires;
        }
    };
};

// h = v + I;  s = h >= theta;  v = h - theta where s, else h
struct SoftReset {
    template <int channels>
    struct Of {
        Lanes<channels> theta;
        Of() = default;
        Of(const Neuron& n, int64_t channel) : theta(load_block<channels>(n.theta + channel)) {}
        inline Vec::Mask step(Vec& v, Vec current, int i) const {
            const Vec h = v + current;
            const Vec::Mask fires = h >= theta.v[i];
            v = select(fires, h - theta.v[i], h);
            return fires;
        }
    };
};

// Calls `run` with the model that a layer's neurons have.
template <class Run>
static inline void with_model(const Neuron& n, Run run) {
    switch (n.model) {
#define MODEL(Name) \
    case models::Name: run(Name{}); break;
        PK_MODELS(MODEL)
#undef MODEL
    }
}

// One step of a block of channels; the spikes as bits.
template <class Parameters, int channels>
static inline uint32_t step_block(const Parameters& neurons, Lanes<channels>& v, const Lanes<channels>& current) {
    uint32_t spikes = 0;
    for (int i = 0; i < v.vecs; i++) spikes |= bits(neurons.step(v.v[i], current.v[i], i)) << (i * Vec::width);
    return spikes;
}

// Writes the spikes of the first n of a block's channels; the bytes of a pixel hold eight channels each.
template <int channels = block>
static inline void store_spikes(uint8_t* bytes, uint32_t spikes, int n) {
    if (n >= channels) {
        memcpy(bytes, &spikes, channels / 8);
        return;
    }
    for (int i = 0; i * 8 < n; i++) bytes[i] = (uint8_t)(spikes >> (8 * i));
}

}  // namespace PK_TARGET
