#include "cost_model.h"

#include "engine/engine.h"

#include <algorithm>
#include <cmath>

namespace costs {

// Measured on an AMD core with AVX-512 (Zen 4).
constexpr Machine without_tiles = {
    {
        {1, 6.9, 0.29, 15, 0.36, 5.3, 2.6, 0.38, 708, 22, 0.047, 3.6e5},  // events
        {1.1, 7.4, 0.3, 19, 0.46, 8.3, 2.2, 0.23, 438, 33, 0.077, 2.8e5},  // shorts
        {1.3, 10, 0.28, 13, 0.44, 7.2, 2.8, 0.24, 210, 33, 0.061, 3.4e5},  // bytes
        {8.9, 98, 34, 136, 2.4, 0.048, 3.1e5},  // lookup
        {},  // tiles
        {0.058, 2.1, 0.66, 8.3, 1.1e6},  // dense
    },
    {},
    {},
    {},
    384,
};
// Measured on an Intel core with AMX (Sapphire Rapids), with a version in which windows did not share lists.
constexpr Machine with_tiles = {
    {
        {1.3, 17, 0.067, 30, 0.49, 5.9, 2.9, 0.19, 210, 36, 0.35, 5.5e5},  // events
        {1.4, 23, 0.079, 29, 0.48, 5.5, 2.5, 0.37, 220, 35, 0.56, 5.0e5},  // shorts
        {1.8, 26, 0.37, 28, 0.49, 5.2, 2, 0.15, 220, 26, 0.97, 4.9e5},  // bytes
        {10, 130, 72, 260, 3, 0.071, 3.6e5},  // lookup
        {29, 180, 38, 110, 0.64, 4.1e5},  // tiles
        {0.041, 3.2, 0.99, 9.4, 1.5e6},  // dense
    },
    {21, 75, 48, 140, 0.64, 0},
    {18, 60, 6, 20, 0.18, 0},
    {1.7, 90, 5.5},
    1152,
};

static int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b; }

static int64_t taps(const ConvSizes& layer) { return layer.kernel_h * layer.kernel_w; }
static int64_t inputs(const ConvSizes& layer) { return layer.C_in * taps(layer); }  // inputs of a neuron
static int64_t pixels(const ConvSizes& layer) { return layer.N * layer.P; }
// Words of the input in one step; a word is 64 channels of a pixel.
static int64_t input_words(const ConvSizes& layer) { return layer.N * layer.H * layer.W * up(layer.C_in, 64); }

// Bytes of weights that are fetched from memory: if they exceed the caches, they are fetched each time they are used again.
static double fetched(int64_t size, int64_t times) {
    constexpr int64_t cache_bytes = 1 << 20;
    return size > cache_bytes ? (double)size * (double)times : 0;
}

Adding adding(const ConvSizes& layer, double rate, int64_t row, int64_t slice_rows) {
    constexpr int64_t row_bytes = 64, segment = 64, uses = 512;
    // A slice holds a few taps of a window (conv2d/slices.h).
    const int64_t chunks = up(layer.C_in, slice_rows), window = taps(layer);
    const int64_t runs = chunks > 1 ? window : up(window, std::max<int64_t>(1, slice_rows / layer.C_in));
    const int64_t whole = up(window, runs), taps = runs > 1 ? std::min(whole, layer.kernel_w) : whole;
    const int64_t slices = up(window, taps) * chunks, blocks = up(layer.C, row);
    // The share of lists that are made; the others are shared with windows above or beside (conv2d/slices.h).
    const double different = (double)(layer.kernel_w % taps == 0 ? layer.H * layer.W * chunks : layer.P * slices);
    const double made = std::min(1.0, different / (double)std::max<int64_t>(1, layer.P * slices));
    const int64_t segments = pixels(layer) * up(layer.T, segment);
    const double steps = (double)(pixels(layer) * layer.T), spikes = (double)inputs(layer) * rate;
    Adding counts{};
    counts.add = (double)blocks * spikes * steps;
    counts.visit = (double)(blocks * slices) * steps;
    counts.fire = (double)(blocks * row) * steps;
    counts.scan = (double)(layer.T * input_words(layer));
    counts.list = steps;
    counts.list_slice = (double)slices * steps * made;
    counts.list_tap = (double)(slices * taps) * steps * made;
    counts.list_spike = spikes * steps * made;
    counts.start = (double)segments;
    counts.start_tap = (double)(window * segments);
    counts.fetch = fetched(blocks * inputs(layer) * row_bytes, up(pixels(layer) * layer.T, uses));
    counts.call = 1;
    return counts;
}

Lookup lookup(const ConvSizes& layer) {
    const int64_t eights = up(layer.C, 8), fours = up(inputs(layer), 4), uses = pixels(layer) * up(layer.T, 16);
    Lookup counts{};
    counts.look_up = (double)(eights * fours) * (double)uses;
    counts.block = (double)(eights * uses);
    counts.table = (double)(eights * fours) * (double)up(uses, 256);
    counts.read = (double)uses;
    counts.read_tap = layer.C_in % 32 ? (double)(taps(layer) * uses) : 0;  // the bits of a window are packed together
    counts.fetch = fetched(4 * layer.C * inputs(layer), up(pixels(layer) * layer.T, 4096));
    counts.call = 1;
    return counts;
}

Tiles tiles(const ConvSizes& layer, int64_t digits) {
    constexpr int64_t tile_bytes = 16 * 64;
    constexpr int64_t span_bytes = 1 << 20;  // weights of a span; spikes are expanded again for each span (conv2d/amx_tiles.h)
    int64_t tile_inputs = taps(layer) * up(layer.C_in, 64);
    if (layer.C_in % 64 && layer.dilation_w == 1)  // the inputs under a kernel row fill whole tiles
        tile_inputs = layer.kernel_h * up(layer.kernel_w * up(layer.C_in, 8) * 8, 64);
    const int64_t blocks = up(layer.C, 16), times = up(layer.T, 16), uses = pixels(layer) * times;
    const int64_t count = tile_inputs * digits * blocks, spans = up(tile_bytes * count, span_bytes);
    Tiles counts{};
    counts.multiply = (double)count * (double)uses;
    counts.fire = (double)(blocks * uses);
    counts.list = (double)(spans * tile_inputs) * (double)uses;
    counts.expand = (double)(spans * times * input_words(layer));
    counts.fetch = fetched(tile_bytes * count, 1);
    counts.call = 1;
    return counts;
}

bool tiles_hold(const ConvSizes& layer) {
    // With more inputs the joined 32-bit sums of two digits of -128 (conv2d/amx.h) could overflow.
    constexpr int64_t most_inputs = (((int64_t)1 << 31) - 1) / (128 * 256 + 128);
    constexpr int64_t most_bytes = 1 << 30;  // memory of a thread; offsets within it have 32 bits
    // The most that is expanded for a row of output pixels: 16 steps of whole tiles of 64 inputs.
    const int64_t rows = std::min(layer.H, (layer.kernel_h - 1) * layer.dilation_h + 1);
    const int64_t width = layer.W + 2 * layer.padding_w + layer.kernel_w;
    const double expanded = 16.0 * 64 * (double)(rows + 1) * (double)(width * up(layer.C_in, 64) + 4);
    return inputs(layer) <= most_inputs && expanded <= (double)most_bytes;
}

Dense dense(const ConvSizes& layer) {
    constexpr int64_t scanned = 32;  // channels that the scan handles together
    const int64_t steps = pixels(layer) * layer.T;
    Dense counts{};
    counts.multiply = (double)steps * (double)(layer.C * inputs(layer));
    counts.fire = (double)(steps * up(layer.C, scanned) * scanned);
    counts.move = (double)steps;
    counts.unpack = (double)(layer.T * layer.N * layer.H * layer.W * layer.C_in);
    counts.call = 1;
    return counts;
}

Patterns patterns(const ConvSizes& layer, double rate, int64_t row) {
    const double steps = (double)(pixels(layer) * layer.T);
    return {(double)up(layer.C, row) * (double)inputs(layer) * rate * steps, steps, (double)up(layer.C, 16) * steps};
}

int64_t join(int64_t C, int64_t C_in, int64_t groups) {
    constexpr int64_t block = 32;  // channels that the kernels handle together
    if (groups == 1 || (C_in == 1 && C == 1)) return 0;  // depthwise convolution has its own kernel
    int64_t first = 0;
    for (int64_t n = 1; n <= groups; n++) {
        if (groups % n || n * C_in < block || n * C_in % 8 || n * C % 8) continue;
        if (!first) first = n;
        if (n > 2 * first) break;
        if (n * C % float_row == 0) return n;  // all rows are full
    }
    return first;
}

void find_costs(ConvSizes layer, int64_t groups, int64_t row, bool has_tiles, engine::Cost* found) {
    const Machine& machine = machine_with(has_tiles);
    const int64_t joined = join_in_rows(layer.C, layer.C_in, groups), parts = joined ? groups / joined : 1;
    layer.T = engine::cost_steps;
    const auto taken = [&](const auto& cost, auto counts) {
        counts.call = 0;  // an operation of an engine is none
        if (layer.P == 1) counts.fetch = 0;  // samples share the weights, which patterns fetch as well
        return cycles(cost, counts);
    };
    ConvSizes part = layer;
    part.C /= parts, part.C_in = layer.C_in * groups / parts;
    const auto put_row = [&](int64_t kernel, const Adding& cost, int64_t channels) {
        const auto at = [&](double rate) {
            return (double)parts * taken(cost, adding(part, rate, channels, machine.slice_rows));
        };
        found[kernel] = {at(0), at(1)};
    };
    put_row(engine::FloatRow, machine.costs.events, float_row);
    put_row(engine::ShortRow, machine.costs.shorts, short_row);
    put_row(engine::ByteRow, machine.costs.bytes, byte_row);
    const double looked_up = taken(machine.costs.lookup, lookup(layer));
    found[engine::Tables] = {looked_up, looked_up};
    const bool can = has_tiles && groups == 1 && tiles_hold(layer);
    for (int64_t digits = 1; digits <= 4; digits++) {
        Tiles counts = tiles(layer, digits);
        const double tiled = can ? taken(machine.engine_tiles, counts) : INFINITY;
        found[engine::Tiles + digits - 1] = {tiled, tiled};
        counts.fetch = counts.fetch * engine::cost_steps / 4;
        const double by_pixels = can ? taken(machine.pixel_tiles, counts) : INFINITY;
        found[engine::PixelTiles + digits - 1] = {by_pixels, by_pixels};
    }
    if (can)
        found[engine::Patterns] = {cycles(machine.patterns, patterns(layer, 0, row)),
                                   cycles(machine.patterns, patterns(layer, 1, row))};
}

int64_t join_in_rows(int64_t C, int64_t C_in, int64_t groups) {
    constexpr int64_t most_joined = 64;  // inputs of all groups, which are joined where no part of them can be
    const int64_t joined = join(C / groups, C_in, groups);
    if (joined && (joined == groups || joined * (C / groups) % float_row == 0)) return joined;
    const bool depthwise = C == groups && C_in == 1;
    return groups > 1 && !depthwise && groups * C_in <= most_joined ? groups : 0;
}

static void count(const ConvSizes* layer, double rate, int64_t digits, int64_t has_tiles, Work* counts) {
    const int64_t slice_rows = machine_with(has_tiles).slice_rows;
    counts->events = adding(*layer, rate, float_row, slice_rows);
    counts->shorts = adding(*layer, rate, short_row, slice_rows);
    counts->bytes = adding(*layer, rate, byte_row, slice_rows);
    counts->lookup = lookup(*layer);
    counts->tiles = tiles(*layer, digits);
    counts->dense = dense(*layer);
}

static void all_cycles(const ConvSizes* layer, double rate, int64_t digits, int64_t has_tiles, Cycles* to) {
    const Work& cost = machine_with(has_tiles).costs;
    Work counts;
    count(layer, rate, digits, has_tiles, &counts);
    to->events = cycles(cost.events, counts.events);
    to->shorts = cycles(cost.shorts, counts.shorts);
    to->bytes = cycles(cost.bytes, counts.bytes);
    to->lookup = cycles(cost.lookup, counts.lookup);
    to->tiles = has_tiles && digits && tiles_hold(*layer) ? cycles(cost.tiles, counts.tiles) : INFINITY;
    to->dense = cycles(cost.dense, counts.dense);
}

// Not constant: tests change costs, so that engines take a kernel that would be slower.
extern "C" __attribute__((visibility("default"))) Model proxykernels_cost_model;
Model proxykernels_cost_model = {{without_tiles, with_tiles}, count, all_cycles, join};

const Machine& machine_with(bool has_tiles) { return proxykernels_cost_model.machines[has_tiles]; }

}  // namespace costs
