// Convolutions by matrix tiles (../conv2d/amx.h); their time does not depend on the number of spikes.
#pragma once
#include "../conv2d/amx_pixels.h"
#include "convolution.h"

namespace PK_TARGET {

#if defined(__AMX_INT8__)
// Adds what tiles need to the description of a convolution.
static Conv2d in_tiles(Conv2d c, const Op& op) {
    c.digits = op.digits, c.unit = op.tile_unit;
    return c;
}

struct Tiled {
    const Conv2d c;
    const Tiling tiling;

    Tiled(const Op& op, const Neurons& neurons, const View& x, const uint8_t* shortcut, int64_t threads)
        : c(in_tiles(conv_of(op, neurons, x, shortcut, op.tiles), op)), tiling(c, threads) {}

    static bool fits(const Op& op, int64_t N, int64_t steps) { return op.tiles && is_enough(op, N, steps); }
    static int64_t room(const Op& op, int64_t N, int64_t steps, int64_t threads) {
        if (!fits(op, N, steps)) return 0;
        const Tiled kernel(op, shape_of(op, N, steps), View{}, nullptr, threads);
        Carver carver{nullptr};
        with_digits(op.digits,
                    [&](auto digits) { TileMemory<decltype(digits)::value>().borrow(carver, kernel.tiling, kernel.c); });
        return carver.bytes;
    }
    int64_t tasks() const { return tiling.units * tiling.spans; }

    void run(const View& x, int64_t task, char* scratch, int64_t* tally) const {
        Carver carver{scratch};
        with_digits(c.digits, [&](auto digits) {
            TileMemory<decltype(digits)::value> memory;
            memory.borrow(carver, tiling, c);
            memory.begin(tiling, c);
            const TileSession session;
            run_unit(c, tiling, task, memory);
        });
        const TileTask unit = tile_task_of(c, tiling, task % tiling.units);
        const Region out{unit.image, unit.images, unit.row, unit.rows, 0, c.neurons.T};
        const int64_t first = task / tiling.units * tiling.span, last = least(c.neurons.C, first + tiling.span);
        count_part(c, x, out, first, last, tally);
    }
};

// The same for few steps (../conv2d/amx_pixels.h); it takes less time if few inputs fire.
struct PixelTiled {
    const Conv2d c;
    const PixelTiling tiling;

    PixelTiled(const Op& op, const Neurons& neurons, const View& x, const uint8_t* shortcut, int64_t threads)
        : c(in_tiles(conv_of(op, neurons, x, shortcut, op.tiles), op)), tiling(c, threads) {}

    static bool fits(const Op& op, int64_t N, int64_t steps) {
        constexpr int64_t least_uses = 64;  // pixels times steps
        if (!op.tiles || op.P() == 1 || op.digits > most_pixel_tile_digits) return false;
        return steps <= most_pixel_tile_steps && N * op.P() * steps >= least_uses;
    }
    static int64_t room(const Op& op, int64_t N, int64_t steps, int64_t threads) {
        if (!fits(op, N, steps)) return 0;
        const PixelTiled kernel(op, shape_of(op, N, steps), View{}, nullptr, threads);
        Carver carver{nullptr};
        PixelTileMemory(kernel.tiling, carver);
        return carver.bytes;
    }
    // The cycles of `steps` steps of a sample. The cost model (../lines.h) assumes full tiles; a partly filled one costs as
    // much as a full one.
    static double cycles(const Op& op, int64_t steps) {
        const PlaneLayout layout(conv_of(op, shape_of(op, 1, steps), View{}, nullptr, nullptr));
        const double whole_steps = (double)(op.H * layout.groups * tile_rows) / (double)op.P();
        return op.lines[engine::PixelTiles + op.digits - 1].busy * whole_steps / engine::line_steps;
    }
    int64_t tasks() const { return tiling.tasks(c); }

    void run(const View& x, int64_t task, char* scratch, int64_t* tally) const {
        Carver carver{scratch};
        const PixelTileMemory memory(tiling, carver);
        const TileSession session;
        with_model(c.neurons.neuron, [&](auto model) {
            if (c.digits == 1) run_pixel_tiles<1>(c, tiling, model, task, memory);
            else run_pixel_tiles<2>(c, tiling, model, task, memory);
        });
        const int64_t first = tiling.first_channel(c, task), last = least(c.neurons.C, first + tiling.span);
        count_part(c, x, tiling.part(c, task), first, last, tally);
    }
};

#else
using Tiled = NoKernel;  // no matrix instructions
struct PixelTiled : NoKernel {
    using NoKernel::NoKernel;
    static double cycles(const Op&, int64_t) { return 0; }
};
#endif

}  // namespace PK_TARGET
