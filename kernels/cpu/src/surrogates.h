// The surrogate derivatives: they replace the derivative of a spike with respect to the potential, at x = h - theta.
// A new one needs a struct here, and its name in kernels/table.py.
#pragma once
#include "abi.h"
#include "table.h"

#include <cstring>

namespace PK_TARGET {

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

}  // namespace PK_TARGET
