// A cost model of the kernels: the clock cycles that each takes for a layer on one core.
//
// A kernel's time is a sum over its operations: their number, which is counted here, times their cost on a kind of machine.
// Engines choose their kernel by it for each segment of steps (find_costs), and layers that are called by themselves know
// from it when torch's convolution is faster (../c/layer.cpp). Only the ratios of costs matter. It is compiled once. headers.py
// reads the structs from this file.
#pragma once
#include <cstddef>
#include <cstdint>

namespace engine { struct Cost; }

namespace costs {

// A convolution. If it has groups, C counts the channels of all groups, C_in those of one group.
struct ConvSizes {
    int64_t T, N;
    int64_t P, C;  // output pixels of an image, output channels
    int64_t H, W, C_in;  // input pixels, and input channels
    int64_t kernel_h, kernel_w, padding_w, dilation_h, dilation_w;
};

// The operations of each kernel that take time: either their number, or the cost of one in cycles. `fetch`: a byte of weights
// that exceed the caches; `call`: starting a layer that is called by itself.
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

// One for each kernel that a layer can choose.
struct Work {
    Adding events, shorts, bytes;
    Lookup lookup;
    Tiles tiles;
    Dense dense;
};
struct Cycles {
    double events, shorts, bytes, lookup, tiles, dense;
};

// The costs on a kind of core.
struct Machine {
    Work costs;
    // The costs of kernels that only engines have, on the scale of an engine's row kernels.
    Tiles engine_tiles, pixel_tiles;
    Patterns patterns;
    // Rows of weights of a slice (conv2d/slices.h). Slices of 24 kB stay in a first-level cache of 32 kB. If it has 48 kB, and
    // the second level is fast, slices of 72 kB are better: there are fewer slices, and so fewer visits.
    int64_t slice_rows;
};

constexpr int64_t float_row = 16, short_row = 32, byte_row = 64;  // output channels of a row of weights

const Machine& machine_with(bool has_tiles);

// How many groups of channels to join, so that they make whole bytes of spikes and are wide enough for a kernel; 0: none. C and
// C_in: channels of one group.
int64_t join(int64_t C, int64_t C_in, int64_t groups);

// The event kernel: for each spike in a window, a row of weights is loaded and added. `rate`: rows per input and step; a steady
// input counts once for a span (conv2d/input_lists.h).
Adding adding(const ConvSizes& layer, double rate, int64_t row, int64_t slice_rows);
// The lookup kernel: for each four inputs, a permutation and an addition for 16 steps of a channel.
Lookup lookup(const ConvSizes& layer);
// The tile kernel: 16 steps of 16 channels at a time, whatever the firing rate.
Tiles tiles(const ConvSizes& layer, int64_t digits);
// Whether the tile kernel's sums and memory are large enough for a layer.
bool tiles_hold(const ConvSizes& layer);
// torch's convolution of dense spikes, with all conversions, and the scan.
Dense dense(const ConvSizes& layer);
// An engine's kernel for few steps (engine/rows_to_add.h).
Patterns patterns(const ConvSizes& layer, double rate, int64_t row);

// The cycles of counted operations. Both structs are read as rows of numbers.
template <class Counts>
double cycles(const Counts& costs, const Counts& counts) {
    const double *const cost = (const double*)&costs, *const often = (const double*)&counts;
    double sum = 0;
    for (size_t i = 0; i < sizeof(Counts) / sizeof(double); i++) sum += often[i] ? cost[i] * often[i] : 0;
    return sum;
}

// How many groups an engine joins, so that each convolution has whole rows of output channels; 0: it joins none.
int64_t join_in_rows(int64_t C, int64_t C_in, int64_t groups);

// The cost of each kernel for a layer of one sample, whatever its T says, in the order of engine::FloatRow and what follows it.
// Infinite: it cannot run. `row`: output channels that a row of patterns has.
void find_costs(ConvSizes sizes, int64_t groups, int64_t row, bool has_tiles, engine::Cost* found);

// What tests ask: tests/cost_model.py.
struct Model {
    Machine machines[2];  // without matrix tiles, and with them
    void (*count)(const ConvSizes* layer, double rate, int64_t digits, int64_t has_tiles, Work* counts);
    // Writes the cycles of each kernel; infinite for tiles that cannot take the layer. `digits`: digits of the weights in
    // tiles; 0 rules tiles out.
    void (*cycles)(const ConvSizes* layer, double rate, int64_t digits, int64_t has_tiles, Cycles* cycles);
    int64_t (*join)(int64_t C, int64_t C_in, int64_t groups);
};

}  // namespace costs
