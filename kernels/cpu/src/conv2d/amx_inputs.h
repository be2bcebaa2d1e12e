// How the tile kernel's inputs lie in memory once they are bytes, and how it cuts its work: 16 steps of a few output rows, or of
// a few whole images where these are small.
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
    int64_t channels;  // of a pixel, as bytes
    int64_t pixel, step, granule;  // bytes from a pixel, a step, or 64 inputs to the next
    int64_t run_taps;  // taps of a run: inputs that follow each other
    int64_t runs_in_row, runs, run_tiles;  // runs in a kernel row, in all; tiles of a run
    int64_t border;  // bytes before the first pixel of a row
    int64_t granules;  // of a row
    int64_t row;  // bytes of 16 steps of a row
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

// What stays in the second-level cache of a thread: the expanded input of a unit, the weights of a span of channels.
constexpr int64_t tile_unit_bytes = 1 << 19, tile_span_bytes = 1 << 20;

// Output pixels that are multiplied side by side: their sums stay in registers.
static constexpr int group_pixels(int digits) { return digits == 1 ? 4 : max_sums / digits; }

// How the work is cut.
struct Tiling {
    Layout layout;
    int64_t images, rows, rows_in;  // of a unit
    int64_t units, bands, span, spans;  // bands of an image; output channels of a span

    Tiling(const Conv2d& c, int64_t threads) : layout(c) {
        const Neurons& n = c.neurons;
        const int64_t wanted = 2 * threads;
        rows = 1;
        while (rows < rows_out(c) && input_rows(c, rows + 1) * layout.row <= tile_unit_bytes &&
               n.N * ceil_div(rows_out(c), rows + 1) >= wanted)
            rows++;
        bands = ceil_div(rows_out(c), rows);
        rows = ceil_div(rows_out(c), bands);
        rows_in = input_rows(c, rows);
        images = 1;
        if (bands == 1) images = most(1, least(ceil_div(n.N, wanted), tile_unit_bytes / most(1, rows_in * layout.row)));
        const int64_t pixels = group_pixels((int)c.digits);
        if (images > pixels) images -= images % pixels;  // so that groups are full
        units = ceil_div(n.N, images) * bands;
        const int64_t blocks = ceil_div(n.C, tile_channels), for_threads = ceil_div(wanted, most(1, units));
        const int64_t for_cache = ceil_div(blocks * weight_tiles(c) * tile_bytes, tile_span_bytes);
        span = ceil_div(blocks, least(blocks, most(for_threads, for_cache))) * tile_channels;
        spans = ceil_div(n.C, span);
    }
    // Of a block of 16 output channels.
    int64_t weight_tiles(const Conv2d& c) const { return layout.runs * layout.run_tiles * c.digits; }
};

// A unit of work, and where it reads and writes.
struct Unit {
    int64_t image, images, row, rows, in_row, in_rows, t, steps;
};

static Unit unit_of(const Conv2d& c, const Tiling& tiling, int64_t index) {
    const int64_t band = index % tiling.bands;
    Unit u{index / tiling.bands * tiling.images, 0, band * tiling.rows, 0, 0, 0, 0, 0};
    u.images = least(tiling.images, c.neurons.N - u.image);
    u.rows = least(tiling.rows, rows_out(c) - u.row);
    const Part in = input_of(c, {u.image, u.images, u.row, u.rows, 0, 0});
    u.in_row = in.row, u.in_rows = in.rows;
    return u;
}

// The output pixel of an index within a unit.
struct Pixel {
    int64_t image, y, x;
    Pixel() = default;
    Pixel(const Conv2d& c, const Unit& u, int64_t index)
        : image(index / (u.rows * c.W_out)), y(u.row + index / c.W_out % u.rows), x(index % c.W_out) {}
};

static inline int64_t frame_bytes(const Conv2d& c) { return c.neurons.P * ((c.neurons.C + 7) / 8); }

// Where the spikes of a pixel begin, in the first step of a unit.
static inline int64_t first_byte(const Conv2d& c, const Unit& u, const Pixel& pixel) {
    const Neurons& n = c.neurons;
    return ((u.image + pixel.image) * n.T + u.t) * frame_bytes(c) + (pixel.y * c.W_out + pixel.x) * ((n.C + 7) / 8);
}

// Output pixels that are multiplied side by side; where there are too few, the last one again.
template <int pixels>
struct Group {
    Pixel at[pixels];
    int used;
    Group(const Conv2d& c, const Unit& u, int64_t first, int64_t last) : used((int)least(pixels, last - first)) {
        for (int i = 0; i < pixels; i++) at[i] = Pixel(c, u, least(first + i, last - 1));
    }
};

}  // namespace PK_TARGET
#endif  // __AMX_INT8__
