// The matrix tiles of AMX: eight registers of 16 rows by 64 bytes, and a product of int8 tiles that adds to int32 sums.
// The instructions name their registers, so each function below takes the register as a template argument.
#pragma once
#include <cstdint>
#include <immintrin.h>
#include <utility>

#if defined(PK_EMULATED_TILES)
#include "amx_emulated.h"
#endif

namespace PK_TARGET {

constexpr int tile_rows = 16, tile_width = 64, tile_bytes = tile_rows * tile_width;
constexpr int tile_channels = 16;  // int32 sums in a row

// Expands `statement` for the register number `r`, known when the template is compiled.
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
// `once`: a tile that is not loaded again soon, so that it drives no spikes out of the first-level cache.
template <bool once> static inline void load_weights(const int8_t* from) {
    if constexpr (once) _tile_stream_loadd(7, from, tile_width);
    else _tile_loadd(7, from, tile_width);
}

#undef PK_TILE

// A thread must say how it uses the tiles before it does, and give them back after.
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
