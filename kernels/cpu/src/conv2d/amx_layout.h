// How the tile kernel's inputs lie in memory once they are bytes, which its packed weights follow.
#pragma once
#if defined(__AMX_INT8__)
#include "../work.h"
#include "amx_tiles.h"

namespace PK_TARGET {

// Which inputs make a tile, and where. With whole tiles of channels, a pixel is so many tiles
// and each is one piece of memory, which is best for the caches. With fewer channels the pixels of a row follow each other,
// step after step: then the inputs of a kernel row are neighbours and fill whole tiles, for any kernel width and any number
// of channels, without im2col (where dilation pulls the taps apart, those of a tap).
struct Layout {
    int64_t channels;    // of a pixel, as bytes
    int64_t pixel, step, granule;  // bytes from a pixel, a step, or 64 inputs to the next
    int64_t run_taps;    // taps of a run: inputs that follow each other
    int64_t runs_in_row, runs, run_tiles;  // runs in a kernel row, in all; tiles of a run
    int64_t border;      // bytes before the first pixel of a row
    int64_t granules;    // of a row
    int64_t row;         // bytes of 16 steps of a row
    explicit Layout(const Conv2d& c) {
        channels = ceil_div(c.C_in, 8) * 8;
        const bool whole_tiles = channels % tile_width == 0 || c.W == 1;
        if (whole_tiles) channels = ceil_div(channels, tile_width) * tile_width;
        run_taps = whole_tiles || c.dilation_w > 1 ? 1 : c.kernel_w;
        runs_in_row = c.kernel_w / run_taps;
        runs = c.kernel_h * runs_in_row;
        run_tiles = ceil_div(run_taps * channels, tile_width);
        const int64_t border_granules = ceil_div(c.padding_w * channels, tile_width);
        granules = border_granules + ceil_div((c.W + c.padding_w) * channels, tile_width);
        if (!whole_tiles) granules += run_tiles;  // the last ones of a row reach past it
        granule = whole_tiles ? tile_bytes : tile_width;
        pixel = channels * granule / tile_width;
        border = border_granules * granule;
        step = whole_tiles ? tile_width : (granules | 1) * tile_width;  // odd: rows of a tile in different cache sets
        row = whole_tiles ? granules * tile_bytes : tile_rows * step;
    }
};

}  // namespace PK_TARGET
#endif  // __AMX_INT8__
