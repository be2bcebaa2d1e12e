// Convolution as a product of matrix tiles (AMX), with the IF neuron in the same pass. Its speed does not depend on the
// firing rate.
//
// The rows of a tile of spikes are 16 steps of one output pixel, and its columns are 64 inputs. Weights are integers of a few
// int8 digits (amx_weights.h); each digit has its own tile and is multiplied by the same tile of spikes. The exact int32 sums
// of the 16 steps are then fired step by step with the potentials in registers.
//
// A unit of work is 16 steps of a few output rows, or of a few whole images where images are small:
//
// 1. expand: turns the bits of the input rows that the unit reads into bytes, 0 or -1 (64 in one instruction), and pads each
//    row with zeros.
// 2. list_products: lists, for each group of output pixels, the tiles in which anything fired.
// 3. fire_groups: multiplies the listed tiles, 16 output channels at a time.
#pragma once
#if defined(__AMX_INT8__)
#include "amx_tiles.h"
#include "amx_weights.h"

namespace PK_TARGET {

// The currents of 16 channels from their sums, lowest digit first. Digits are joined in pairs as integers, which fit 32 bits,
// so that a current that a float can hold is computed exactly.
template <int digits>
static inline __m512 current_of(const int32_t* sums, int64_t stride, __m512 unit, __m512 high_unit, __m512 bias) {
    auto sum = [&](int digit) { return _mm512_load_si512(sums + digit * stride); };
    auto joined = [&](int digit) { return _mm512_add_epi32(_mm512_slli_epi32(sum(digit + 1), 8), sum(digit)); };
    if constexpr (digits == 1) return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum(0)), unit, bias);
    else if constexpr (digits == 2) return _mm512_fmadd_ps(_mm512_cvtepi32_ps(joined(0)), unit, bias);
    else {
        const __m512i high = digits == 3 ? sum(2) : joined(2);
        const __m512 low = _mm512_mul_ps(_mm512_cvtepi32_ps(joined(0)), unit);
        return _mm512_add_ps(_mm512_fmadd_ps(_mm512_cvtepi32_ps(high), high_unit, low), bias);
    }
}

// Tiles to multiply, as byte offsets: into the expanded input for each pixel of a group, and into the packed weights.
template <int pixels>
struct Product {
    uint32_t spikes[pixels];
    uint32_t weights;
};

// The inputs of a unit as bytes. Padding is zero: borders within each row, and one row of zeros for rows outside the image.
struct Expanded {
    Grown<int8_t> spikes;  // [image][row][layout.row], then one row of zeros
    Grown<uint8_t> live;   // [image][row][granule]: whether anything fires; then one row of zeros

    static int64_t most_spikes(const Tiling& g) { return (g.images * g.rows_in + 1) * g.layout.row + tile_bytes; }
    static int64_t most_live(const Tiling& g) { return (g.images * g.rows_in + 1) * g.layout.granules + 1; }
    void borrow(Carver& carver, const Tiling& g) { spikes.borrow(carver, most_spikes(g)), live.borrow(carver, most_live(g)); }
    void clear(const Tiling& g) {
        memset(spikes.reserve(most_spikes(g)), 0, most_spikes(g));
        memset(live.reserve(most_live(g)), 0, most_live(g));
    }
};

// The memory of one thread.
template <int digits>
struct TileMemory {
    static constexpr int pixels = group_pixels(digits);
    static_assert(digits * pixels <= max_sums, "sums stay in registers");
    Expanded expanded;
    Grown<Product<pixels>> products;  // [group][most products of a group]
    Grown<int64_t> counts;            // [group]: its products
    Grown<uint16_t> bits;             // for TileSpikes

    static int64_t groups(const Tiling& g, const Conv2d& c) { return ceil_div(g.images * g.rows * c.W_out, pixels); }
    static int64_t most_products(const Tiling& g, const Conv2d& c) {
        return groups(g, c) * g.layout.runs * g.layout.run_tiles + 1;
    }
    static int64_t most_bits(const Tiling& g) { return pixels * tile_rows * g.span / tile_channels; }
    void borrow(Carver& carver, const Tiling& g, const Conv2d& c) {
        expanded.borrow(carver, g);
        products.borrow(carver, most_products(g, c)), counts.borrow(carver, groups(g, c)), bits.borrow(carver, most_bits(g));
    }
    // To be called before the first unit.
    void begin(const Tiling& g, const Conv2d& c) {
        expanded.clear(g);
        products.reserve(most_products(g, c)), counts.reserve(groups(g, c)), bits.reserve(most_bits(g));
    }
};

// Runs a task: one unit, and one span of output channels.
template <int digits>
void run_unit(const Conv2d& c, const Tiling& tiling, int64_t task, TileMemory<digits>& memory);

// Calls run with the number of digits as a constant of its own type.
template <class Run>
static void with_digits(int64_t digits, Run run) {
    static_assert(max_digits == 4);
    switch (digits) {
        case 1: return run(std::integral_constant<int, 1>());
        case 2: return run(std::integral_constant<int, 2>());
        case 3: return run(std::integral_constant<int, 3>());
        default: return run(std::integral_constant<int, 4>());
    }
}

}  // namespace PK_TARGET
#endif  // __AMX_INT8__
