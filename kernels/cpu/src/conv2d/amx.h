// Convolution as a product of matrix tiles (AMX), with the IF neuron in the same pass. Its speed does not depend on the
// firing rate.
//
// The rows of a tile of spikes are 16 steps of one output pixel, its columns 64 inputs; weights are whole numbers of a few
// int8 digits (amx_digits.h), each digit a tile of its own that shares the tile of spikes. The sums of the 16 steps land
// in int32 tiles, exact, and are fired step by step with the potentials in registers.
//
// A unit of work is 16 steps of a few output rows, or of a few whole images where these are small:
//
// 1. expand: the bits of the input rows below become bytes, 0 or -1 (one instruction makes 64), each row of pixels with its
//    border of zeros.
// 2. list_products: for each group of output pixels, the tiles in which anything fired.
// 3. fire: for 16 output channels at a time, walk the lists.
#pragma once
#if defined(__AMX_INT8__)
#include "../neurons.h"
#include "../work.h"
#include "amx_layout.h"
#include "amx_tiles.h"
#include "amx_weights.h"

namespace PK_TARGET {

// What stays in the second-level cache of a thread: the expanded input of a unit, the weights of a span of channels.
constexpr int64_t tile_unit_bytes = 1 << 19, tile_span_bytes = 1 << 20;

// How the work is cut.
struct Tiling {
    Layout layout;
    int64_t images, rows, rows_in;      // of a unit
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
        if (images > max_sums) images -= images % max_sums;
        else if (images > 2) images -= images % 2;  // so that groups of pixels are full
        units = ceil_div(n.N, images) * bands;
        const int64_t blocks = ceil_div(n.C, tile_channels), for_threads = ceil_div(wanted, most(1, units));
        const int64_t for_cache = ceil_div(blocks * weight_tiles(c) * tile_bytes, tile_span_bytes);
        span = ceil_div(blocks, least(blocks, most(for_threads, for_cache))) * tile_channels;
        spans = ceil_div(n.C, span);
    }
    // Of a block of 16 output channels.
    int64_t weight_tiles(const Conv2d& c) const { return layout.runs * layout.run_tiles * c.digits; }
};

// Tiles to multiply: positions in the expanded input, one for each pixel of a group, and in the packed weights.
template <int pixels>
struct Product {
    uint32_t spikes[pixels];
    uint32_t weights;
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
    const int64_t first = u.row * c.stride_h - c.padding_h;
    const int64_t last = first + (u.rows - 1) * c.stride_h + (c.kernel_h - 1) * c.dilation_h + 1;
    u.in_row = least(most(first, 0), c.H);
    u.in_rows = most(least(last, c.H) - u.in_row, 0);
    return u;
}

// A row of pixels, `bytes` of bits in each step, as bytes of 0 and -1. A tile is written at a stretch, 16 steps of 64 inputs;
// `live` remembers which of these granules hold a spike.
static void expand_row(const uint8_t* bits, int64_t bytes, int64_t frame, int64_t steps, const Layout& layout, int8_t* to,
                       uint8_t* live) {
    for (; bytes > 0; bytes -= 8, bits += 8, to += layout.granule) {
        uint64_t any = 0;
        for (int64_t t = 0; t < steps; t++) {
            uint64_t word = 0;
            if (bytes >= 8) memcpy(&word, bits + t * frame, 8);
            else memcpy(&word, bits + t * frame, bytes);
            _mm512_storeu_si512(to + t * layout.step, _mm512_movm_epi8(word));
            any |= word;
        }
        *live++ = any != 0;
    }
}

struct Expanded {
    Memory<int8_t> spikes;  // [image][row][layout.row], then one row of zeros
    Memory<uint8_t> live;   // [image][row][granule], the same
    Expanded(const Tiling& g)
        : spikes((g.images * g.rows_in + 1) * g.layout.row + tile_bytes),
          live((g.images * g.rows_in + 1) * g.layout.granules + 1) {}
};

static void expand(const Conv2d& c, const Tiling& tiling, const Unit& u, Expanded& expanded) {
    const Layout& layout = tiling.layout;
    const int64_t bytes = c.W * ((c.C_in + 7) / 8), frame = c.H * bytes;
    for (int64_t image = 0; image < u.images; image++)
        for (int64_t row = 0; row < u.in_rows; row++) {
            const int64_t index = image * tiling.rows_in + row;
            const uint8_t* from = c.x + ((u.image + image) * c.neurons.T + u.t) * frame + (u.in_row + row) * bytes;
            int8_t* to = expanded.spikes.data + index * layout.row + layout.border;
            uint8_t* live = expanded.live.data + index * layout.granules;
            expand_row(from, bytes, frame, u.steps, layout, to, live + layout.border / layout.granule);
        }
}

// The output pixel of an index within a unit.
struct Pixel {
    int64_t image, y, x;
    Pixel(const Conv2d& c, const Unit& u, int64_t index)
        : image(index / (u.rows * c.W_out)), y(u.row + index / c.W_out % u.rows), x(index % c.W_out) {}
};

// The products of one group of pixels, without those in which nothing fired.
template <int pixels>
static int64_t list_products(const Conv2d& c, const Tiling& tiling, const Unit& u, const Expanded& expanded, int digits,
                             int64_t first, int64_t last, Product<pixels>* products) {
    const Layout& layout = tiling.layout;
    Product<pixels>* end = products;
    for (int64_t run = 0; run < layout.runs; run++) {
        const int64_t ky = run / layout.runs_in_row, kx = run % layout.runs_in_row;
        int64_t row[pixels], byte[pixels];  // of the expanded input, and where in it
        for (int i = 0; i < pixels; i++) {
            const Pixel pixel(c, u, least(first + i, last - 1));
            const int64_t y = pixel.y * c.stride_h - c.padding_h + ky * c.dilation_h;
            const int64_t zero_row = tiling.images * tiling.rows_in;
            row[i] = y < 0 || y >= c.H ? zero_row : pixel.image * tiling.rows_in + y - u.in_row;
            byte[i] = layout.border + (pixel.x * c.stride_w - c.padding_w + kx * c.dilation_w) * layout.pixel;
        }
        for (int64_t k = 0; k < layout.run_tiles; k++) {
            bool live = false;
            for (int i = 0; i < pixels; i++) {
                const int64_t start = byte[i] + k * layout.granule;
                const uint8_t* flags = expanded.live.data + row[i] * layout.granules;
                live |= flags[start / layout.granule] | flags[(start + layout.granule - 1) / layout.granule];
                end->spikes[i] = (uint32_t)(row[i] * layout.row + start);
            }
            end->weights = (uint32_t)((run * layout.run_tiles + k) * digits * tile_bytes);
            end += live;
        }
    }
    PK_ASSERT(end - products <= layout.runs * layout.run_tiles);
    return end - products;
}

// The product of a group's tiles. Every other pixel takes the digits in reverse, so that one of them is still loaded.
template <int digits, int pixels>
static inline void add_products(const int8_t* spikes, const Product<pixels>& product, const int8_t* weights, int64_t step) {
    each<digits * pixels>([&](auto index) {
        constexpr int pixel = index / digits, k = index % digits, digit = pixel % 2 ? digits - 1 - k : k;
        if constexpr (k == 0) load_spikes(spikes + product.spikes[pixel], step);
        if constexpr (k > 0 || pixel == 0) load_weights(weights + product.weights + digit * tile_bytes);
        add_product<digit * pixels + pixel>();
    });
}

// The current of 16 channels from their sums, lowest digit first. The low digits are joined as whole numbers (they fit),
// so that a current that a float can hold comes out exactly.
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

// 16 output channels of a group of pixels: sums that are ready to be fired.
template <int digits, int pixels, class Model>
struct Firing {
    static constexpr int digit_sums = pixels * tile_rows * tile_channels;
    alignas(64) int32_t sums[digits * digit_sums];
    typename Model::template Of<tile_channels> neurons;
    States<Model::states, tile_channels> state[pixels];
    Vec bias;
    __m512 unit, high_unit;
    float* kept[pixels];
    uint8_t* out[pixels];
    const uint8_t* shortcut[pixels];
    int64_t frame, steps = 0;
    int channels, used = 0;

    Firing(const Conv2d& c, int64_t channel) : neurons({c.neurons.neuron, channel}) {
        const Neurons& n = c.neurons;
        bias = load(c.bias + channel);
        unit = _mm512_sub_ps(_mm512_setzero_ps(), load(c.unit + channel).x);  // spikes are -1
        high_unit = _mm512_mul_ps(unit, _mm512_set1_ps(65536.0f));
        channels = (int)least(n.C - channel, tile_channels);
        frame = n.P * ((n.C + 7) / 8);
    }
    void begin(const Conv2d& c, const Unit& u, int64_t first, int64_t last, int64_t channel) {
        const Neurons& n = c.neurons;
        steps = u.steps;
        used = (int)least(pixels, last - first);
        for (int i = 0; i < pixels; i++) {
            const Pixel pixel(c, u, least(first + i, last - 1));
            const int64_t image = u.image + pixel.image, p = pixel.y * c.W_out + pixel.x;
            kept[i] = states_of<Model>(n, image, p, channel);
            const int64_t first_byte = (image * n.T + u.t) * frame + p * ((n.C + 7) / 8) + channel / 8;
            out[i] = n.spikes + first_byte;
            shortcut[i] = c.shortcut ? c.shortcut + first_byte : nullptr;
            load_states(state[i], n, kept[i], channels);
        }
        each<digits * pixels>([&](auto i) { store_sum<i>(sums + i * tile_rows * tile_channels); });
    }
    inline void step(int64_t t) {
        for (int i = 0; i < pixels; i++) {
            const int32_t* row = sums + (i * tile_rows + t) * tile_channels;
            Lanes<tile_channels> current{{{current_of<digits>(row, digit_sums, unit, high_unit, bias.x)}}};
            if (shortcut[i]) add_spikes(current, shortcut[i] + t * frame, channels);
            const uint32_t fired = bits(neurons.step(state[i], current.v[0], 0));
            if (i < used) store_spikes(out[i] + t * frame, fired, channels);
        }
    }
    void end(const Conv2d& c) {
        for (int i = 0; i < used; i++) store_states(kept[i], c.neurons, state[i], channels);
        steps = 0, used = 0;
    }
};

// 16 output channels of all groups of a unit. While the tiles of a group are multiplied, which takes its own part of the
// processor, the group before it is fired, a step after each product.
template <int digits, int pixels, class Model>
OUT_OF_LINE static void fire_groups(const Conv2d& c, const Tiling& tiling, const Unit& u, Model, const int8_t* spikes,
                                    int64_t last, int64_t channel, const Product<pixels>* products, const int64_t* counts) {
    const int64_t most_products = tiling.layout.runs * tiling.layout.run_tiles;
    const int8_t* weights = (const int8_t*)c.weight + channel / tile_channels * most_products * digits * tile_bytes;
    Firing<digits, pixels, Model> firing(c, channel);
    for (int64_t first = 0, group = 0; first < last; first += pixels, group++) {
        each<digits * pixels>([](auto i) { clear_sum<i>(); });
        const Product<pixels>* product = products + group * most_products;
        int64_t t = 0;
        for (const Product<pixels>* end = product + counts[group]; product < end; product++) {
            add_products<digits, pixels>(spikes, *product, weights, tiling.layout.step);
            if (t < firing.steps) firing.step(t++);
        }
        while (t < firing.steps) firing.step(t++);
        firing.end(c);
        firing.begin(c, u, first, last, channel);
    }
    for (int64_t t = 0; t < firing.steps; t++) firing.step(t);
    firing.end(c);
}

template <int digits, int pixels, class Model>
static void run_unit(const Conv2d& c, const Tiling& tiling, Model model, int64_t task, Expanded& expanded,
                     Product<pixels>* products, int64_t* counts) {
    const int64_t first_channel = task / tiling.units * tiling.span;
    const int64_t last_channel = least(c.neurons.C, first_channel + tiling.span);
    const int64_t most_products = tiling.layout.runs * tiling.layout.run_tiles;
    Unit u = unit_of(c, tiling, task % tiling.units);
    const int64_t last = u.images * u.rows * c.W_out;
    for (; u.t < c.neurons.T; u.t += tile_rows) {
        u.steps = least(tile_rows, c.neurons.T - u.t);
        expand(c, tiling, u, expanded);
        for (int64_t first = 0, group = 0; first < last; first += pixels, group++)
            counts[group] =
                list_products<pixels>(c, tiling, u, expanded, digits, first, last, products + group * most_products);
        for (int64_t channel = first_channel; channel < last_channel; channel += tile_channels)
            fire_groups<digits, pixels>(c, tiling, u, model, expanded.spikes.data, last, channel, products, counts);
    }
}

template <int digits, int pixels>
static void run_tiles(const Conv2d& c) {
    static_assert(digits * pixels <= max_sums, "sums stay in registers");
    const Tiling tiling(c, max_threads());
    const int64_t groups = ceil_div(tiling.images * tiling.rows * c.W_out, pixels);
    with_model(c.neurons.neuron, [&](auto model) {
#pragma omp parallel
        {
            TileSession session;
            Expanded expanded(tiling);
            Memory<Product<pixels>> products(groups * tiling.layout.runs * tiling.layout.run_tiles + 1);
            Memory<int64_t> counts(groups);
#pragma omp for schedule(dynamic)
            for (int64_t task = 0; task < tiling.units * tiling.spans; task++)
                run_unit<digits, pixels>(c, tiling, model, task, expanded, products.data, counts.data);
        }
    });
}

static void tile_conv2d(const Conv2d* c) {
    switch (c->digits) {
        case 1: return run_tiles<1, 4>(*c);
        case 2: return run_tiles<2, 3>(*c);
        case 3: return run_tiles<3, 2>(*c);
        default: return run_tiles<4, 1>(*c);
    }
}

}  // namespace PK_TARGET
#endif  // __AMX_INT8__
