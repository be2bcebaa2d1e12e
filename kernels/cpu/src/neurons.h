// The neuron models: one step on a vector of channels. A new model is one more struct here, and its line in models.h. The
// equations are in reference.py.
//
// A model's `Of<channels>` holds the parameters of a block of channels; its step takes vector i of the block's states. A
// product is rounded before it is added: never fused (sources.py has the compiler's flag).
#pragma once
#include <cmath>

#include "abi.h"
#include "bit_lists.h"
#include "models.h"

namespace PK_TARGET {

// What a block of neurons keeps from step to step, the potentials first.
template <int states, int channels>
struct States {
    Lanes<channels> part[states];
};

// A layer's parameters for a block of channels, in the order in which a model's members take them.
struct Parameters {
    const float* channel;
    int64_t stride;
    const float* scalar;
    Parameters(const Neuron& n, int64_t first) : channel(n.channels + first), stride(n.stride), scalar(n.scalars) {}
    template <int channels>
    Lanes<channels> of_channels() {
        const float* const row = channel;
        channel += stride;
        return load_block<channels>(row);
    }
    Vec of_all() { return broadcast(*scalar++); }
};

// Where s, v = v_reset.
struct Hard {
    Vec v_reset;
    explicit Hard(Parameters& p) : v_reset(p.of_all()) {}
    Hard() = default;
    inline Vec after(Vec::Mask fires, Vec h, Vec) const { return select(fires, v_reset, h); }
};

// Where s, v = h - theta.
struct Soft {
    explicit Soft(Parameters&) {}
    Soft() = default;
    inline Vec after(Vec::Mask fires, Vec h, Vec theta) const { return select(fires, h - theta, h); }
};

// h = v + I;  s = h >= theta
template <class Reset>
struct IntegrateAndFire {
    static constexpr int states = 1;
    template <int channels>
    struct Of {
        Lanes<channels> theta;
        Reset reset;
        Of() = default;
        explicit Of(Parameters p) : theta(p.of_channels<channels>()), reset(p) {}
        inline Vec::Mask step(States<1, channels>& state, Vec current, int i) const {
            Vec& v = state.part[0].v[i];
            const Vec h = v + current;
            const Vec::Mask fires = h >= theta.v[i];
            v = reset.after(fires, h, theta.v[i]);
            return fires;
        }
    };
};
using HardReset = IntegrateAndFire<Hard>;
using SoftReset = IntegrateAndFire<Soft>;

// h = v_rest + decay (v - v_rest) + I, what all leaky neurons share.
template <class Reset, int channels>
struct Membrane {
    Lanes<channels> theta, decay;
    Reset reset;
    Vec v_rest;
    Membrane() = default;
    explicit Membrane(Parameters& p)
        : theta(p.of_channels<channels>()), decay(p.of_channels<channels>()), reset(p), v_rest(p.of_all()) {}
    inline Vec leak(Vec v, Vec current, int i) const { return v_rest + decay.v[i] * (v - v_rest) + current; }
};

// s = h >= theta
template <class Reset>
struct Leaky {
    static constexpr int states = 1;
    template <int channels>
    struct Of {
        Membrane<Reset, channels> membrane;
        Of() = default;
        explicit Of(Parameters p) : membrane(p) {}
        inline Vec::Mask step(States<1, channels>& state, Vec current, int i) const {
            Vec& v = state.part[0].v[i];
            const Vec h = membrane.leak(v, current, i), theta = membrane.theta.v[i];
            const Vec::Mask fires = h >= theta;
            v = membrane.reset.after(fires, h, theta);
            return fires;
        }
    };
};
using LeakyHardReset = Leaky<Hard>;
using LeakySoftReset = Leaky<Soft>;

// i = current_decay i + I, which takes the place of I
template <class Reset>
struct Synaptic {
    static constexpr int states = 2;
    template <int channels>
    struct Of {
        Membrane<Reset, channels> membrane;
        Lanes<channels> current_decay;
        Of() = default;
        explicit Of(Parameters p) : membrane(p), current_decay(p.of_channels<channels>()) {}
        inline Vec::Mask step(States<2, channels>& state, Vec current, int i) const {
            Vec &v = state.part[0].v[i], &filtered = state.part[1].v[i];
            filtered = current_decay.v[i] * filtered + current;
            const Vec h = membrane.leak(v, filtered, i), theta = membrane.theta.v[i];
            const Vec::Mask fires = h >= theta;
            v = membrane.reset.after(fires, h, theta);
            return fires;
        }
    };
};
using SynapticHardReset = Synaptic<Hard>;
using SynapticSoftReset = Synaptic<Soft>;

// s = h >= theta + a;  a = adaptation_decay a + adaptation s
template <class Reset>
struct Adaptive {
    static constexpr int states = 2;
    template <int channels>
    struct Of {
        Membrane<Reset, channels> membrane;
        Lanes<channels> adaptation_decay, adaptation;
        Of() = default;
        explicit Of(Parameters p)
            : membrane(p), adaptation_decay(p.of_channels<channels>()), adaptation(p.of_channels<channels>()) {}
        inline Vec::Mask step(States<2, channels>& state, Vec current, int i) const {
            Vec &v = state.part[0].v[i], &a = state.part[1].v[i];
            const Vec h = membrane.leak(v, current, i), theta = membrane.theta.v[i];
            const Vec::Mask fires = h >= theta + a;
            v = membrane.reset.after(fires, h, theta);
            const Vec decayed = adaptation_decay.v[i] * a;
            a = select(fires, decayed + adaptation.v[i], decayed);
            return fires;
        }
    };
};
using AdaptiveHardReset = Adaptive<Hard>;
using AdaptiveSoftReset = Adaptive<Soft>;

// After a spike, for so many steps the potential stays and nothing fires.
template <class Reset>
struct Refractory {
    static constexpr int states = 2;
    template <int channels>
    struct Of {
        Membrane<Reset, channels> membrane;
        Vec refractory;
        Of() = default;
        explicit Of(Parameters p) : membrane(p), refractory(p.of_all()) {}
        inline Vec::Mask step(States<2, channels>& state, Vec current, int i) const {
            Vec &v = state.part[0].v[i], &left = state.part[1].v[i];
            const Vec zero = broadcast(0.0f), never = broadcast(-INFINITY);
            const Vec::Mask idle = zero >= left;
            const Vec h = membrane.leak(v, current, i), theta = membrane.theta.v[i];
            const Vec::Mask fires = select(idle, h, never) >= theta;
            v = select(idle, membrane.reset.after(fires, h, theta), v);
            left = select(idle, select(fires, refractory, zero), left - broadcast(1.0f));
            return fires;
        }
    };
};
using RefractoryHardReset = Refractory<Hard>;
using RefractorySoftReset = Refractory<Soft>;

#define MODEL(Name, count, ...) static_assert(Name::states == count, #Name);
PK_MODELS(MODEL)
#undef MODEL

// Calls `run` with the model that a layer's neurons have.
template <class Run>
static inline void with_model(const Neuron& n, Run run) {
    switch (n.model) {
#define MODEL(Name, ...) \
    case models::Name: run(Name{}); break;
        PK_MODELS(MODEL)
#undef MODEL
    }
}

// Where a layer keeps the states of a pixel between segments of time, and leaves them at last: [N, states, P, C].
template <class Model>
static inline float* states_of(const Neurons& n, int64_t image, int64_t pixel, int64_t channel) {
    return n.v + (image * Model::states * n.P + pixel) * n.C + channel;
}
// The states before step t, of the first `count` of a block's channels; see load_block.
template <class Model, int channels>
static inline void load_states(States<Model::states, channels>& block, const Neurons& n, int64_t t, int64_t image,
                               int64_t pixel, int64_t channel, int count) {
    const float* from = n.start + image * n.start_image + pixel * n.start_pixel + channel;
    if (t) from = states_of<Model>(n, image, pixel, channel);
    const int64_t stride = t ? n.P * n.C : n.start_state;
    for (int k = 0; k < Model::states; k++) block.part[k] = load_block<channels>(from + k * stride, count);
}
template <int states, int channels>
static inline void store_states(float* to, const Neurons& n, const States<states, channels>& block, int count) {
    for (int k = 0; k < states; k++) store_block(to + k * n.P * n.C, block.part[k], count);
}

// One step of a block of channels; the spikes as bits.
template <class OfBlock, int states, int channels>
static inline uint32_t step_block(const OfBlock& neurons, States<states, channels>& state, const Lanes<channels>& current) {
    uint32_t spikes = 0;
    for (int i = 0; i < current.vecs; i++) spikes |= bits(neurons.step(state, current.v[i], i)) << (i * Vec::width);
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

// Adds 1 to the sums of those of the first n of a block's channels that fired.
template <int channels>
static inline void add_spikes(Lanes<channels>& sums, const uint8_t* bytes, int n) {
    uint32_t fired = 0;
    if (n >= channels) memcpy(&fired, bytes, channels / 8);
    else fired = (uint32_t)load_bits(bytes, (n + 7) / 8);
    for (int i = 0; i < sums.vecs; i++) {
        const Vec::Mask at = mask_of(fired >> (i * Vec::width));
        sums.v[i] = add_where(at, sums.v[i], broadcast(1.0f));
    }
}

}  // namespace PK_TARGET
