// Depthwise convolutions of the codes of sigma-delta neurons.
#include "senders.h"

namespace PK_TARGET {

// Adds n channels of all pixels of a window times their weights, at some steps; returns how many values were non-zero.
template <int channels, int steps, class Value>
static OUT_OF_LINE int64_t add_depthwise(const SigmaDeltaTaps& taps, const Value* x, int64_t frame, const float* weight,
                                         int64_t n, Lanes<channels>* sums) {
    Lanes<channels> sum[steps];
    each<steps>([&](auto t) { sum[t] = sums[t]; });
    int64_t additions = 0;
    for (int64_t tap = 0; tap < taps.count; tap++) {
        const Value* const values = x + taps.first + taps.x[tap];
        const float* const weights = weight + taps.weight[tap];
        uint64_t any = 0;
        each<steps>([&](auto t) {
            const uint64_t found = not_zero(values + t * frame, n);
            any |= found;
            additions += __builtin_popcountll(found);
        });
        if (!any) continue;
        for (int k = 0; k < Lanes<channels>::vecs; k++) {
            const Vec w = load(weights + k * Vec::width);
            each<steps>([&](auto t) {
                const Vec value = load_values(values + t * frame + k * Vec::width, n - k * Vec::width);
                sum[t].v[k] = multiply_add(value, w, sum[t].v[k]);
            });
        }
    }
    each<steps>([&](auto t) { sums[t] = sum[t]; });
    return additions;
}

// Output channel c reads only input channel c. The weights are in the order of pack_taps (../conv2d/pixel_by_pixel.h).
template <class Value>
static void depthwise_task_of(const SigmaDeltaCall& call, int64_t task, SigmaDeltaTaps& taps, Counted& counted) {
    const SigmaDelta& s = call.s;
    const int64_t filled = ceil_div(s.C, block) * block, frame = s.H * s.W * s.C;
    const auto tap_weights = [&](int64_t) { return filled; };
    each_place(call, task, taps, counted, tap_weights,
               [&](auto channels, int64_t image, int64_t pixel, int64_t channel, const auto& taps) {
                   const int64_t n = least(s.C - channel, channels);
                   const Value* const x = (const Value*)s.x + image * s.T_in * frame + channel;
                   const float* const weight = s.weight + channel;
                   int64_t additions = 0;
                   const auto add = [&](int64_t t, auto steps, auto* sums) {
                       constexpr int together = std::is_same_v<Value, float> ? 1 : steps;  // float values: a step at a time
                       each<steps / together>([&](auto k) {
                           additions +=
                               add_depthwise<channels, together>(taps, x + (t + k) * frame, frame, weight, n, sums + k);
                       });
                   };
                   const Fired fired = fire_sigma_delta(s, image, pixel, channel, Arrive::of<channels>(add));
                   return std::pair(additions, fired);
               });
}

void depthwise_task(const SigmaDeltaCall& call, int64_t task, SigmaDeltaTaps& taps, Counted& counted) {
    (call.s.real ? depthwise_task_of<float> : depthwise_task_of<int8_t>)(call, task, taps, counted);
}

}  // namespace PK_TARGET
