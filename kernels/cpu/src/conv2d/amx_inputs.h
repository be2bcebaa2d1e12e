// How the tile kernel's inputs lie in memory once they are bytes, and how the work is cut into units: 16 steps of a few output
// rows, or of a few whole images where images are small.
#pragma once
#if defined(__AMX_INT8__)
#include "../work.h"
#include "amx_tiles.h"

namespace PK_TARGET {

// Which inputs make a tile, and where they lie. Where the channels of a pixel fill whole tiles, each tile is one contiguous
// piece of memory, which is best for the caches. Otherwise the pixels of a row lie side by side within each step: the inputs
// under a kernel row are then neighbours and fill whole tiles for any kernel width and number of channels, without im2col.
// (Where dilation separates the taps, only the inputs of one tap are neighbours.)
struct Layout {
    int64_t channels;  // channels of a pixel, padded; one byte each
    int64_t pixel, step, granule;  // bytes from one pixel, step, or group of 64 inputs to the next
    int64_t run_taps;  // taps of a run: a run is inputs that lie side by side
    int64_t runs_in_row, runs, run_tiles;  // runs in a kernel row, in the kernel; tiles of a run
    int64_t border;  // bytes before the first pixel of a row
    int64_t granules;  // granules of a row
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
        if (!whole_tiles) granules += run_tiles;  // the last tiles of a row reach past its end
        granule = whole_tiles ? tile_bytes : tile_width;
        pixel = channels * granule / tile_width;
        border = border_granules * granule;
        step = whole_tiles ? tile_width : (granules | 1) * tile_width;  // odd: the rows of a tile use different cache sets
        row = whole_tiles ? granules * tile_bytes : tile_rows * step;
    }
};

// What is to stay in a thread's second-level cache: the expanded input of a unit, and the weights of a span of channels.
constexpr int64_t tile_unit_bytes = 1 << 19, tile_span_bytes = 1 << 20;

// The number of output pixels that are multiplied together: as many as have sums in the tile registers.
static constexpr int group_pixels(int digits) { return digits == 1 ? 4 : max_sums / digits; }

// How the work is cut: images into bands of output rows, output channels into spans.
struct Tiling {
    Layout layout;
    int64_t images, rows, rows_in;  // images, output rows and input rows of a unit
    int64_t units, bands, span, spans;  // units in all; bands of an image; output channels of a span; spans

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
        if (images > pixels) images -= images % pixels;  // so that all groups are full
        units = ceil_div(n.N, images) * bands;
        const int64_t blocks = ceil_div(n.C, tile_channels), for_threads = ceil_div(wanted, most(1, units));
        const int64_t for_cache = ceil_div(blocks * weight_tiles(c) * tile_bytes, tile_span_bytes);
        span = ceil_div(blocks, least(blocks, most(for_threads, for_cache))) * tile_channels;
        spans = ceil_div(n.C, span);
    }
    // Tiles of weights of 16 output channels.
    int64_t weight_tiles(const Conv2d& c) const { return layout.runs * layout.run_tiles * c.digits; }
};

// A task: output images, output rows, input rows and steps; first and number of each.
struct TileTask {
    int64_t image, images, row, rows, in_row, in_rows, t, steps;
};

static TileTask tile_task_of(const Conv2d& c, const Tiling& tiling, int64_t index) {
    const int64_t band = index % tiling.bands;
    TileTask u{index / tiling.bands * tiling.images, 0, band * tiling.rows, 0, 0, 0, 0, 0};
    u.images = least(tiling.images, c.neurons.N - u.image);
    u.rows = least(tiling.rows, rows_out(c) - u.row);
    const Region in = input_of(c, {u.image, u.images, u.row, u.rows, 0, 0});
    u.in_row = in.row, u.in_rows = in.rows;
    return u;
}

// An output pixel, by its index within a task.
struct Pixel {
    int64_t image, y, x;
    Pixel() = default;
    Pixel(const Conv2d& c, const TileTask& u, int64_t index)
        : image(index / (u.rows * c.W_out)), y(u.row + index / c.W_out % u.rows), x(index % c.W_out) {}
};

static inline int64_t frame_bytes(const Conv2d& c) { return c.neurons.P * ((c.neurons.C + 7) / 8); }

// The first byte of a pixel's spikes in the first step of a unit.
static inline int64_t first_byte(const Conv2d& c, const TileTask& u, const Pixel& pixel) {
    const Neurons& n = c.neurons;
    return ((u.image + pixel.image) * n.T + u.t) * frame_bytes(c) + (pixel.y * c.W_out + pixel.x) * ((n.C + 7) / 8);
}

// Output pixels that are multiplied together. Where too few are left, the last one is repeated.
template <int pixels>
struct Group {
    Pixel at[pixels];
    int used;
    Group(const Conv2d& c, const TileTask& u, int64_t first, int64_t last) : used((int)least(pixels, last - first)) {
        for (int i = 0; i < pixels; i++) at[i] = Pixel(c, u, least(first + i, last - 1));
    }
};

}  // namespace PK_TARGET
#endif  // __AMX_INT8__
