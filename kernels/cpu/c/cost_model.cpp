#include "cost_model.h"

#include <algorithm>
#include <cmath>

#include "include/proxykernels.h"

namespace proxykernels {

constexpr int64_t float_row = 16, short_row = 32, byte_row = 64, row_bytes = 64, block = 32, steps = engine::line_steps;

// What a kernel does that takes time, counted or in cycles.
struct Adding {
    double add, visit, fire, scan, list, list_slice, list_tap, list_spike, start, start_tap, fetch;
};
struct Lookup {
    double look_up, block, table, read, read_tap, fetch;
};
struct Tiles {
    double multiply, fire, list, expand, fetch;
};
struct Patterns {
    double add, start, fire;
};
struct Machine {
    Adding rows[3];  // of floats, shorts and bytes
    Lookup lookup;
    Tiles tiles, pixel_tiles;
    Patterns patterns;
    int64_t event_slice;
};

constexpr Machine without_tiles = {
    {{1, 6.9, 0.29, 15, 0.36, 5.3, 2.6, 0.38, 708, 22, 0.047},
     {1.1, 7.4, 0.3, 19, 0.46, 8.3, 2.2, 0.23, 438, 33, 0.077},
     {1.3, 10, 0.28, 13, 0.44, 7.2, 2.8, 0.24, 210, 33, 0.061}},
    {8.9, 98, 34, 136, 2.4, 0.048},
    {},
    {},
    {},
    384,
};
// Tiles, those of pixels and patterns are in proportion to the rows of an engine.
constexpr Machine with_tiles = {
    {{1.3, 17, 0.067, 30, 0.49, 5.9, 2.9, 0.19, 210, 36, 0.35},
     {1.4, 23, 0.079, 29, 0.48, 5.5, 2.5, 0.37, 220, 35, 0.56},
     {1.8, 26, 0.37, 28, 0.49, 5.2, 2, 0.15, 220, 26, 0.97}},
    {10, 130, 72, 260, 3, 0.071},
    {21, 75, 48, 140, 0.64},
    {18, 60, 6, 20, 0.18},
    {1.7, 90, 5.5},
    1152,
};

static int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Both structs as rows of numbers.
template <class Counts>
static double cycles(const Counts& costs, const Counts& counts) {
    const double *const cost = (const double*)&costs, *const often = (const double*)&counts;
    double sum = 0;
    for (size_t i = 0; i < sizeof(Counts) / sizeof(double); i++) sum += often[i] ? cost[i] * often[i] : 0;
    return sum;
}

// Bytes of weights that are too many for the caches, fetched once for so many output pixels times steps. Samples share those of
// layers of one pixel, which patterns fetch as well.
static double fetched(int64_t size, const Layer& layer, int64_t uses) {
    constexpr int64_t cache_bytes = 1 << 20;
    return layer.P > 1 && size > cache_bytes ? (double)size * (double)up(layer.P * steps, uses) : 0;
}

static Adding adding(const Layer& layer, double rate, int64_t row, int64_t slice_rows) {
    const int64_t chunks = up(layer.C_in, slice_rows);
    const int64_t runs = chunks > 1 ? layer.taps() : up(layer.taps(), std::max<int64_t>(1, slice_rows / layer.C_in));
    const int64_t whole_taps = up(layer.taps(), runs), taps = runs > 1 ? std::min(whole_taps, layer.kernel[1]) : whole_taps;
    const int64_t slices = up(layer.taps(), taps) * chunks, blocks = up(layer.C, row);
    const double different = (double)(layer.kernel[1] % taps == 0 ? layer.H * layer.W * chunks : layer.P * slices);
    const double made = std::min(1.0, different / (double)std::max<int64_t>(1, layer.P * slices));
    const double all_steps = (double)(layer.P * steps), spikes = (double)layer.inputs() * rate;
    return {(double)blocks * spikes * all_steps,
            (double)(blocks * slices) * all_steps,
            (double)(blocks * row) * all_steps,
            (double)(steps * layer.H * layer.W * up(layer.C_in, 64)),
            all_steps,
            (double)slices * all_steps * made,
            (double)(slices * taps) * all_steps * made,
            spikes * all_steps * made,
            (double)layer.P,
            (double)(layer.taps() * layer.P),
            fetched(blocks * layer.inputs() * row_bytes, layer, 512)};
}

static Lookup lookup(const Layer& layer) {
    const int64_t eights = up(layer.C, 8), fours = up(layer.inputs(), 4), uses = layer.P * up(steps, 16);
    return {(double)(eights * fours) * (double)uses,
            (double)(eights * uses),
            (double)(eights * fours) * (double)up(uses, 256),
            (double)uses,
            layer.C_in % 32 ? (double)(layer.taps() * uses) : 0,
            fetched(4 * layer.C * layer.inputs(), layer, 4096)};
}

static Tiles tiles(const Layer& layer, int64_t digits) {
    constexpr int64_t tile_bytes = 16 * 64, span_bytes = 1 << 20;
    int64_t inputs = layer.taps() * up(layer.C_in, 64);
    if (layer.C_in % 64 && layer.dilation_w == 1)  // a kernel row fills tiles
        inputs = layer.kernel[0] * up(layer.kernel[1] * up(layer.C_in, 8) * 8, 64);
    const int64_t blocks = up(layer.C, 16), times = up(steps, 16), count = inputs * digits * blocks, uses = layer.P * times;
    const int64_t spans = up(tile_bytes * count, span_bytes);
    return {(double)count * (double)uses, (double)(blocks * uses), (double)(spans * inputs) * (double)uses,
            (double)(spans * times * layer.H * layer.W * up(layer.C_in, 64)),
            fetched(tile_bytes * count, layer, layer.P * steps)};
}

static Tiles pixel_tiles(const Layer& layer, int64_t digits) {
    Tiles counts = tiles(layer, digits);
    counts.fetch = counts.fetch * steps / 4;
    return counts;
}

static Patterns patterns(const Layer& layer, double rate, int64_t row) {
    const double all_steps = (double)(layer.P * steps);
    return {(double)up(layer.C, row) * (double)layer.inputs() * rate * all_steps, all_steps,
            (double)up(layer.C, 16) * all_steps};
}

// Whether the tile kernel's sums and memory are large enough.
static bool tiles_hold(const Layer& layer) {
    constexpr int64_t most_inputs = ((((int64_t)1 << 31) - 1) / (128 * 256 + 128)), most_bytes = 1 << 30;
    const int64_t rows = std::min(layer.H, (layer.kernel[0] - 1) * layer.dilation_h + 1);
    const int64_t width = layer.W + 2 * layer.padding_w + layer.kernel[1];
    const double expanded = 16.0 * 64 * (double)(rows + 1) * (double)(width * up(layer.C_in, 64) + 4);
    return layer.inputs() <= most_inputs && expanded <= (double)most_bytes;
}

void find_lines(const Layer& layer, int64_t joined, int64_t row, bool has_tiles, engine::Line* lines) {
    const Machine& machine = has_tiles ? with_tiles : without_tiles;
    const int64_t parts = joined ? layer.groups / joined : 1, rows[] = {float_row, short_row, byte_row};
    Layer part = layer;
    part.C /= parts, part.C_in = layer.C_in * layer.groups / parts;
    for (int64_t i = 0; i < 3; i++) {
        const auto at = [&](double rate) {
            return (double)parts * cycles(machine.rows[i], adding(part, rate, rows[i], machine.event_slice));
        };
        lines[engine::FloatRow + i] = {at(0), at(1)};
    }
    const double looked_up = cycles(machine.lookup, lookup(layer));
    lines[engine::Tables] = {looked_up, looked_up};
    const bool can = has_tiles && layer.groups == 1 && tiles_hold(layer);
    for (int64_t digits = 1; digits <= 4; digits++) {
        const double taken = can ? cycles(machine.tiles, tiles(layer, digits)) : INFINITY;
        lines[engine::Tiles + digits - 1] = {taken, taken};
        const double by_pixels = can && digits <= 2 ? cycles(machine.pixel_tiles, pixel_tiles(layer, digits)) : INFINITY;
        if (digits <= 2) lines[engine::PixelTiles + digits - 1] = {by_pixels, by_pixels};
    }
    if (can)
        lines[engine::Patterns] = {cycles(machine.patterns, patterns(layer, 0, row)),
                                   cycles(machine.patterns, patterns(layer, 1, row))};
}

// How many groups to join, so that they are whole bytes of spikes and wide enough for a kernel; 0: leave them.
static int64_t join(int64_t C_out, int64_t C_in, int64_t groups) {
    if (groups == 1 || (C_in == 1 && C_out == 1)) return 0;  // depthwise has a kernel of its own
    int64_t first = 0;
    for (int64_t n = 1; n <= groups; n++) {
        if (groups % n || n * C_in < block || n * C_in % 8 || n * C_out % 8) continue;
        if (!first) first = n;
        if (n > 2 * first) break;
        if (n * C_out % float_row == 0) return n;  // no row is half empty
    }
    return first;
}

int64_t join_in_rows(int64_t C, int64_t C_in, int64_t groups) {
    constexpr int64_t most_joined = 64;  // inputs of all groups, which are joined where no part of them can be
    const int64_t joined = join(C / groups, C_in, groups);
    if (joined && (joined == groups || joined * (C / groups) % float_row == 0)) return joined;
    const bool depthwise = C == groups && C_in == 1;
    return groups > 1 && !depthwise && groups * C_in <= most_joined ? groups : 0;
}

// For Python, which makes a plan of its own (proxykernels/plan/library.py): the groups that are joined, and the lines.
extern "C" PK_API int64_t proxykernels_find_lines(const Layer* layer, int64_t row, int64_t has_tiles, engine::Line* lines) {
    const int64_t joined = join_in_rows(layer->C, layer->C_in, layer->groups);
    if (lines) find_lines(*layer, joined, row, has_tiles, lines);
    return joined;
}

}  // namespace proxykernels
