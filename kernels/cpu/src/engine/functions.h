// Smooth functions of single values, such as the sigmoid of a gate. They are computed in double and rounded once, so that all
// machines, and torch in float64, give the same floats. Loops over them become vector code: nothing here branches or calls.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "../table.h"

namespace PK_TARGET {
namespace smooth {

// exp(x) - 1 and exp(x), to a few units in the last place of a double. x is clamped to where 2^k is a normal number.
// std::exp would be a symbol of glibc 2.29, which is too new for the wheel.
struct Exponential {
    double minus_1, whole;

    explicit Exponential(double x) {
        constexpr double log2_e = 0x1.71547652b82fep0, high = 0x1.62e42fee00000p-1, low = 0x1.a39ef35793c76p-33;
        constexpr double shift = 0x1.8p52;  // adding it rounds to an integer, which is then in the lowest bits
        x = x < -708.0 ? -708.0 : x > 709.0 ? 709.0 : x;
        const double shifted = x * log2_e + shift, k = shifted - shift, r = (x - k * high) - k * low;  // x = k ln 2 + r
        uint64_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        bits = (bits << 52) + (uint64_t(1023) << 52);
        double power;  // 2^k
        memcpy(&power, &bits, sizeof power);
        // The Taylor series of exp(r) - 1: |r| is below 0.35.
        double sum = 1.0 / 6227020800.0;
        sum = sum * r + 1.0 / 479001600.0;
        sum = sum * r + 1.0 / 39916800.0;
        sum = sum * r + 1.0 / 3628800.0;
        sum = sum * r + 1.0 / 362880.0;
        sum = sum * r + 1.0 / 40320.0;
        sum = sum * r + 1.0 / 5040.0;
        sum = sum * r + 1.0 / 720.0;
        sum = sum * r + 1.0 / 120.0;
        sum = sum * r + 1.0 / 24.0;
        sum = sum * r + 1.0 / 6.0;
        sum = sum * r + 1.0 / 2.0;
        sum = sum * r * r + r;
        minus_1 = power * sum + (power - 1.0);
        whole = power * sum + power;
    }
};

// x limited to 0 from below and to 6 from above.
static inline double up_to_6(double x) { return x < 0.0 ? 0.0 : x > 6.0 ? 6.0 : x; }

struct Sigmoid {
    double operator()(double x) const { return 1.0 / (1.0 + Exponential(-x).whole); }
};
struct Hardsigmoid {
    double operator()(double x) const { return up_to_6(x + 3.0) / 6.0; }
};
struct Hardswish {
    double operator()(double x) const { return x * up_to_6(x + 3.0) / 6.0; }
};
struct Silu {
    double operator()(double x) const { return x / (1.0 + Exponential(-x).whole); }
};
struct Tanh {
    double operator()(double x) const {
        const double negative = Exponential(-2.0 * std::fabs(x)).minus_1;  // tanh(|x|) = -negative / (2 + negative)
        return std::copysign(negative / (2.0 + negative), x);
    }
};
struct Elu {
    double alpha;
    double operator()(double x) const {
        const double below = alpha * Exponential(x).minus_1;
        return x > 0.0 ? x : below;
    }
};
struct Softplus {
    double beta, threshold;
    double operator()(double x) const {  // not in vectors
        return beta * x > threshold ? x : std::log1p(Exponential(beta * x).whole) / beta;
    }
};
struct Mish {
    double operator()(double x) const {  // x tanh(log(1 + e)), e = exp(x)
        const double e = Exponential(x > 40.0 ? 40.0 : x).whole, n = e * (e + 2.0);
        return x * (n / (n + 2.0));
    }
};

// Calls work(function) with the function of this number, engine::SigmoidFunction and so on, and its parameters.
template <class Work>
static inline void with_function(int64_t number, const double* parameters, Work work) {
    switch (number) {
        case engine::HardsigmoidFunction: return work(Hardsigmoid{});
        case engine::HardswishFunction: return work(Hardswish{});
        case engine::SiluFunction: return work(Silu{});
        case engine::TanhFunction: return work(Tanh{});
        case engine::EluFunction: return work(Elu{parameters[0]});
        case engine::SoftplusFunction: return work(Softplus{parameters[0], parameters[1]});
        case engine::MishFunction: return work(Mish{});
        default: return work(Sigmoid{});
    }
}

}  // namespace smooth
}  // namespace PK_TARGET
