// A cost model of the kernels: the clock cycles that each takes for a layer on one core.
//
// A kernel's time is a sum: how often it does something, which is counted here, times what that costs there. Layers that are
// called one by one choose by it (../choice.py), and engines for segments of steps (../c/lines.h). `python
// benchmarks/ops_speed.py --fit` measures what it costs on another machine; only the ratios matter. It is compiled once.
// headers.py reads the structs as they stand here.
#pragma once
#include <cstddef>
#include <cstdint>

namespace costs {

// A convolution. Of one with groups, C counts the channels of all of them, C_in those of one.
struct Layer {
    int64_t T, N;
    int64_t P, C;        // output pixels of an image, output channels
    int64_t H, W, C_in;  // of the input
    int64_t kernel_h, kernel_w, padding_w, dilation_h, dilation_w;
};

// What kernels do that takes time: how often they do it, or what it costs once, in cycles. `fetch`: a byte of weights that
// are too many for the caches; `call`: starting a layer that is called by itself.
struct Adding {
    double add, visit, fire, scan, list, list_slice, list_tap, list_spike, start, start_tap, fetch, call;
};
struct Lookup {
    double look_up, block, table, read, read_tap, fetch, call;
};
struct Tiles {
    double multiply, fire, list, expand, fetch, call;
};
struct Dense {
    double multiply, fire, move, unpack, call;
};
struct Patterns {
    double add, start, fire;
};

// Of the kernels that layers choose from, by their names there.
struct Work {
    Adding events, shorts, bytes;
    Lookup lookup;
    Tiles tiles;
    Dense dense;
};
struct Cycles {
    double events, shorts, bytes, lookup, tiles, dense;
};

// A kind of core.
struct Machine {
    Work costs;
    // Of engines. Tiles, those of pixels and patterns are in proportion to the rows of an engine.
    Tiles engine_tiles, pixel_tiles;
    Patterns patterns;
    // Rows of weights of a slice (conv2d/slices.h). Of 24 kB they stay in a first-level cache of 32 kB; where that has 48 kB,
    // and the second level is near, 72 kB are better: fewer slices, and so fewer visits.
    int64_t slice_rows;
};

constexpr int64_t float_row = 16, short_row = 32, byte_row = 64;  // output channels of a row of weights

const Machine& machine_with(bool has_tiles);

// How many groups to join, so that they are whole bytes of spikes and wide enough for a kernel; 0: leave them. C: of a group.
int64_t join(int64_t C, int64_t C_in, int64_t groups);

// The event kernel: for each spike in a window, a row of weights is loaded and added. `rate`: of spikes, those of an input that
// fires for long counted once a span (conv2d/event.h).
Adding adding(const Layer& layer, double rate, int64_t row, int64_t slice_rows);
// For each four inputs, a permutation and an addition for 16 steps of a channel.
Lookup lookup(const Layer& layer);
// Matrix tiles: 16 steps of 16 channels at a time, whatever the firing rate.
Tiles tiles(const Layer& layer, int64_t digits);
// Whether their sums and memory are large enough.
bool tiles_hold(const Layer& layer);
// torch's convolution, with all that is moved, and the scan.
Dense dense(const Layer& layer);
// An engine's kernel of few steps (engine/patterns.h).
Patterns patterns(const Layer& layer, double rate, int64_t row);

// Both structs as rows of numbers.
template <class Counts>
double cycles(const Counts& costs, const Counts& counts) {
    const double *const cost = (const double*)&costs, *const often = (const double*)&counts;
    double sum = 0;
    for (size_t i = 0; i < sizeof(Counts) / sizeof(double); i++) sum += often[i] ? cost[i] * often[i] : 0;
    return sum;
}

// What Python asks: ../cost_model.py.
struct Model {
    Machine machines[2];  // without matrix tiles, and with them
    void (*count)(const Layer* layer, double rate, int64_t digits, int64_t has_tiles, Work* counts);
    // Infinite: tiles cannot take it. `digits`: of the weights in tiles; 0 rules tiles out.
    void (*cycles)(const Layer* layer, double rate, int64_t digits, int64_t has_tiles, Cycles* cycles);
    int64_t (*join)(int64_t C, int64_t C_in, int64_t groups);
};

}  // namespace costs
