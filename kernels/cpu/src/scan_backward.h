// Backpropagation through all T steps of neurons in one launch, with a surrogate derivative g.
//
// A strip of neurons runs forward again, and stores its states before each step in a scratch buffer; then it runs back in time.
// With dv the gradient of v[t], which comes from step t + 1, and dI that of the current, leaky neurons have
//
//     ds = ds[t] + dv (v_reset - h)     hard reset; with a detached reset, ds = ds[t]
//     ds = ds[t] - dv theta             soft reset, likewise
//     dh = ds g(h - theta) + dv         with a hard reset, dv only where the neuron did not fire
//     dI[t] = dh,  dv[t-1] = decay dh,  dtheta = sum of -ds g (soft reset: and of -dv where the neuron fired),
//                                       ddecay = sum of dh (v[t-1] - v_rest)
//
// These are plain loops, which the compiler vectorises. A strip is long, so that each step reads long runs of memory.
#pragma once
#include "abi.h"
#include "neurons.h"
#include "table.h"
#include "work.h"

#include <cstring>

namespace PK_TARGET {

// The surrogate derivatives: they replace the derivative of a spike with respect to the potential, at x = h - theta.
// A new one needs a struct here, and its name in kernels/table.py.

// a / (1 + (pi a x)^2), with a = alpha / 2. Numbers: a, pi a.
struct ATan {
    const float a, slope;
    ATan(const Surrogate& s) : a(s.numbers[0]), slope(s.numbers[1]) {}
    inline float derivative(float x, float) const {
        const float at = slope * x;
        return a / (1 + at * at);
    }
};

// height / (1 + slope |x|)^2. Numbers: height, slope.
struct FastSigmoid {
    const float height, slope;
    FastSigmoid(const Surrogate& s) : height(s.numbers[0]), slope(s.numbers[1]) {}
    inline float derivative(float x, float) const {
        const float at = slope * x, below = 1 + (at > 0 ? at : -at);
        return height / (below * below);
    }
};

// alpha s (1 - s), with s = 1 / (1 + exp(-alpha x)). Numbers: alpha.
struct Sigmoid {
    const float alpha;
    Sigmoid(const Surrogate& s) : alpha(s.numbers[0]) {}
    // exp(a) for a within -87 .. 0, as 2^n times exp of a small rest, in operations that the compiler can vectorise.
    static inline float exponential(float a) {
        const float magic = 12582912;  // 1.5 * 2^23: adding it rounds to an integer
        const float shifted = a * 1.44269504f + magic, whole = shifted - magic;
        const float rest = (a - whole * 0.693359375f) + whole * 2.12194440e-4f;
        float p = 1.9875691500e-4f;
        p = p * rest + 1.3981999507e-3f;
        p = p * rest + 8.3334519073e-3f;
        p = p * rest + 4.1665795894e-2f;
        p = p * rest + 1.6666665459e-1f;
        p = p * rest + 5.0000001201e-1f;
        p = p * rest * rest + rest + 1;
        int32_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        const int32_t power = (bits + 127) << 23;  // the lowest bits of `shifted` are that integer, n
        float scale;
        memcpy(&scale, &power, sizeof scale);
        return p * scale;
    }
    inline float derivative(float x, float) const {
        float a = alpha * x;
        a = a > 0 ? -a : a;  // the derivative is symmetric
        a = a > -80 ? a : -80;
        const float e = exponential(a), s = 1 / (1 + e);
        return alpha * (e * s * s);
    }
};

// max(0, w - |x|) / w^2, with w = width theta. Numbers: width.
struct Triangle {
    const float width;
    Triangle(const Surrogate& s) : width(s.numbers[0]) {}
    inline float derivative(float x, float theta) const {
        const float w = width * theta, inside = w - (x > 0 ? x : -x);
        return (inside > 0 ? inside : 0) * (1 / (w * w));
    }
};

// Calls `run` with a surrogate derivative.
template <class Run>
static inline void with_surrogate(const Surrogate& s, Run run) {
    switch (s.shape) {
#define SURROGATE(Name) \
    case surrogates::Name: run(Name(s)); break;
        PK_SURROGATES(SURROGATE)
#undef SURROGATE
    }
}

// The steps back.

constexpr int strip_neurons = 256, most_channelwise = 4, most_states = 2;

// Gradients of one neuron. A backward step takes the gradients of the states after the step, and replaces them by those of the
// states before it.
struct Gradients {
    float current = 0, v = 0, other = 0;
    float theta = 0, decay = 0, second_decay = 0, increment = 0;  // the step's contribution to the gradients of the parameters
};

// What a step started from, and the other inputs of the backward step.
template <class Derivative>
struct Before {
    float v, other, current;
    float grad_spike;
    float pass;  // 1; 0 if gradients do not pass the reset
    Derivative derivative;
};

// The part of h's gradient that comes through the spike. `more`: a further gradient of the spike.
template <class Reset, class Derivative>
static inline float by_spike(const Compared<float>& s, const Before<Derivative>& before, const Parameters<float>& p,
                             float grad_v, float more = 0) {
    const float through_reset = before.pass * (grad_v * (Reset::to_value ? p.v_reset - s.h : -p.theta));
    return (before.grad_spike + through_reset + more) * before.derivative.derivative(s.h - s.bar, p.theta);
}

// The gradient of h: that part, plus what comes from v after the reset.
template <class Reset>
static inline float of_potential(bool fires, float by_spike, Gradients& grad) {
    constexpr bool soft = !Reset::to_value;
    grad.theta = -by_spike - (soft && fires ? grad.v : 0);
    return by_spike + (soft || !fires ? grad.v : 0);
}

static inline void back_leak(float v, const Parameters<float>& p, float grad_h, Gradients& grad) {
    grad.current = grad_h;
    grad.v = p.decay * grad_h;
    grad.decay = grad_h * (v - p.v_rest);
}

template <class Reset, class Derivative>
static inline void back_leaky(const Compared<float>& s, const Before<Derivative>& before, const Parameters<float>& p,
                              Gradients& grad) {
    const float spike = by_spike<Reset>(s, before, p, grad.v);
    back_leak(before.v, p, of_potential<Reset>(s.fires, spike, grad), grad);
}

// A model's backward step. A model without one does not compile.
template <class Model>
struct Back;

template <class Reset>
struct Back<IntegrateAndFire<Reset>> {
    template <class Derivative>
    static inline void step(const Before<Derivative>& before, const Parameters<float>& p, Gradients& grad) {
        float state[] = {before.v};
        back_leaky<Reset>(IntegrateAndFire<Reset>::step(state, before.current, p), before, p, grad);  // its decay is 1
    }
};

template <class Reset>
struct Back<Leaky<Reset>> {
    template <class Derivative>
    static inline void step(const Before<Derivative>& before, const Parameters<float>& p, Gradients& grad) {
        float state[] = {before.v};
        back_leaky<Reset>(Leaky<Reset>::step(state, before.current, p), before, p, grad);
    }
};

template <class Reset>
struct Back<Synaptic<Reset>> {
    template <class Derivative>
    static inline void step(const Before<Derivative>& before, const Parameters<float>& p, Gradients& grad) {
        float state[] = {before.v, before.other};
        back_leaky<Reset>(Synaptic<Reset>::step(state, before.current, p), before, p, grad);
        grad.current = grad.current + grad.other;
        grad.other = p.second_decay * grad.current;
        grad.second_decay = grad.current * before.other;
    }
};

template <class Reset>
struct Back<Adaptive<Reset>> {
    template <class Derivative>
    static inline void step(const Before<Derivative>& before, const Parameters<float>& p, Gradients& grad) {
        float state[] = {before.v, before.other};
        const Compared<float> s = Adaptive<Reset>::step(state, before.current, p);
        const float spike = by_spike<Reset>(s, before, p, grad.v, p.increment * grad.other);
        grad.second_decay = grad.other * before.other;
        grad.increment = s.fires ? grad.other : 0;
        grad.other = p.second_decay * grad.other - spike;
        back_leak(before.v, p, of_potential<Reset>(s.fires, spike, grad), grad);
    }
};

template <class Reset>
struct Back<Refractory<Reset>> {
    template <class Derivative>
    static inline void step(Before<Derivative> before, const Parameters<float>& p, Gradients& grad) {
        float state[] = {before.v, before.other};
        const bool resting = before.other > 0;
        const float kept = resting ? grad.v : 0, counted = resting ? grad.other : 0, awake = resting ? 0.0f : 1.0f;
        grad.v = awake * grad.v;
        before.grad_spike = awake * before.grad_spike;
        back_leaky<Reset>(Refractory<Reset>::step(state, before.current, p), before, p, grad);
        grad.v += kept;
        grad.other = counted;
    }
};

// Gradients ignore the rounding.
template <>
struct Back<LoihiHardReset> {
    template <class Derivative>
    static inline void step(const Before<Derivative>& before, const Parameters<float>& p, Gradients& grad) {
        float state[] = {before.v, before.other};
        back_leaky<Hard>(LoihiHardReset::step(state, before.current, p), before, p, grad);  // its v_rest is 0
        grad.increment = grad.current;
        grad.current = grad.current + grad.other;
        grad.other = p.second_decay * grad.current;
        grad.second_decay = grad.current * before.other;
    }
};

// The straight-through estimator: 1 / theta where the potential is from 0 to the most spikes, whatever the surrogate.
template <>
struct Back<IntegerSoftReset> {
    template <class Derivative>
    static inline void step(const Before<Derivative>& before, const Parameters<float>& p, Gradients& grad) {
        float state[] = {before.v};
        const SpikeCounts<float> s = IntegerSoftReset::step(state, before.current, p);
        const float level = s.h / p.theta, spikes = before.grad_spike - before.pass * (grad.v * p.theta);
        const float by_level = level >= 0 && level <= p.most ? spikes : 0.0f;
        const float grad_h = by_level / p.theta + grad.v;
        grad.theta = -by_level * (level / p.theta) - grad.v * s.spikes;
        grad.current = grad_h;
        grad.v = p.decay * grad_h;
        grad.decay = grad_h * before.v;
    }
};

// The values of a strip's neurons.
struct Strip {
    alignas(64) float parameter[most_channelwise][strip_neurons];
    alignas(64) float state[most_states][strip_neurons], grad_state[most_states][strip_neurons];
    alignas(64) float sum[1 + most_channelwise][strip_neurons];  // gradients of a bias, and of the parameters
    alignas(64) float held[strip_neurons];  // one step's gradient of a constant current

    Parameters<float> of(int i, const Parameters<float>& shared) const {
        Parameters<float> p = shared;
        p.theta = parameter[0][i], p.decay = parameter[1][i], p.second_decay = parameter[2][i], p.increment = parameter[3][i];
        return p;
    }
};

template <class Model>
static void run_forward(const ScanBackward& s, const Parameters<float>& shared, int64_t first, int count, Strip& strip,
                        float* before) {
    for (int64_t t = 0; t < s.T; t++) {
        const float* const current = s.current + t * s.time_stride + first;
        for (int part = 0; part < Model::states; part++, before += strip_neurons)
            memcpy(before, strip.state[part], count * sizeof(float));
        for (int i = 0; i < count; i++) {
            float state[] = {strip.state[0][i], strip.state[1][i]};
            Model::step(state, current[i], strip.of(i, shared));
            strip.state[0][i] = state[0];
            if (Model::states > 1) strip.state[1][i] = state[1];
        }
    }
}

template <class Model, class Derivative>
static void run_back(const ScanBackward& s, const Parameters<float>& shared, const Derivative derivative, int64_t first,
                     int count, Strip& strip, const float* before) {
    const int64_t neurons = s.N * s.P * s.C;
    const bool held = s.time_stride == 0;
    const float pass = s.surrogate.detach_reset ? 0 : 1;
    for (int64_t t = s.T - 1; t >= 0; t--) {
        const float* const grad_spikes = s.grad_spikes + t * neurons + first;
        const float* const current = s.current + t * s.time_stride + first;
        const float* const v = before + t * Model::states * strip_neurons;
        const float* const other = v + (Model::states - 1) * strip_neurons;
        float* const out = held ? strip.held : s.grad_current + t * neurons + first;
#pragma GCC ivdep  // `out` may be `current`: each value is read before it is overwritten
        for (int i = 0; i < count; i++) {
            Gradients grad;
            grad.v = strip.grad_state[0][i], grad.other = strip.grad_state[1][i];
            const Before<Derivative> start{v[i], other[i], current[i], grad_spikes[i], pass, derivative};
            Back<Model>::step(start, strip.of(i, shared), grad);
            strip.grad_state[0][i] = grad.v, strip.grad_state[1][i] = grad.other;
            strip.sum[0][i] += grad.current;
            strip.sum[1][i] += grad.theta;
            if (channelwise<Model> > 1) strip.sum[2][i] += grad.decay;
            if (channelwise<Model> > 2) strip.sum[3][i] += grad.second_decay;
            if (channelwise<Model> > 3) strip.sum[4][i] += grad.increment;
            out[i] = grad.current;
        }
        if (held)
            for (int i = 0; i < count; i++) s.grad_current[first + i] += strip.held[i];
    }
}

// Cuts a strip, which begins at neuron `first`, where neuron numbers are multiples of `size`. Calls run(i, index, n) for each
// piece: n neurons from the strip's i-th on, which begin `index` neurons behind such a multiple.
template <class Run>
static inline void each_run(int64_t first, int count, int64_t size, Run run) {
    for (int i = 0; i < count;) {
        const int64_t index = (first + i) % size;
        const int n = (int)least(count - i, size - index);
        run(i, index, n);
        i += n;
    }
}

// The same for states [N, states, P, C]: calls run(part, i, where, n) for each state, numbered `part`, at offset `where`.
template <class Model, class Run>
static inline void each_state(const ScanBackward& s, int64_t first, int count, Run run) {
    const int64_t size = s.P * s.C;
    each_run(first, count, size, [&](int i, int64_t index, int n) {
        for (int part = 0; part < Model::states; part++)
            run(part, i, ((first + i) / size * Model::states + part) * size + index, n);
    });
}

template <class Model>
static void load_strip(const ScanBackward& s, int64_t first, int count, Strip& strip) {
    for (int i = 0; i < strip_neurons; i++) strip.parameter[1][i] = 1;
    each_run(first, count, s.C, [&](int i, int64_t channel, int n) {
        for (int k = 0; k < channelwise<Model>; k++)
            memcpy(strip.parameter[k] + i, s.neuron.channels + k * s.neuron.stride + channel, n * sizeof(float));
    });
    each_state<Model>(s, first, count, [&](int part, int i, int64_t where, int n) {
        memcpy(strip.state[part] + i, s.v + where, n * sizeof(float));
        if (s.grad_v_last) memcpy(strip.grad_state[part] + i, s.grad_v_last + where, n * sizeof(float));
        else memset(strip.grad_state[part] + i, 0, n * sizeof(float));
    });
    memset(strip.sum, 0, sizeof strip.sum);
    if (s.time_stride == 0) memset(s.grad_current + first, 0, count * sizeof(float));
}

// Writes the gradients of the states before the first step, and adds the gradients of bias and parameters to sums [1 + 4][C].
template <class Model>
static void store_strip(const ScanBackward& s, int64_t first, int count, const Strip& strip, double* sums) {
    each_state<Model>(s, first, count, [&](int part, int i, int64_t where, int n) {
        memcpy(s.grad_v + where, strip.grad_state[part] + i, n * sizeof(float));
    });
    each_run(first, count, s.C, [&](int i, int64_t channel, int n) {
        for (int k = 0; k < 1 + channelwise<Model>; k++)
            for (int j = 0; j < n; j++) sums[k * s.C + channel + j] += strip.sum[k][i + j];
    });
}

template <class Model>
static void scan_backward_of(const ScanBackward& s) {
    const int64_t neurons = s.N * s.P * s.C, threads = max_threads(), size = (1 + most_channelwise) * s.C;
    const auto shared = shared_parameters<Model, float>(s.neuron);
    ThreadMemory<double> sums(threads * size);
    with_surrogate(s.surrogate, [&](auto derivative) {
#pragma omp parallel
        {
            ThreadMemory<Strip> strip(1);
            ThreadMemory<float> before(s.T * Model::states * strip_neurons);
#pragma omp for schedule(static)
            for (int64_t first = 0; first < neurons; first += strip_neurons) {
                const int count = (int)least(strip_neurons, neurons - first);
                load_strip<Model>(s, first, count, *strip.data);
                run_forward<Model>(s, shared, first, count, *strip.data, before.data);
                run_back<Model>(s, shared, derivative, first, count, *strip.data, before.data);
                store_strip<Model>(s, first, count, *strip.data, sums.data + thread_number() * size);
            }
        }
    });
    for (int64_t i = 0; i < size; i++) {
        s.grad_parameters[i] = 0;
        for (int64_t thread = 0; thread < threads; thread++) s.grad_parameters[i] += sums.data[thread * size + i];
    }
}

void scan_backward(const ScanBackward* s) {
    const auto run = [&](auto model) { scan_backward_of<decltype(model)>(*s); };
    if (!with_counting_model(s->neuron, run)) with_model(s->neuron, run);
}

}  // namespace PK_TARGET
