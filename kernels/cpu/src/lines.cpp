#include "lines.h"

#include <cmath>

namespace costs {

void find_lines(Layer layer, int64_t groups, int64_t row, bool has_tiles, engine::Line* lines) {
    const Machine& machine = machine_with(has_tiles);
    const int64_t joined = join_in_rows(layer.C, layer.C_in, groups), parts = joined ? groups / joined : 1;
    layer.T = engine::line_steps;
    const auto taken = [&](const auto& cost, auto counts) {
        counts.call = 0;                     // an operation of an engine is none
        if (layer.P == 1) counts.fetch = 0;  // samples share the weights, which patterns fetch as well
        return cycles(cost, counts);
    };
    Layer part = layer;
    part.C /= parts, part.C_in = layer.C_in * groups / parts;
    const auto put_row = [&](int64_t line, const Adding& cost, int64_t channels) {
        const auto at = [&](double rate) {
            return (double)parts * taken(cost, adding(part, rate, channels, machine.slice_rows));
        };
        lines[line] = {at(0), at(1)};
    };
    put_row(engine::FloatRow, machine.costs.events, float_row);
    put_row(engine::ShortRow, machine.costs.shorts, short_row);
    put_row(engine::ByteRow, machine.costs.bytes, byte_row);
    const double looked_up = taken(machine.costs.lookup, lookup(layer));
    lines[engine::Tables] = {looked_up, looked_up};
    const bool can = has_tiles && groups == 1 && tiles_hold(layer);
    for (int64_t digits = 1; digits <= 4; digits++) {
        Tiles counts = tiles(layer, digits);
        const double tiled = can ? taken(machine.engine_tiles, counts) : INFINITY;
        lines[engine::Tiles + digits - 1] = {tiled, tiled};
        if (digits > 2) continue;
        counts.fetch = counts.fetch * engine::line_steps / 4;
        const double by_pixels = can ? taken(machine.pixel_tiles, counts) : INFINITY;
        lines[engine::PixelTiles + digits - 1] = {by_pixels, by_pixels};
    }
    if (can)
        lines[engine::Patterns] = {cycles(machine.patterns, patterns(layer, 0, row)),
                                   cycles(machine.patterns, patterns(layer, 1, row))};
}

int64_t join_in_rows(int64_t C, int64_t C_in, int64_t groups) {
    constexpr int64_t most_joined = 64;  // inputs of all groups, which are joined where no part of them can be
    const int64_t joined = join(C / groups, C_in, groups);
    if (joined && (joined == groups || joined * (C / groups) % float_row == 0)) return joined;
    const bool depthwise = C == groups && C_in == 1;
    return groups > 1 && !depthwise && groups * C_in <= most_joined ? groups : 0;
}

}  // namespace costs
