// The matrix tiles of AMX: eight registers of 16 rows by 64 bytes, and a product of int8 tiles that adds to int32 sums.
// The instructions name their registers, so each function below takes the register as a template argument.
//
// With PK_EMULATED_TILES (setup.py: --emulate-tiles, --checked) plain C++ replaces the intrinsics under the same names: the
// tile kernel then runs on any machine with AVX-512, and the checked build sees each byte that a tile reads or writes.
#pragma once
#if defined(__AMX_INT8__)
#include <cstdint>
#include <cstring>
#include <immintrin.h>
#include <utility>

#include "../work.h"

#if defined(PK_EMULATED_TILES)
namespace PK_TARGET {

// A thread's tile configuration and registers.
struct EmulatedTiles {
    static constexpr int count = 8, most_rows = 16, most_width = 64;
    bool configured = false;
    int rows[count], width[count];  // bytes of a row
    int8_t bytes[count][most_rows][most_width];

    void configure(const void* shape) {  // byte 0: the palette; from byte 16: uint16 widths; from byte 48: uint8 rows
        const uint8_t* const from = (const uint8_t*)shape;
        PK_ASSERT(from[0] == 1);
        for (int tile = 0; tile < count; tile++) {
            uint16_t columns;
            memcpy(&columns, from + 16 + 2 * tile, sizeof columns);
            rows[tile] = from[48 + tile], width[tile] = columns;
            PK_ASSERT(rows[tile] <= most_rows && width[tile] <= most_width);
        }
        memset(bytes, 0, sizeof bytes);
        configured = true;
    }
    void release() { configured = false; }
    void zero(int tile) {
        PK_ASSERT(configured);
        memset(bytes[tile], 0, sizeof bytes[tile]);
    }
    void load(int tile, const void* from, int64_t stride) {
        zero(tile);
        for (int i = 0; i < rows[tile]; i++) memcpy(bytes[tile][i], (const int8_t*)from + i * stride, width[tile]);
    }
    void store(int tile, void* to, int64_t stride) const {
        PK_ASSERT(configured);
        for (int i = 0; i < rows[tile]; i++) memcpy((int8_t*)to + i * stride, bytes[tile][i], width[tile]);
    }
    void add_product(int sum, int a, int b) {
        PK_ASSERT(configured && rows[sum] == rows[a] && width[sum] == width[b] && width[a] == 4 * rows[b]);
        for (int m = 0; m < rows[sum]; m++) add_row(bytes[a][m], width[a], bytes[b], bytes[sum][m]);
    }

private:
    // Adds to a row of int32 sums: four int8 products for every four columns of a, which meet one row of b. It touches only
    // the emulated registers and takes most of the time, so the sanitizers skip it.
    __attribute__((optimize("O3"), no_sanitize("address", "undefined"), noinline)) static void add_row(
        const int8_t* a, int columns, const int8_t (*b)[most_width], int8_t* row) {
        int32_t sums[most_width / 4];
        memcpy(sums, row, sizeof sums);
        for (int k = 0; k < columns; k += 4)
            for (int n = 0; n < most_width / 4; n++)
                for (int i = 0; i < 4; i++) sums[n] += a[k + i] * b[k / 4][4 * n + i];
        memcpy(row, sums, sizeof sums);
    }
};

inline thread_local EmulatedTiles emulated_tiles;

}  // namespace PK_TARGET

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stream_loadd
#undef _tile_stored
#undef _tile_dpbssd
#define _tile_loadconfig(shape) emulated_tiles.configure(shape)
#define _tile_release() emulated_tiles.release()
#define _tile_zero(tile) emulated_tiles.zero(tile)
#define _tile_loadd(tile, from, stride) emulated_tiles.load(tile, from, stride)
#define _tile_stream_loadd(tile, from, stride) emulated_tiles.load(tile, from, stride)
#define _tile_stored(tile, to, stride) emulated_tiles.store(tile, to, stride)
#define _tile_dpbssd(sum, a, b) emulated_tiles.add_product(sum, a, b)
#endif  // PK_EMULATED_TILES

namespace PK_TARGET {

constexpr int tile_rows = 16, tile_width = 64, tile_bytes = tile_rows * tile_width;
constexpr int tile_channels = 16;  // int32 sums in a row

// Expands `statement` with the register number `r`, a constant of the template.
#define PK_TILE(r, statement)                \
    if constexpr (r == 0) statement(0);      \
    else if constexpr (r == 1) statement(1); \
    else if constexpr (r == 2) statement(2); \
    else if constexpr (r == 3) statement(3); \
    else if constexpr (r == 4) statement(4); \
    else statement(5)

constexpr int max_sums = 6;  // registers 0 to 5 hold sums, 6 a tile of spikes, 7 one of weights

template <int sum> static inline void clear_sum() {
#define PK_CLEAR(r) _tile_zero(r)
    PK_TILE(sum, PK_CLEAR);
#undef PK_CLEAR
}
template <int sum> static inline void add_product() {
#define PK_PRODUCT(r) _tile_dpbssd(r, 6, 7)
    PK_TILE(sum, PK_PRODUCT);
#undef PK_PRODUCT
}
template <int sum> static inline void load_sum(const int32_t* from) {
#define PK_LOAD(r) _tile_loadd(r, from, tile_width)
    PK_TILE(sum, PK_LOAD);
#undef PK_LOAD
}
template <int sum> static inline void store_sum(int32_t* to) {
#define PK_STORE(r) _tile_stored(r, to, tile_width)
    PK_TILE(sum, PK_STORE);
#undef PK_STORE
}
static inline void load_spikes(const int8_t* from, int64_t row_bytes) { _tile_loadd(6, from, row_bytes); }
// `once`: the tile will not be loaded again soon, and should not evict spikes from the first-level cache.
template <bool once> static inline void load_weights(const int8_t* from) {
    if constexpr (once) _tile_stream_loadd(7, from, tile_width);
    else _tile_loadd(7, from, tile_width);
}

#undef PK_TILE

// Configures the tiles of the calling thread, and releases them at the end of the scope.
struct TileSession {
    TileSession() {
        struct {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t width[16] = {};
            uint8_t rows[16] = {};
        } shape;
        for (int i = 0; i < 8; i++) shape.width[i] = tile_width, shape.rows[i] = tile_rows;
        _tile_loadconfig(&shape);
    }
    ~TileSession() { _tile_release(); }
};

// How the tile kernel's inputs lie in memory once they are bytes, and how the work is cut into units: 16 steps of a few output
// rows, or of a few whole images where images are small.

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
