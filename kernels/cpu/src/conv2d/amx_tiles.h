// The matrix tiles of AMX: eight registers of 16 rows by 64 bytes, and a product of int8 tiles that adds to int32 sums.
// The instructions name their registers, so each function below takes the register as a template argument.
//
// With PK_EMULATED_TILES (setup.py: --emulate-tiles, --checked) plain C++ replaces the intrinsics under the same names: the
// tile kernel then runs on any machine with AVX-512, and the checked build sees each byte that a tile reads or writes.
#pragma once
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

}  // namespace PK_TARGET
