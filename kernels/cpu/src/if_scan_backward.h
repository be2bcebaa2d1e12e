// Backpropagation through all T steps of IF neurons in one launch, with the surrogate derivative of reference.py.
//
// A strip of neurons runs forward again, its potentials h[t] going where the gradients will be, and then back in time:
//
//     dI[t] = ds[t] * g(h[t]) + dv[t];    dv[t-1] = dI[t]     and dv passes a hard reset only where no spike was
//
// Plain loops: the compiler makes vectors of them, and the work is bound by memory.
#pragma once
#include "abi.h"
#include "models.h"

namespace PK_TARGET {

constexpr int strip_neurons = 64;

template <bool soft_reset>
static void backward_strip(const ScanBackward& s, int64_t first, int count) {
    const int64_t neurons = s.N * s.P * s.C;
    float v[strip_neurons] = {}, theta[strip_neurons], scale[strip_neurons];
    for (int i = 0; i < count; i++) {
        theta[i] = s.neuron.channels[(first + i) % s.C];
        scale[i] = s.scale[(first + i) % s.C];
    }
    for (int64_t t = 0; t < s.T; t++) {
        const float* current = s.current + t * neurons + first;
        float* potential = s.grad_current + t * neurons + first;
        for (int i = 0; i < count; i++) {
            const float h = v[i] + current[i];
            potential[i] = h;
            v[i] = h >= theta[i] ? (soft_reset ? h - theta[i] : s.neuron.scalars[0]) : h;
        }
    }
    float grad[strip_neurons] = {};
    for (int64_t t = s.T - 1; t >= 0; t--) {
        const float* grad_spikes = s.grad_spikes + t * neurons + first;
        float* out = s.grad_current + t * neurons + first;
        for (int i = 0; i < count; i++) {
            const float h = out[i], distance = h > theta[i] ? h - theta[i] : theta[i] - h;
            const float inside = theta[i] - distance, g = (inside > 0 ? inside : 0) * scale[i];
            const float kept = !soft_reset && h >= theta[i] ? 0 : grad[i];
            out[i] = grad[i] = grad_spikes[i] * g + kept;
        }
    }
}

static void if_scan_backward(const ScanBackward* pointer) {
    const ScanBackward s = *pointer;
    const int64_t neurons = s.N * s.P * s.C;
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < neurons; first += strip_neurons) {
        const int count = neurons - first < strip_neurons ? (int)(neurons - first) : strip_neurons;
        if (s.neuron.model == models::SoftReset) backward_strip<true>(s, first, count);
        else backward_strip<false>(s, first, count);
    }
}

}  // namespace PK_TARGET
