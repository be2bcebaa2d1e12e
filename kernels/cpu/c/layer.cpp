// What Python asks about a layer that it calls by itself (../layer_plans.py): who runs it, and which plans can. Neither the C
// library nor the browser asks.
#if !defined(PK_ENGINE_ONLY)
#include "../src/cost_model.h"
#include "../src/engine/engine.h"
#include "include/proxykernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>

extern "C" const Kernels* proxykernels_cpu(const char* target);  // ../src/dispatch.cpp

namespace proxykernels {

// A number that two layers share only if one plan serves the thresholds of both: make_plan rounds them down to powers of two.
static int64_t hash_of_thresholds(const Neurons& neurons) {
    uint64_t hash = 0;
    for (int64_t c = 0; c < neurons.C; c++) {
        const float theta = neurons.neuron.channels[c];
        hash = (hash ^ (uint64_t)(std::isfinite(theta) ? std::ilogb(theta) + 1000 : 0)) * 0x9e3779b97f4a7c15u;
    }
    return (int64_t)hash;
}

static costs::ConvSizes sizes_of(const Conv2d& c) {
    return {c.neurons.T, c.neurons.N, c.neurons.P, c.neurons.C, c.H,          c.W,
            c.C_in,      c.kernel_h,  c.kernel_w,  c.padding_w, c.dilation_h, c.dilation_w};
}

// The share of inputs that fire at a step from which on torch's convolution takes less time than any kernel of spikes, by the
// cost model.
static double dense_rate(const Conv2d& c, bool has_tiles, bool has_tables) {
    const costs::ConvSizes layer = sizes_of(c);
    const costs::Work& cost = costs::machine_with(has_tiles).costs;
    const double dense = costs::cycles(cost.dense, costs::dense(layer));
    if (has_tiles && costs::tiles_hold(layer) && costs::cycles(cost.tiles, costs::tiles(layer, 4)) < dense) return INFINITY;
    if (has_tables && costs::cycles(cost.lookup, costs::lookup(layer)) < dense) return INFINITY;
    const auto rows = [&](double rate) {
        const int64_t slice_rows = costs::machine_with(has_tiles).slice_rows;
        return costs::cycles(cost.events, costs::adding(layer, rate, costs::float_row, slice_rows));
    };
    return (dense - rows(0)) / (rows(1) - rows(0));
}

// The share of n values that are not 0, by some of them.
static double share_of(const float* values, int64_t n) {
    constexpr int64_t together = 16, most = 1 << 10;
    int64_t found = 0, seen = 0;
    for (int64_t i = 0; i + together <= n; i += n / most + together, seen += together)  // any channels
        for (int64_t k = i; k < i + together; k++) found += values[k] != 0;
    return seen ? (double)found / (double)seen : 1;
}

// Whether torch's convolution of values takes less time than a plan. A plan adds rows of weights times the values that are not 0,
// or, where there are many, multiplies all. It then takes `slower` times what torch's products take, and as long as they take
// where a share of `listed` is not 0: measured by benchmarks/ops_speed.py with and without AVX-512.
static bool torch_multiplies(const Conv2d& c, bool has_tiles, bool is_avx512, const float* values) {
    constexpr double slower = 1.25;
    constexpr int64_t few_inputs = 64;  // of a window, which torch gathers
    const int64_t taps = c.kernel_h * c.kernel_w;
    if (c.groups > 1 || (taps > 1 && taps * c.C_in <= few_inputs)) return true;
    const double listed = is_avx512 ? 0.35 : 0.4, share = share_of(values, c.neurons.T * c.neurons.N * c.H * c.W * c.C_in);
    const costs::Dense cost = costs::machine_with(has_tiles).costs.dense, counts = costs::dense(sizes_of(c));
    const double by_plan = std::min(slower, share / listed) * cost.multiply * counts.multiply + cost.fire * counts.fire;
    return by_plan > costs::cycles(cost, counts);
}

// Whether torch's convolution is faster, by the rate of a few pixels. `values`: the input, if it is values; or null.
static bool torch_pays(const Conv2d& c, const char* target, const float* values) {
    const bool has_tiles = !strcmp(target, "amx"), is_avx512 = has_tiles || !strcmp(target, "avx512");
    if (values) return torch_multiplies(c, has_tiles, is_avx512, values);
    if (c.groups > 1) return false;
    const double least = dense_rate(c, has_tiles, is_avx512);
    if (least >= 1) return false;
    const int64_t pixel = (c.C_in + 7) / 8, step = c.H * c.W * pixel;
    Sample sample{c.x, c.neurons.N, c.neurons.T, c.H * c.W, c.C_in, c.neurons.T * step, step, pixel, 0, 0, 0};
    proxykernels_cpu(target)->sample_rates(&sample);
    return sample.rows > least;
}

// Whether windows of few channels, and of more than one pixel, can be gathered into pixels first (../src/spikes.cpp).
static bool can_gather(const Conv2d& c) {
    constexpr int64_t most_channels = 4;  // with more, bytes are more than half full
    constexpr int64_t most_row_bits = 57, most_bytes = 1 << 26;  // of a row of a window; of all windows together
    const int64_t taps = c.kernel_h * c.kernel_w;
    if (c.groups > 1 || c.C_in > most_channels || c.kernel_w * c.C_in > most_row_bits || c.dilation_w != 1) return false;
    const double windows = (double)c.neurons.N * (double)c.neurons.T * (double)c.neurons.P;
    return taps > 1 && windows * (double)((taps * c.C_in + 7) / 8) <= most_bytes;
}

// Whether gathering saves more time than it takes: the least number of taps depends on the number of steps.
static bool gathering_pays(const Conv2d& c) { return c.kernel_h * c.kernel_w >= (c.neurons.T >= 8 ? 25 : 49); }

// Whether runs have enough samples, pixels and steps for kernels that sum slices of weights (is_enough of
// ../src/engine/convolution.h).
static bool is_long(const Conv2d& c, bool is_periodic) {
    constexpr int64_t least_steps = 8, most_steps = 64, least_uses = 256;  // of a segment; samples * pixels * steps
    const Neurons& n = c.neurons;
    if (n.P == 1 || !(n.T >= least_steps || c.groups > 1 || is_periodic)) return false;
    return n.N * n.P * std::min(n.T, most_steps) >= least_uses;
}

// Chooses who runs a call. `conv`: its contiguous spikes, its sizes and its neurons. `forced`: the Runner of every call that it
// can run; if that is ByPlan, torch never runs; -1: the fastest. `values`: the input, if it is values instead of spikes; or null.
extern "C" PK_API void proxykernels_choose_runner(const Conv2d* conv, const char* target, int64_t forced, int64_t is_periodic,
                                                  const float* values, engine::LayerChoice* choice) {
    const Conv2d& c = *conv;
    choice->runner = engine::ByPlan;
    choice->is_long = is_long(c, is_periodic);
    choice->thresholds = hash_of_thresholds(c.neurons);
    if (!c.H || !c.W) choice->runner = engine::ByTorch;  // plans have no images without pixels
    else if (is_periodic) return;
    else if (forced == engine::ByTorch || (forced < 0 && torch_pays(c, target, values))) choice->runner = engine::ByTorch;
    else if (!values && can_gather(c) && (forced == engine::ByGatheredPlan || gathering_pays(c)))
        choice->runner = engine::ByGatheredPlan;
}

}  // namespace proxykernels
#endif
