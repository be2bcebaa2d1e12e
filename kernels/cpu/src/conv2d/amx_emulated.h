// The instructions on matrix tiles (AMX) in plain C++, under their own names: a build with them runs the tile kernel on any
// machine with AVX-512 (setup.py: --emulate-tiles). The checked build has them, too, and sees each byte that a tile reads or writes.
#pragma once
#include <cstdint>
#include <cstring>

#include "../work.h"

namespace PK_TARGET {

// What a thread has configured, and its registers.
struct EmulatedTiles {
    static constexpr int count = 8, most_rows = 16, most_width = 64;
    bool configured = false;
    int rows[count], width[count];  // bytes of a row
    int8_t bytes[count][most_rows][most_width];

    void configure(const void* shape) {  // byte 0: the palette, from 16: uint16 widths, from 48: uint8 rows
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
    // A row of sums, int32, gets four products of int8 more for every four columns of a, which are a row of b. Nothing but
    // registers: most of the time goes here, and it need not be looked at.
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

static thread_local EmulatedTiles emulated_tiles;

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
