// The neuron models. Each defines one time step, written once for the vectors of the kernels and for the single numbers of
// scan_backward.h. A new model needs a struct here, its backward step there, and its line in kernels/table.py. The equations are in
// reference.py.
//
// A model's step updates a neuron's states in place; the potential is the first of them. A product is rounded before it is
// added; the two are never fused (sources.py has the compiler's flag).
#pragma once
#include <cmath>
#include <type_traits>

#include "abi.h"
#include "set_bits.h"
#include "models.h"

namespace PK_TARGET {

// The number a, or a vector whose lanes all equal a.
template <class V>
static inline V all(float a) {
    if constexpr (std::is_same_v<V, float>) return a;
    else return broadcast(a);
}
static inline float select(bool where, float yes, float no) { return where ? yes : no; }
static inline float toward_zero(float a) { return __builtin_truncf(a); }
static inline float lesser(float a, float b) { return a < b ? a : b; }
static inline float greater(float a, float b) { return a > b ? a : b; }

// A neuron's parameters. A model uses those that it has: `second_decay` is that of its second state, `increment` what is added to a state.
template <class V>
struct Parameters {
    V theta, decay, second_decay, increment;  // of a channel
    V v_reset, v_rest, refractory;  // of the layer
    V most, rounding;  // of the layer: the most spikes in a step; 2^23 where their number is rounded to the nearest, else 0
};

// The comparison of a step, s = h >= bar, and its result.
template <class V>
struct Compared {
    V h, bar;
    decltype(V() >= V()) fires;
};

// The number of spikes of a step, of neurons that fire several times, and the potential before the reset.
template <class V>
struct SpikeCounts {
    V h, spikes;
};

// Hard reset: v = v_reset where the neuron fires.
struct Hard {
    static constexpr bool to_value = true;
    template <class V, class Mask>
    static inline V after(Mask fires, V h, const Parameters<V>& p) {
        return select(fires, p.v_reset, h);
    }
};

// Soft reset: v = h - theta where the neuron fires.
struct Soft {
    static constexpr bool to_value = false;
    template <class V, class Mask>
    static inline V after(Mask fires, V h, const Parameters<V>& p) {
        return select(fires, h - p.theta, h);
    }
};

// The properties that every model declares.
template <class Reset_, int states_, bool leaks_, bool rests_>
struct Traits {
    using Reset = Reset_;
    static constexpr int states = states_;
    static constexpr bool leaks = leaks_, rests = rests_;
};

// h = v + I;  s = h >= theta
template <class Reset>
struct IntegrateAndFire : Traits<Reset, 1, false, false> {
    template <class V>
    static inline Compared<V> step(V* state, V current, const Parameters<V>& p) {
        const V h = state[0] + current;
        const auto fires = h >= p.theta;
        state[0] = Reset::after(fires, h, p);
        return {h, p.theta, fires};
    }
};
using HardReset = IntegrateAndFire<Hard>;
using SoftReset = IntegrateAndFire<Soft>;

// The leak of all leaky neurons.
template <class V>
static inline V leak(V v, V current, const Parameters<V>& p) {
    return p.v_rest + p.decay * (v - p.v_rest) + current;
}

// h = v_rest + decay (v - v_rest) + I;  s = h >= theta
template <class Reset>
struct Leaky : Traits<Reset, 1, true, false> {
    template <class V>
    static inline Compared<V> step(V* state, V current, const Parameters<V>& p) {
        const V h = leak(state[0], current, p);
        const auto fires = h >= p.theta;
        state[0] = Reset::after(fires, h, p);
        return {h, p.theta, fires};
    }
};
using LeakyHardReset = Leaky<Hard>;
using LeakySoftReset = Leaky<Soft>;

// i = current_decay i + I;  then as Leaky, with i instead of I. `second_decay`: current_decay.
template <class Reset>
struct Synaptic : Traits<Reset, 2, true, false> {
    template <class V>
    static inline Compared<V> step(V* state, V current, const Parameters<V>& p) {
        state[1] = p.second_decay * state[1] + current;
        return Leaky<Reset>::step(state, state[1], p);
    }
};
using SynapticHardReset = Synaptic<Hard>;
using SynapticSoftReset = Synaptic<Soft>;

// s = h >= theta + a;  a = adaptation_decay a + adaptation s. `second_decay`: adaptation_decay, `increment`: adaptation.
template <class Reset>
struct Adaptive : Traits<Reset, 2, true, false> {
    template <class V>
    static inline Compared<V> step(V* state, V current, const Parameters<V>& p) {
        const V h = leak(state[0], current, p), bar = p.theta + state[1], decayed = p.second_decay * state[1];
        const auto fires = h >= bar;
        state[0] = Reset::after(fires, h, p);
        state[1] = select(fires, decayed + p.increment, decayed);
        return {h, bar, fires};
    }
};
using AdaptiveHardReset = Adaptive<Hard>;
using AdaptiveSoftReset = Adaptive<Soft>;

// Leaky, but for `refractory` steps after a spike the potential stays as it is and the neuron does not fire.
template <class Reset>
struct Refractory : Traits<Reset, 2, true, true> {
    template <class V>
    static inline Compared<V> step(V* state, V current, const Parameters<V>& p) {
        const V v = state[0], left = state[1], zero = all<V>(0.0f);
        const auto idle = zero >= left;
        const V h = leak(v, current, p);
        const auto fires = select(idle, h, all<V>(-INFINITY)) >= p.theta;
        state[0] = select(idle, Reset::after(fires, h, p), v);
        state[1] = select(idle, select(fires, p.refractory, zero), left - all<V>(1.0f));
        return {h, p.theta, fires};
    }
};
using RefractoryHardReset = Refractory<Hard>;
using RefractorySoftReset = Refractory<Soft>;

// decay x, rounded toward zero. It is computed in two parts, whose products are exact if x is an integer below 2^24.
template <class V>
static inline V decayed(V x, V decay) {
    const V coarse = toward_zero(x * all<V>(0x1p-12f)) * all<V>(0x1p12f);
    return coarse * decay + toward_zero((x - coarse) * decay);
}

// u = decayed(u) + I, which wraps around at 2^23;  h = decayed(v) + u + v_bias, which saturates there. `second_decay`: current_decay,
// `increment`: v_bias.
struct LoihiHardReset : Traits<Hard, 2, false, false> {
    template <class V>
    static inline Compared<V> step(V* state, V current, const Parameters<V>& p) {
        const V half = all<V>(0x1p23f), range = all<V>(0x1p24f), zero = all<V>(0.0f), most = half - all<V>(1.0f);
        const V u = decayed(state[1], p.second_decay) + current;
        const V low = select(zero - half >= u, range, zero), high = select(half >= u, zero, range);
        state[1] = u + (low - high);
        const V sum = decayed(state[0], p.decay) + state[1] + p.increment, below = select(sum >= most, most, sum);
        const V h = select(below >= zero - most, below, zero - most);
        const auto fires = h >= p.theta;
        state[0] = Hard::after(fires, h, p);
        return {h, p.theta, fires};
    }
};

// h = decay v + I;  s = h / theta as an integer from 0 to `most`;  v = h - theta s
struct IntegerSoftReset {
    static constexpr int states = 1;
    template <class V>
    static inline SpikeCounts<V> step(V* state, V current, const Parameters<V>& p) {
        const V h = p.decay * state[0] + current;
        const V level = lesser(greater(h / p.theta, all<V>(0.0f)), p.most);
        const V spikes = toward_zero((level + p.rounding) - p.rounding);  // from 2^23 on floats are integers
        state[0] = select(spikes >= all<V>(1.0f), h - p.theta * spikes, h);  // the thresholds of padding are infinite
        return {h, spikes};
    }
};

// Not a neuron: sums up the currents and their squares.
struct CurrentSums {
    using Reset = Soft;
    static constexpr int states = 2;
    static constexpr bool leaks = false, rests = false;
    template <class V>
    static inline Compared<V> step(V* state, V current, const Parameters<V>& p) {
        state[0] = state[0] + current;
        state[1] = state[1] + current * current;
        return {current, p.theta, current >= p.theta};  // never fires: theta is infinite
    }
};

// How many parameters a model has for each channel.
template <class Model>
constexpr int channelwise = 0;
#define MODEL(Name, its_states, channels, scalars)                                      \
    static_assert(Name::states == its_states, #Name);                                   \
    static_assert(Name::Reset::to_value + Name::leaks + Name::rests == scalars, #Name); \
    template <>                                                                         \
    inline constexpr int channelwise<Name> = channels;
PK_MODELS(MODEL)
#undef MODEL
template <>
inline constexpr int channelwise<CurrentSums> = 1;

// Whether a model's neurons fire several times in a step.
template <class Model>
constexpr bool counts = false;
#define MODEL(Name, its_states, channels, scalars)     \
    static_assert(Name::states == its_states, #Name);  \
    template <>                                        \
    inline constexpr int channelwise<Name> = channels; \
    template <>                                        \
    inline constexpr bool counts<Name> = true;
PK_COUNTING_MODELS(MODEL)
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

// Calls `run` with the model that a layer's neurons have, if they fire several times in a step; returns whether they do.
template <class Run>
static inline bool with_counting_model(const Neuron& n, Run run) {
    switch (n.model) {
#define MODEL(Name, ...) \
    case models::Name: run(Name{}); return true;
        PK_COUNTING_MODELS(MODEL)
#undef MODEL
    }
    return false;
}

// As with_model, but the sums of currents may be wanted instead of neurons.
template <class Run>
static inline void with_model_or_sums(const Neuron& n, Run run) {
    if (n.model == models::CurrentSums) run(CurrentSums{});
    else with_model(n, run);
}

// Sets the parameters that all neurons of a layer share, and leaves the others 0.
template <class Model, class V>
static inline Parameters<V> shared_parameters(const Neuron& n) {
    Parameters<V> p{};
    const float* scalar = n.scalars;
    if constexpr (counts<Model>) {
        p.most = all<V>(scalar[0]), p.rounding = all<V>(scalar[1] != 0 ? 0x1p23f : 0.0f);
        return p;
    } else {
        if (Model::Reset::to_value) p.v_reset = all<V>(*scalar++);
        if (Model::leaks) p.v_rest = all<V>(*scalar++);
        if (Model::rests) p.refractory = all<V>(*scalar);
        return p;
    }
}

// The states of a block of neurons, which they keep from step to step; the potentials come first.
template <int states, int channels>
struct NeuronStates {
    Lanes<channels> part[states];
};

// A block of neurons of a layer, with their parameters in registers. `step` runs vector i of the block.
template <class Model, int channels>
struct NeuronBlock {
    Lanes<channels> of_channels[channelwise<Model>];
    Parameters<Vec> shared;
    NeuronBlock() = default;
    NeuronBlock(const Neuron& n, int64_t first) : shared(shared_parameters<Model, Vec>(n)) {
        for (int k = 0; k < channelwise<Model>; k++) of_channels[k] = load_block<channels>(n.channels + k * n.stride + first);
    }
    // Returns which neurons fire, or how often.
    inline auto step(NeuronStates<Model::states, channels>& block, Vec current, int i) const {
        Parameters<Vec> p = shared;
        p.theta = of_channels[0].v[i];
        if constexpr (channelwise<Model> > 1) p.decay = of_channels[1].v[i];
        if constexpr (channelwise<Model> > 2) p.second_decay = of_channels[2].v[i];
        if constexpr (channelwise<Model> > 3) p.increment = of_channels[3].v[i];
        Vec state[Model::states];
        for (int k = 0; k < Model::states; k++) state[k] = block.part[k].v[i];
        const auto result = Model::step(state, current, p);
        for (int k = 0; k < Model::states; k++) block.part[k].v[i] = state[k];
        if constexpr (counts<Model>) return result.spikes;
        else return result.fires;
    }
};

// Where a layer keeps the states of a pixel between segments of steps, and leaves them at the end: [N, states, P, C].
template <class Model>
static inline float* states_of(const Neurons& n, int64_t image, int64_t pixel, int64_t channel) {
    return n.v + (image * Model::states * n.P + pixel) * n.C + channel;
}
// Loads the states before step t of the first `count` channels of a block (see load_block).
template <class Model, int channels>
static inline void load_states(NeuronStates<Model::states, channels>& block, const Neurons& n, int64_t t, int64_t image,
                               int64_t pixel, int64_t channel, int count) {
    const float* from = n.start + image * n.start_image + pixel * n.start_pixel + channel;
    if (t) from = states_of<Model>(n, image, pixel, channel);
    const int64_t stride = t ? n.P * n.C : n.start_state;
    for (int k = 0; k < Model::states; k++) block.part[k] = load_block<channels>(from + k * stride, count);
}
template <int states, int channels>
static inline void store_states(float* to, const Neurons& n, const NeuronStates<states, channels>& block, int count) {
    for (int k = 0; k < states; k++) store_block(to + k * n.P * n.C, block.part[k], count);
}

// Runs one step of a block of channels; returns the spikes as bits.
template <class OfBlock, int states, int channels>
static inline uint32_t step_block(const OfBlock& neurons, NeuronStates<states, channels>& state,
                                  const Lanes<channels>& current) {
    uint32_t spikes = 0;
    for (int i = 0; i < current.vecs; i++) spikes |= bits(neurons.step(state, current.v[i], i)) << (i * Vec::width);
    return spikes;
}

// The same of neurons that fire several times; returns how often.
template <class OfBlock, int states, int channels>
static inline Lanes<channels> count_block(const OfBlock& neurons, NeuronStates<states, channels>& state,
                                          const Lanes<channels>& current) {
    Lanes<channels> spikes;
    for (int i = 0; i < current.vecs; i++) spikes.v[i] = neurons.step(state, current.v[i], i);
    return spikes;
}

// Writes the spikes of the first n of a block's channels; the bytes of a pixel hold eight channels each.
template <int channels = block>
static inline void store_spikes(uint8_t* bytes, uint32_t spikes, int n) {
    if (n >= channels) {
        memcpy(bytes, &spikes, channels / 8);
        return;
    }
    bytes[0] = (uint8_t)spikes;  // no loop: GCC 12 dropped its last iteration when this was inlined into a long function
    if (n > 8) bytes[1] = (uint8_t)(spikes >> 8);
    if (channels > 16 && n > 16) bytes[2] = (uint8_t)(spikes >> 16);
    if (channels > 16 && n > 24) bytes[3] = (uint8_t)(spikes >> 24);
}

// Adds 1 to the sums of those channels that fired, among the first n of a block.
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
