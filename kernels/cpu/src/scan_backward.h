// Backpropagation through all T steps of neurons in one launch, with a surrogate derivative g (surrogates.h).
//
// A strip of neurons runs forward again, its states before each step going to a scratch buffer, and then back in time. With
// dv the gradient of v[t], which step t + 1 hands down, and dI that of the current, leaky neurons have
//
//     ds = ds[t] + dv (v_reset - h)     hard reset; with a detached reset, ds = ds[t]
//     ds = ds[t] - dv theta             soft reset, likewise
//     dh = ds g(h - theta) + dv         but dv passes a hard reset only where no spike was
//     dI[t] = dh,  dv[t-1] = decay dh,  dtheta = sum of -ds g (soft: and of -dv where a spike was),
//                                       ddecay = sum of dh (v[t-1] - v_rest)
//
// Plain loops: the compiler makes vectors of them. A strip is long, so that each step's memory is read in long runs.
#pragma once
#include "abi.h"
#include "models.h"
#include "surrogates.h"
#include "work.h"

namespace PK_TARGET {

constexpr int strip_neurons = 256, most_channelwise = 4, most_states = 2;

// What one neuron has: parameters in the order of abi.h's Neuron (decay 1 and v_rest 0 if it does not leak).
struct Parameter {
    float theta, decay, third, fourth;  // the models' own order
    float v_reset, v_rest, refractory;
    float pass;  // 1, or 0 where gradients do not pass the reset
};

// A step forward starts from `v`, `other`; a step back has their gradients after the step on entry, and before it after.
struct Back {
    float current = 0, v = 0, other = 0;      // gradients
    float theta = 0, decay = 0, third = 0, fourth = 0;  // by which those of the parameters grow
};

template <bool soft>
static inline float after_reset(bool fired, float h, const Parameter& p) {
    return fired ? (soft ? h - p.theta : p.v_reset) : h;
}

// What the reset hands to the spike's gradient.
template <bool soft>
static inline float through_reset(float h, const Parameter& p, float grad_v) {
    return p.pass * (grad_v * (soft ? -p.theta : p.v_reset - h));
}

// The gradient of h, of the spike's part `by_spike` and of that of v after the reset.
template <bool soft>
static inline float of_potential(bool fired, float by_spike, Back& grad) {
    grad.theta = -by_spike - (soft && fired ? grad.v : 0);
    return by_spike + (soft || !fired ? grad.v : 0);
}

static inline float leak(float v, float current, const Parameter& p) { return p.v_rest + p.decay * (v - p.v_rest) + current; }

static inline void back_leak(float v, const Parameter& p, float grad_h, Back& grad) {
    grad.v = p.decay * grad_h;
    grad.decay = grad_h * (v - p.v_rest);
}

template <bool soft>
struct LeakyBack {
    static constexpr int states = 1;
    static inline void step(float& v, float&, float current, const Parameter& p) {
        const float h = leak(v, current, p);
        v = after_reset<soft>(h >= p.theta, h, p);
    }
    template <class Derivative>
    static inline void back(float v, float, float current, const Parameter& p, float grad_spike, const Derivative& g,
                            Back& grad) {
        const float h = leak(v, current, p);
        const float by_spike = (grad_spike + through_reset<soft>(h, p, grad.v)) * g.derivative(h - p.theta, p.theta);
        grad.current = of_potential<soft>(h >= p.theta, by_spike, grad);
        back_leak(v, p, grad.current, grad);
    }
};

template <bool soft>
struct SynapticBack {  // third: current_decay
    static constexpr int states = 2;
    static inline void step(float& v, float& filtered, float current, const Parameter& p) {
        filtered = p.third * filtered + current;
        LeakyBack<soft>::step(v, filtered, filtered, p);
    }
    template <class Derivative>
    static inline void back(float v, float filtered, float current, const Parameter& p, float grad_spike, const Derivative& g,
                            Back& grad) {
        LeakyBack<soft>::back(v, 0, p.third * filtered + current, p, grad_spike, g, grad);
        grad.current = grad.current + grad.other;
        grad.other = p.third * grad.current;
        grad.third = grad.current * filtered;
    }
};

template <bool soft>
struct AdaptiveBack {  // third: adaptation_decay, fourth: adaptation
    static constexpr int states = 2;
    static inline void step(float& v, float& adapted, float current, const Parameter& p) {
        const float h = leak(v, current, p), decayed = p.third * adapted;
        const bool fired = h >= p.theta + adapted;
        v = after_reset<soft>(fired, h, p);
        adapted = fired ? decayed + p.fourth : decayed;
    }
    template <class Derivative>
    static inline void back(float v, float adapted, float current, const Parameter& p, float grad_spike, const Derivative& g,
                            Back& grad) {
        const float h = leak(v, current, p), bar = p.theta + adapted;
        const bool fired = h >= bar;
        const float ds = grad_spike + through_reset<soft>(h, p, grad.v) + p.fourth * grad.other;
        const float by_spike = ds * g.derivative(h - bar, p.theta);
        grad.third = grad.other * adapted;
        grad.fourth = fired ? grad.other : 0;
        grad.other = p.third * grad.other - by_spike;
        grad.current = of_potential<soft>(fired, by_spike, grad);
        back_leak(v, p, grad.current, grad);
    }
};

template <bool soft>
struct RefractoryBack {
    static constexpr int states = 2;
    static inline void step(float& v, float& left, float current, const Parameter& p) {
        const float h = leak(v, current, p);
        const bool resting = left > 0, fired = h >= p.theta;
        v = resting ? v : after_reset<soft>(fired, h, p);
        left = resting ? left - 1 : fired ? p.refractory : 0;
    }
    template <class Derivative>
    static inline void back(float v, float left, float current, const Parameter& p, float grad_spike, const Derivative& g,
                            Back& grad) {
        const float kept = left > 0 ? grad.v : 0, awake = left > 0 ? 0.0f : 1.0f, counted = left > 0 ? grad.other : 0;
        grad.v = awake * grad.v;
        LeakyBack<soft>::back(v, 0, current, p, awake * grad_spike, g, grad);
        grad.v += kept;
        grad.other = counted;
    }
};

// Values of a strip's neurons, one after another.
struct Strip {
    alignas(64) float parameter[most_channelwise][strip_neurons];
    alignas(64) float state[most_states][strip_neurons], grad_state[most_states][strip_neurons];
    alignas(64) float sum[1 + most_channelwise][strip_neurons];  // gradients of a bias, and of the parameters
    alignas(64) float held[strip_neurons];                       // of a current that is held, in one step

    Parameter of(int i, const Parameter& shared) const {
        Parameter p = shared;
        p.theta = parameter[0][i], p.decay = parameter[1][i], p.third = parameter[2][i], p.fourth = parameter[3][i];
        return p;
    }
};

template <class Family>
static void run_forward(const ScanBackward& s, const Parameter& shared, int64_t first, int count, Strip& strip, float* before) {
    for (int64_t t = 0; t < s.T; t++) {
        const float* const current = s.current + t * s.time_stride + first;
        for (int part = 0; part < Family::states; part++, before += strip_neurons)
            memcpy(before, strip.state[part], count * sizeof(float));
        for (int i = 0; i < count; i++) Family::step(strip.state[0][i], strip.state[1][i], current[i], strip.of(i, shared));
    }
}

template <class Family, class Derivative>
static void run_back(const ScanBackward& s, const Parameter& shared, const Derivative derivative, int64_t first, int count,
                     Strip& strip, const float* before) {
    const int64_t neurons = s.N * s.P * s.C;
    const bool held = s.time_stride == 0;
    for (int64_t t = s.T - 1; t >= 0; t--) {
        const float* const grad_spikes = s.grad_spikes + t * neurons + first;
        const float* const current = s.current + t * s.time_stride + first;
        const float* const v = before + t * Family::states * strip_neurons;
        const float* const other = v + (Family::states - 1) * strip_neurons;
        float* const out = held ? strip.held : s.grad_current + t * neurons + first;
#pragma GCC ivdep  // `out` may be `current`, each of whose values is read before it is written
        for (int i = 0; i < count; i++) {
            Back grad;
            grad.v = strip.grad_state[0][i], grad.other = strip.grad_state[1][i];
            Family::back(v[i], other[i], current[i], strip.of(i, shared), grad_spikes[i], derivative, grad);
            strip.grad_state[0][i] = grad.v, strip.grad_state[1][i] = grad.other;
            strip.sum[0][i] += grad.current;
            strip.sum[1][i] += grad.theta;
            strip.sum[2][i] += grad.decay;
            if (Family::states > 1) strip.sum[3][i] += grad.third, strip.sum[4][i] += grad.fourth;
            out[i] = grad.current;
        }
        if (held)
            for (int i = 0; i < count; i++) s.grad_current[first + i] += strip.held[i];
    }
}

// Calls run(i, index, n) for runs of n neurons of a strip, from its i-th, of which all values of one step lie side by side:
// `size` is the length of a period of such runs, `index` where a run begins in it.
template <class Run>
static inline void each_run(int64_t first, int count, int64_t size, Run run) {
    for (int i = 0; i < count;) {
        const int64_t index = (first + i) % size;
        const int n = (int)least(count - i, size - index);
        run(i, index, n);
        i += n;
    }
}

// The same of states [N, states, P, C]: calls run(i, where, n) for each part, with where they are.
template <class Family, class Run>
static inline void each_state(const ScanBackward& s, int64_t first, int count, Run run) {
    const int64_t size = s.P * s.C;
    each_run(first, count, size, [&](int i, int64_t index, int n) {
        for (int part = 0; part < Family::states; part++)
            run(part, i, ((first + i) / size * Family::states + part) * size + index, n);
    });
}

template <class Family>
static void load_strip(const ScanBackward& s, int channelwise, int64_t first, int count, Strip& strip) {
    for (int i = 0; i < strip_neurons; i++) strip.parameter[1][i] = 1;
    each_run(first, count, s.C, [&](int i, int64_t channel, int n) {
        for (int k = 0; k < channelwise; k++)
            memcpy(strip.parameter[k] + i, s.neuron.channels + k * s.neuron.stride + channel, n * sizeof(float));
    });
    each_state<Family>(s, first, count, [&](int part, int i, int64_t where, int n) {
        memcpy(strip.state[part] + i, s.v + where, n * sizeof(float));
        if (s.grad_v_last) memcpy(strip.grad_state[part] + i, s.grad_v_last + where, n * sizeof(float));
        else memset(strip.grad_state[part] + i, 0, n * sizeof(float));
    });
    memset(strip.sum, 0, sizeof strip.sum);
    if (s.time_stride == 0) memset(s.grad_current + first, 0, count * sizeof(float));
}

// Writes the gradients of the states before the first step, and adds those of bias and parameters to sums [1 + 4][C].
template <class Family>
static void store_strip(const ScanBackward& s, int channelwise, int64_t first, int count, const Strip& strip, double* sums) {
    each_state<Family>(s, first, count, [&](int part, int i, int64_t where, int n) {
        memcpy(s.grad_v + where, strip.grad_state[part] + i, n * sizeof(float));
    });
    each_run(first, count, s.C, [&](int i, int64_t channel, int n) {
        for (int k = 0; k < 1 + channelwise; k++)
            for (int j = 0; j < n; j++) sums[k * s.C + channel + j] += strip.sum[k][i + j];
    });
}

template <class Family>
static void scan_backward_of(const ScanBackward& s, int channelwise, Parameter shared) {
    const int64_t neurons = s.N * s.P * s.C, threads = max_threads(), size = (1 + most_channelwise) * s.C;
    shared.pass = s.surrogate.detach_reset ? 0 : 1;
    Memory<double> sums(threads * size);
    with_surrogate(s.surrogate, [&](auto derivative) {
#pragma omp parallel
        {
            Memory<Strip> strip(1);
            Memory<float> before(s.T * Family::states * strip_neurons);
#pragma omp for schedule(static)
            for (int64_t first = 0; first < neurons; first += strip_neurons) {
                const int count = (int)least(strip_neurons, neurons - first);
                load_strip<Family>(s, channelwise, first, count, *strip.data);
                run_forward<Family>(s, shared, first, count, *strip.data, before.data);
                run_back<Family>(s, shared, derivative, first, count, *strip.data, before.data);
                store_strip<Family>(s, channelwise, first, count, *strip.data, sums.data + thread_number() * size);
            }
        }
    });
    for (int64_t i = 0; i < size; i++) {
        s.grad_parameters[i] = 0;
        for (int64_t thread = 0; thread < threads; thread++) s.grad_parameters[i] += sums.data[thread * size + i];
    }
}

static void scan_backward(const ScanBackward* pointer) {
    const ScanBackward& s = *pointer;
    const float* const n = s.neuron.scalars;
    // clang-format off: a table
    switch (s.neuron.model) {
        case models::HardReset: return scan_backward_of<LeakyBack<false>>(s, 1, {0, 0, 0, 0, n[0], 0, 0, 0});
        case models::SoftReset: return scan_backward_of<LeakyBack<true>>(s, 1, {});
        case models::LeakyHardReset: return scan_backward_of<LeakyBack<false>>(s, 2, {0, 0, 0, 0, n[0], n[1], 0, 0});
        case models::LeakySoftReset: return scan_backward_of<LeakyBack<true>>(s, 2, {0, 0, 0, 0, 0, n[0], 0, 0});
        case models::SynapticHardReset: return scan_backward_of<SynapticBack<false>>(s, 3, {0, 0, 0, 0, n[0], n[1], 0, 0});
        case models::SynapticSoftReset: return scan_backward_of<SynapticBack<true>>(s, 3, {0, 0, 0, 0, 0, n[0], 0, 0});
        case models::AdaptiveHardReset: return scan_backward_of<AdaptiveBack<false>>(s, 4, {0, 0, 0, 0, n[0], n[1], 0, 0});
        case models::AdaptiveSoftReset: return scan_backward_of<AdaptiveBack<true>>(s, 4, {0, 0, 0, 0, 0, n[0], 0, 0});
        case models::RefractoryHardReset: return scan_backward_of<RefractoryBack<false>>(s, 2, {0, 0, 0, 0, n[0], n[1], n[2], 0});
        case models::RefractorySoftReset: return scan_backward_of<RefractoryBack<true>>(s, 2, {0, 0, 0, 0, 0, n[0], n[1], 0});
    }
    // clang-format on
}

}  // namespace PK_TARGET
