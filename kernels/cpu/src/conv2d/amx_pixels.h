// Convolution of a few steps as a product of matrix tiles (AMX), with the neurons in the same pass. Tiles in which nothing
// fires are skipped; apart from that its speed does not depend on the firing rate.
//
// The rows of a tile of spikes are all steps of neighbouring output pixels: with 4 steps, those of 4 pixels of a row. Weights
// are packed as for amx.h. A task is some output rows of an image, and a span of output channels:
//
// 1. expand_input: turns the bits of the input rows that the task reads into bytes, 0 or -1, and numbers into negative bytes. For
//    each tap, the 64 inputs of a pixel lie step after step, and pixels lie side by side, so a tile is contiguous at whichever
//    pixel it begins.
// 2. list_pair: lists, for each two tiles of output pixels, the products in which anything fired.
// 3. multiply: two tiles of spikes by as many tiles of weights as have sums in the registers; then the neurons are fired,
//    or their currents are written for the code that runs neurons of any kind (engine/fire.cpp).
#pragma once
#include "../neurons.h"
#include "amx.h"
#if defined(__AMX_INT8__)

namespace PK_TARGET {

constexpr int64_t most_pixel_tile_steps = 8;

// Inputs that are whole numbers from 0 to 127 instead of spikes, as floats: [image][step][pixel][C_in]; the first two are
// strides in floats. Null: the input is the spikes of Conv2d.x.
struct PixelNumbers {
    const float* values = nullptr;
    int64_t image = 0, step = 0;
};

// How the inputs lie as bytes. Each input row has a plane for each tile of a run (amx_tiles.h), which holds the pixels that
// the run reads, output pixel by output pixel. The runs of a kernel row read the same pixels, shifted, and share the planes;
// with a stride above 1 each run has its own.
struct PlaneLayout {
    const Layout runs;
    int64_t steps, pixels;  // of a tile; their product is 16
    int64_t groups;  // tiles of an output row
    int64_t own_runs, planes, width;  // runs of a kernel row with planes of their own; planes of a row; pixels of a plane
    int64_t apart;  // distance in pixels between two runs that share a plane
    int64_t pixel, row;  // bytes of a pixel, and of all planes of a row
    int64_t bits;  // bytes of a padded row of spikes before it is expanded; numbers take 8 times as many

    explicit PlaneLayout(const Conv2d& c) : runs(c) {
        for (steps = 1; steps < c.neurons.T;) steps *= 2;
        pixels = tile_rows / steps;
        groups = ceil_div(c.W_out, pixels);
        own_runs = c.stride_w > 1 ? runs.runs_in_row : 1;
        apart = c.stride_w > 1 ? 0 : c.dilation_w;
        planes = own_runs * runs.run_tiles;
        width = groups * pixels + (runs.runs_in_row - 1) * apart;
        pixel = steps * tile_width;
        row = planes * width * pixel;
        bits = (c.padding_w + c.W) * ceil_div(c.C_in, 8) + runs.run_tiles * 8;
    }
};

// How the work is cut: images into bands of output rows, output channels into spans.
struct PixelTiling {
    const PlaneLayout layout;
    int64_t rows, rows_in, bands;  // output and input rows of a band; bands of an image
    int64_t span, spans;  // output channels of a span; spans

    PixelTiling(const Conv2d& c, int64_t threads) : layout(c) {
        const int64_t N = c.neurons.N, H = rows_out(c), wanted = threads > 1 ? 3 * threads : 1;
        rows = least(H, most(1, H * most(N, 1) / wanted));
        while (rows > 1 && input_rows(c, rows) * layout.row > tile_unit_bytes) rows--;
        bands = ceil_div(H, rows);
        rows = ceil_div(H, bands);
        rows_in = input_rows(c, rows);
        const int64_t pairs = ceil_div(c.neurons.C, 2 * tile_channels), for_threads = ceil_div(wanted, most(1, N * bands));
        const int64_t for_cache = ceil_div(pairs * 2 * block_bytes(c), tile_span_bytes);
        span = ceil_div(pairs, least(pairs, most(for_threads, for_cache))) * 2 * tile_channels;
        spans = ceil_div(c.neurons.C, span);
    }
    int64_t most_products() const { return layout.runs.runs * layout.runs.run_tiles; }
    int64_t block_bytes(const Conv2d& c) const { return most_products() * c.digits * tile_bytes; }
    int64_t tasks(const Conv2d& c) const { return c.neurons.N * bands * spans; }
    int64_t first_channel(const Conv2d& c, int64_t task) const { return task / (c.neurons.N * bands) * span; }
    Region part(const Conv2d& c, int64_t task) const {
        const int64_t unit = task % (c.neurons.N * bands), row = unit % bands * rows;
        return {unit / bands, 1, row, least(rows, rows_out(c) - row), 0, c.neurons.T};
    }
};

// Two tiles of spikes, and the offset of the tile of weights within each block of output channels.
struct PairProduct {
    const int8_t* spikes[2];
    int64_t weights;
};

// The memory of one thread.
struct PixelTileMemory {
    static constexpr int64_t tile_sums = tile_rows * tile_channels, pair_sums = max_sums * tile_sums;
    uint8_t* bits;  // [step][layout.bits], for numbers [step][8 * layout.bits]
    int8_t* spikes;  // [row of the input][plane][pixel][step][64 inputs]
    int8_t* silent;  // a tile of zeros
    uint8_t* live;  // [row of the input][plane][pixel]: whether anything fires there
    PairProduct* products;
    int32_t* sums;  // [2 tiles of spikes][tiles of weights][tile]; or of one tile of spikes and four of weights

    PixelTileMemory(const PixelTiling& g, Carver& carver, bool numbers) {
        bits = carver.take<uint8_t>(g.layout.steps * g.layout.bits * (numbers ? 8 : 1));
        spikes = carver.take<int8_t>(g.rows_in * g.layout.row);
        silent = carver.take<int8_t>(tile_bytes);
        live = carver.take<uint8_t>(g.rows_in * g.layout.planes * g.layout.width + tile_rows);
        products = carver.take<PairProduct>(g.most_products() + 1);
        sums = carver.take<int32_t>(pair_sums);
    }
};

// Expands one padded input row into all its planes. `numbers`: it has a byte for each input, and not a bit.
template <bool numbers>
static inline void expand_planes(const Conv2d& c, const PlaneLayout& layout, const uint8_t* bits, int8_t* to, uint8_t* live) {
    constexpr int64_t scale = numbers ? 8 : 1;
    const int64_t bytes = ceil_div(c.C_in, 8), end = c.padding_w + c.W;
    for (int64_t plane = 0; plane < layout.planes; plane++, to += layout.width * layout.pixel, live += layout.width) {
        const int64_t first = plane / layout.runs.run_tiles * c.dilation_w;
        const int64_t inside = first < end ? least(layout.width, ceil_div(end - first, c.stride_w)) : 0;
        const uint8_t* const from = bits + (first * bytes + plane % layout.runs.run_tiles * 8) * scale;
        for (int64_t x = 0; x < inside; x++) {
            uint64_t any = 0;
            for (int64_t t = 0; t < layout.steps; t++) {
                const uint8_t* const inputs = from + (x * c.stride_w * bytes + t * layout.bits) * scale;
                uint64_t word;
                memcpy(&word, inputs, 8);
                __m512i expanded = _mm512_movm_epi8(word);
                if constexpr (numbers) expanded = _mm512_loadu_si512(inputs), word = _mm512_test_epi8_mask(expanded, expanded);
                _mm512_storeu_si512(to + x * layout.pixel + t * tile_width, expanded);
                any |= word;
            }
            live[x] = any != 0;
        }
        memset(to + inside * layout.pixel, 0, (layout.width - inside) * layout.pixel);
        memset(live + inside, 0, layout.width - inside);
    }
}

// Writes n whole numbers as bytes, with the sign of spikes, which are -1.
static inline void negative_bytes(const float* from, int64_t n, uint8_t* to) {
    for (int64_t i = 0; i < n; i += 16) {
        const __mmask16 exist = (__mmask16)(n - i >= 16 ? 0xffff : (1 << (n - i)) - 1);
        const __m512i number = _mm512_cvtps_epi32(_mm512_maskz_loadu_ps(exist, from + i));
        _mm512_mask_cvtepi32_storeu_epi8(to + i, exist, _mm512_sub_epi32(_mm512_setzero_si512(), number));
    }
}

OUT_OF_LINE static void expand_numbers(const Conv2d& c, const PlaneLayout& layout, const Region& in,
                                       const PixelTileMemory& memory, const PixelNumbers& numbers) {
    const int64_t pixel = ceil_div(c.C_in, 8) * 8, step = 8 * layout.bits;
    memset(memory.bits, 0, layout.steps * step);
    for (int64_t row = 0; row < in.rows; row++) {
        for (int64_t t = 0; t < c.neurons.T; t++) {
            uint8_t* const to = memory.bits + t * step + c.padding_w * pixel;
            const float* const from =
                numbers.values + in.image * numbers.image + t * numbers.step + (in.row + row) * c.W * c.C_in;
            if (pixel == c.C_in) negative_bytes(from, c.W * pixel, to);
            else
                for (int64_t x = 0; x < c.W; x++) negative_bytes(from + x * c.C_in, c.C_in, to + x * pixel);
        }
        expand_planes<true>(c, layout, memory.bits, memory.spikes + row * layout.row,
                            memory.live + row * layout.planes * layout.width);
    }
}

OUT_OF_LINE static void expand_input(const Conv2d& c, const PlaneLayout& layout, const Region& in,
                                     const PixelTileMemory& memory, const PixelNumbers& numbers) {
    memset(memory.silent, 0, tile_bytes);
    memset(memory.live + in.rows * layout.planes * layout.width, 0, tile_rows);
    if (numbers.values) return expand_numbers(c, layout, in, memory, numbers);
    const int64_t bytes = c.W * ceil_div(c.C_in, 8), before = c.padding_w * ceil_div(c.C_in, 8);
    memset(memory.bits, 0, layout.steps * layout.bits);
    for (int64_t row = 0; row < in.rows; row++) {
        const uint8_t* const from = c.x + in.image * x_image(c) + (in.row + row) * bytes;
        for (int64_t t = 0; t < c.neurons.T; t++) memcpy(memory.bits + t * layout.bits + before, from + t * x_frame(c), bytes);
        expand_planes<false>(c, layout, memory.bits, memory.spikes + row * layout.row,
                             memory.live + row * layout.planes * layout.width);
    }
}

// Neighbouring output pixels of a row, whose steps make one tile.
struct PixelGroup {
    int64_t y, x;
    PixelGroup(const PlaneLayout& layout, const Region& out, int64_t index)
        : y(out.row + index / layout.groups), x(index % layout.groups * layout.pixels) {}
};

// Lists the products of two groups, except those in which nothing fires; returns their number.
OUT_OF_LINE static int64_t list_pair(const Conv2d& c, const PlaneLayout& layout, const Region& in, const PixelGroup (&group)[2],
                                     const PixelTileMemory& memory) {
    const __mmask16 of_tile = (__mmask16)((1 << layout.pixels) - 1);
    const int64_t tile_step = c.digits * tile_bytes;
    PairProduct* end = memory.products;
    int64_t weights = 0;
    for (int64_t ky = 0; ky < c.kernel_h; ky++) {
        int64_t row[2];
        bool inside[2];
        for (int i = 0; i < 2; i++) {
            row[i] = group[i].y * c.stride_h - c.padding_h + ky * c.dilation_h - in.row;
            inside[i] = row[i] >= 0 && row[i] < in.rows;
        }
        for (int64_t run = 0; run < layout.runs.runs_in_row; run++)
            for (int64_t k = 0; k < layout.runs.run_tiles; k++, weights += tile_step) {
                const int64_t plane = (layout.own_runs > 1 ? run : 0) * layout.runs.run_tiles + k;
                __mmask16 live = 0;
                for (int i = 0; i < 2; i++) {
                    const int64_t at = (row[i] * layout.planes + plane) * layout.width + group[i].x + run * layout.apart;
                    __mmask16 fires = 0;
                    if (inside[i]) {
                        const __m128i flags = _mm_loadu_si128((const __m128i*)(memory.live + at));
                        fires = _mm_test_epi8_mask(flags, flags) & of_tile;
                    }
                    end->spikes[i] = fires ? memory.spikes + at * layout.pixel : memory.silent;
                    live |= fires;
                }
                end->weights = weights;
                end += live != 0;
            }
    }
    return end - memory.products;
}

// Multiplies tiles of spikes by tiles of weights, which are `next` bytes apart. The sums stay in registers. Every second tile of
// spikes takes the weights in reverse order, so that its first weights are already loaded.
template <int together, int columns_>
static inline void multiply(const PairProduct* product, int64_t count, const int8_t* weights, int64_t next) {
    each<together * columns_>([](auto i) { clear_sum<i>(); });
    for (const PairProduct* const end = product + count; product < end; product++)
        each<together * columns_>([&](auto index) {
            constexpr int i = index / columns_, k = index % columns_, column = i % 2 ? columns_ - 1 - k : k;
            if constexpr (k == 0) load_spikes(product->spikes[i], tile_width);
            if constexpr (k > 0 || i == 0) load_weights<false>(weights + product->weights + column * next);
            add_product<i * columns_ + column>();
        });
}
template <int count>
static inline void store_sums(int32_t* sums) {
    each<count>([&](auto i) { store_sum<i>(sums + i * PixelTileMemory::tile_sums); });
}

// 16 output channels: turns their sums into currents, and runs their neurons.
template <int digits, class Model>
struct ChannelBlock {
    const Conv2d& c;
    const int64_t channel;
    const int channels;
    const NeuronBlock<Model, tile_channels> neurons;
    const Vec bias;
    const __m512 unit, high_unit;

    ChannelBlock(const Conv2d& c, int64_t channel)
        : c(c),
          channel(channel),
          channels((int)least(c.neurons.C - channel, tile_channels)),
          neurons(c.neurons.neuron, channel),
          bias(load(c.bias + channel)),
          unit(_mm512_sub_ps(_mm512_setzero_ps(), load(c.unit + channel).x)),  // spikes are -1
          high_unit(_mm512_mul_ps(unit, _mm512_set1_ps(65536.0f))) {}

    void fire_group(const PlaneLayout& layout, const int32_t* sums, int64_t image, const PixelGroup& group) const {
        if (channels == tile_channels && !c.shortcut) fire_pixels<true>(layout, sums, image, group);
        else fire_pixels<false>(layout, sums, image, group);
    }

private:
    // Runs up to 4 pixels together, since each step of a neuron waits for the one before. With few steps, addresses and
    // branches dominate, so they are computed once for all steps. `plain`: the tile has all its channels, and there is no
    // shortcut. Other tiles are rare and run one pixel at a time, which keeps the code small.
    template <bool plain>
    OUT_OF_LINE void fire_pixels(const PlaneLayout& layout, const int32_t* sums, int64_t image, const PixelGroup& group) const {
        const ChannelBlock own = *this;  // copies: the compiler cannot rule out that storing spikes changes the members
        const Neurons n = c.neurons;
        const int count = plain ? (int)tile_channels : channels;
        const int64_t pixels = least(layout.pixels, c.W_out - group.x), place = group.y * c.W_out + group.x;
        const int64_t frame = frame_bytes(c), next = ceil_div(n.C, 8), next_row = layout.steps * tile_channels;
        const int64_t first = image * n.T * frame + place * next + channel / 8;
        uint8_t* const spikes = n.spikes + first;
        const uint8_t* const shortcuts = c.shortcut ? c.shortcut + first : nullptr;
        const auto fire = [&](auto last, int64_t from) {
            constexpr int together = decltype(last)::value + 1;
            NeuronStates<Model::states, tile_channels> state[together];
            each<together>([&](auto i) { load_states<Model>(state[i], n, 0, image, place + from + i, own.channel, count); });
            for (int64_t t = 0; t < n.T; t++)
                each<together>([&](auto i) {
                    const int64_t at = t * frame + (from + i) * next;
                    const int32_t* const row = sums + (from + i) * next_row + t * tile_channels;
                    Lanes<tile_channels> current{
                        {{current_of<digits>(row, PixelTileMemory::tile_sums, own.unit, own.high_unit, own.bias.x)}}};
                    if (!plain && shortcuts) add_spikes(current, shortcuts + at, count);
                    const uint32_t fired = (uint32_t)bits(own.neurons.step(state[i], current.v[0], 0));
                    store_spikes<tile_channels>(spikes + at, fired, count);
                });
            if (!n.v) return;
            each<together>(
                [&](auto i) { store_states(states_of<Model>(n, image, place + from + i, own.channel), n, state[i], count); });
        };
        int64_t from = 0;
        if constexpr (plain) {
            for (; from + 4 <= pixels; from += 4) fire(std::integral_constant<int, 3>(), from);
            for (; from + 2 <= pixels; from += 2) fire(std::integral_constant<int, 1>(), from);
        }
        for (; from < pixels; from++) fire(std::integral_constant<int, 0>(), from);
    }
};

// 16 output channels: writes their currents without the bias to Neurons.currents, here [image][step][pixel][C].
template <int digits>
struct CurrentBlock {
    const Conv2d& c;
    const int64_t channel;
    const __mmask16 exist;
    const __m512 unit, high_unit;

    CurrentBlock(const Conv2d& c, int64_t channel)
        : c(c),
          channel(channel),
          exist((__mmask16)((1 << least(c.neurons.C - channel, tile_channels)) - 1)),
          unit(_mm512_sub_ps(_mm512_setzero_ps(), load(c.unit + channel).x)),  // inputs are negative
          high_unit(_mm512_mul_ps(unit, _mm512_set1_ps(65536.0f))) {}

    void fire_group(const PlaneLayout& layout, const int32_t* sums, int64_t image, const PixelGroup& group) const {
        const Neurons& n = c.neurons;
        const int64_t pixels = least(layout.pixels, c.W_out - group.x), place = group.y * c.W_out + group.x;
        for (int64_t t = 0; t < n.T; t++)
            for (int64_t i = 0; i < pixels; i++) {
                const int32_t* const row = sums + (i * layout.steps + t) * tile_channels;
                const __m512 current =
                    current_of<digits>(row, PixelTileMemory::tile_sums, unit, high_unit, _mm512_setzero_ps());
                _mm512_mask_storeu_ps(n.currents + ((image * n.T + t) * n.P + place + i) * n.C + channel, exist, current);
            }
    }
};

// Runs a task; `Channels` takes the sums of 16 output channels. The matrix unit works beside the vector units: while it
// multiplies the tiles of some groups, the neurons of the previous ones are run. Only then are the new sums stored.
template <int digits, class Channels>
static void run_pixel_tiles(const Conv2d& c, const PixelTiling& tiling, int64_t task, const PixelTileMemory& memory,
                            const PixelNumbers& numbers = {}) {
    constexpr int wide = digits == 1 ? 2 : 1;  // blocks of channels whose tiles are multiplied together
    constexpr int together = least(2, max_sums / digits), tiles = wide * digits;  // groups; tiles of weights
    const PlaneLayout& layout = tiling.layout;
    const Region out = tiling.part(c, task), in = input_of(c, out);
    const int64_t first_channel = tiling.first_channel(c, task), last_channel = least(c.neurons.C, first_channel + tiling.span);
    const int64_t block = tiling.block_bytes(c), groups = out.rows * layout.groups;
    expand_input(c, layout, in, memory, numbers);
    PixelGroup before[2] = {{layout, out, 0}, {layout, out, 0}};
    int64_t used_before = 0, channel_before = 0;
    const auto fire_before = [&] {
        for (int64_t j = 0; j < wide && channel_before + j * tile_channels < last_channel && used_before; j++) {
            const Channels channels(c, channel_before + j * tile_channels);
            for (int64_t i = 0; i < used_before; i++)
                channels.fire_group(layout, memory.sums + (tiles * i + j) * PixelTileMemory::tile_sums, out.image, before[i]);
        }
    };
    for (int64_t g = 0; g < groups; g += together) {
        const PixelGroup group[2] = {{layout, out, g}, {layout, out, least(g + together - 1, groups - 1)}};
        const int64_t count = list_pair(c, layout, in, group, memory);
        for (int64_t channel = first_channel; channel < last_channel; channel += wide * tile_channels) {
            const int8_t* const weights = (const int8_t*)c.weight + channel / tile_channels * block;
            const int64_t next = channel + tile_channels < c.neurons.C ? block : 0;  // without a second block, the first again
            multiply<together, tiles>(memory.products, count, weights, digits > 1 ? tile_bytes : next);
            fire_before();
            store_sums<together * tiles>(memory.sums);
            before[0] = group[0], before[1] = group[1];
            used_before = least(together, groups - g), channel_before = channel;
        }
    }
    fire_before();
}

}  // namespace PK_TARGET
#endif  // __AMX_INT8__
