#include "amx.h"
#if defined(__AMX_INT8__)
#include "../neurons.h"

namespace PK_TARGET {

// Collects the spikes of a group of pixels for a whole span of channels before they are written. Writing them after each
// 16 channels would touch a cache line of every step for two bytes.
struct TileSpikes {
    const int64_t first_channel, blocks;
    uint16_t* const bits;  // [pixel][step][16 channels]
    uint16_t* of(int64_t pixel, int64_t t, int64_t channel) const {
        return bits + (pixel * tile_rows + t) * blocks + (channel - first_channel) / tile_channels;
    }
    template <int pixels>
    void write(const Conv2d& c, const TileTask& u, const Group<pixels>& group) const {
        const int64_t bytes = least(blocks * tile_channels / 8, (c.neurons.C + 7) / 8 - first_channel / 8);
        for (int i = 0; i < group.used; i++) {
            uint8_t* const to = c.neurons.spikes + first_byte(c, u, group.at[i]) + first_channel / 8;
            for (int64_t t = 0; t < u.steps; t++) memcpy(to + t * frame_bytes(c), of(i, t, first_channel), bytes);
        }
    }
};

// Finished sums of 16 output channels of a group of pixels, waiting to be fired: `step` runs the neurons of one pixel for a
// few steps.
template <int digits, int pixels, class Model>
struct TileFiring {
    static constexpr int digit_sums = pixels * tile_rows * tile_channels, part_steps = 4;
    static constexpr int parts = pixels * tile_rows / part_steps;
    alignas(64) int32_t sums[digits * digit_sums];
    NeuronBlock<Model, tile_channels> neurons;
    NeuronStates<Model::states, tile_channels> state[pixels];
    Vec bias;
    __m512 unit, high_unit;
    float* kept[pixels];
    uint16_t* fired[pixels];
    const uint8_t* shortcut[pixels];
    int64_t steps = 0;
    int channels, used = 0;

    void begin(const Conv2d& c, const TileTask& u, const Group<pixels>& group, int64_t channel, const TileSpikes& to) {
        const Neurons& n = c.neurons;
        neurons = NeuronBlock<Model, tile_channels>(n.neuron, channel);
        bias = load(c.bias + channel);
        unit = _mm512_sub_ps(_mm512_setzero_ps(), load(c.unit + channel).x);  // spikes are -1
        high_unit = _mm512_mul_ps(unit, _mm512_set1_ps(65536.0f));
        channels = (int)least(n.C - channel, tile_channels);
        steps = u.steps;
        used = group.used;
        for (int i = 0; i < pixels; i++) {
            const Pixel& pixel = group.at[i];
            const int64_t image = u.image + pixel.image, place = pixel.y * c.W_out + pixel.x;
            kept[i] = states_of<Model>(n, image, place, channel);
            fired[i] = to.of(i, 0, channel);
            shortcut[i] = c.shortcut ? c.shortcut + first_byte(c, u, pixel) + channel / 8 : nullptr;
            load_states<Model>(state[i], n, u.t, image, place, channel, channels);
        }
        each<digits * pixels>([&](auto i) { store_sum<i>(sums + i * tile_rows * tile_channels); });
    }
    // Parts are numbered so that successive parts belong to different pixels: a pixel's next part waits for its last one.
    __attribute__((always_inline)) inline void step(int64_t part, const Conv2d& c, const TileSpikes& to) {
        const int64_t i = part % pixels, first = part / pixels * part_steps, last = least(first + part_steps, steps);
        NeuronStates<Model::states, tile_channels> its = state[i];
        for (int64_t t = first; t < last; t++) {
            const int32_t* row = sums + (i * tile_rows + t) * tile_channels;
            Lanes<tile_channels> current{{{current_of<digits>(row, digit_sums, unit, high_unit, bias.x)}}};
            if (shortcut[i]) add_spikes(current, shortcut[i] + t * frame_bytes(c), channels);
            fired[i][t * to.blocks] = (uint16_t)bits(neurons.step(its, current.v[0], 0));
        }
        state[i] = its;
    }
    // Runs the remaining parts and stores the states.
    OUT_OF_LINE void finish(int64_t part, const Conv2d& c, const TileSpikes& to) {
        while (part < parts) step(part++, c, to);
        for (int i = 0; i < used; i++) store_states(kept[i], c.neurons, state[i], channels);
        steps = 0, used = 0;
    }
};

// Expands a row of pixels, `bytes` of bits in each step, to bytes of 0 and -1. Each tile (16 steps of 64 inputs) is written
// in one go; `live` marks the granules that hold a spike.
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

static void expand(const Conv2d& c, const Tiling& tiling, const TileTask& u, Expanded& expanded) {
    const Layout& layout = tiling.layout;
    const int64_t bytes = c.W * ((c.C_in + 7) / 8), frame = c.H * bytes;
    for (int64_t image = 0; image < u.images; image++)
        for (int64_t row = 0; row < u.in_rows; row++) {
            const int64_t index = image * tiling.rows_in + row;
            const uint8_t* from = c.x + (u.image + image) * x_image(c) + u.t * frame + (u.in_row + row) * bytes;
            int8_t* to = expanded.spikes.data + index * layout.row + layout.border;
            uint8_t* live = expanded.live.data + index * layout.granules;
            expand_row(from, bytes, frame, u.steps, layout, to, live + layout.border / layout.granule);
        }
}

// Lists the products of one group of pixels, except those in which nothing fired; returns their number.
template <int pixels>
static int64_t list_products(const Conv2d& c, const Tiling& tiling, const TileTask& u, const Expanded& expanded, int digits,
                             const Group<pixels>& group, Product<pixels>* products) {
    const Layout& layout = tiling.layout;
    Product<pixels>* end = products;
    for (int64_t run = 0, ky = 0, kx = 0; run < layout.runs; run++) {
        int64_t row[pixels], byte[pixels];  // row of the expanded input, and byte within it
        for (int i = 0; i < pixels; i++) {
            const Pixel& pixel = group.at[i];
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
        if (++kx == layout.runs_in_row) kx = 0, ky++;
    }
    PK_ASSERT(end - products <= layout.runs * layout.run_tiles);
    return end - products;
}

// Multiplies the tiles of a group. Every second pixel takes the digits in reverse order, so that its first digit is already
// loaded.
template <int digits, int pixels>
static inline void add_products(const int8_t* spikes, const Product<pixels>& product, const int8_t* weights, int64_t step) {
    each<digits * pixels>([&](auto index) {
        constexpr int pixel = index / digits, k = index % digits, digit = pixel % 2 ? digits - 1 - k : k;
        if constexpr (k == 0) load_spikes(spikes + product.spikes[pixel], step);
        if constexpr (k > 0 || pixel == 0) load_weights<digits == 1>(weights + product.weights + digit * tile_bytes);
        add_product<digit * pixels + pixel>();
    });
}

// Computes a span of output channels for all groups of a unit. The matrix unit works beside the vector units: while it
// multiplies the tiles of one group and 16 channels, the neurons of the previous ones are run, one part after each product.
// The spikes of a group stay in the first-level cache for all channels, and the weights stream through it.
template <int digits, int pixels, class Model>
OUT_OF_LINE static void fire_groups(const Conv2d& c, const Tiling& tiling, const TileTask& u, Model, const int8_t* spikes,
                                    int64_t last, int64_t last_channel, const Product<pixels>* products, const int64_t* counts,
                                    const TileSpikes& fired) {
    using FiringParts = TileFiring<digits, pixels, Model>;
    const int64_t most_products = tiling.layout.runs * tiling.layout.run_tiles, block = most_products * digits * tile_bytes;
    FiringParts firing;
    Group<pixels> before(c, u, 0, last);
    for (int64_t first = 0; first < last; first += pixels, products += most_products, counts++) {
        const Group<pixels> group(c, u, first, last);
        const int8_t* weights = (const int8_t*)c.weight + fired.first_channel / tile_channels * block;
        for (int64_t channel = fired.first_channel; channel < last_channel; channel += tile_channels, weights += block) {
            each<digits * pixels>([](auto i) { clear_sum<i>(); });
            int64_t part = firing.steps ? 0 : FiringParts::parts;
            for (const Product<pixels>*product = products, *end = product + *counts; product < end; product++) {
                add_products<digits, pixels>(spikes, *product, weights, tiling.layout.step);
                if (part < FiringParts::parts) firing.step(part++, c, fired);
            }
            firing.finish(part, c, fired);
            if (first > 0 && channel == fired.first_channel) fired.write(c, u, before);
            firing.begin(c, u, group, channel, fired);
        }
        before = group;
    }
    firing.finish(0, c, fired);
    fired.write(c, u, before);
}

template <int digits>
void run_unit(const Conv2d& c, const Tiling& tiling, int64_t task, TileMemory<digits>& memory) {
    constexpr int pixels = TileMemory<digits>::pixels;
    Expanded& expanded = memory.expanded;
    Product<pixels>* const products = memory.products.data;
    int64_t* const counts = memory.counts.data;
    uint16_t* const bits = memory.bits.data;
    const int64_t first_channel = task / tiling.units * tiling.span;
    const int64_t last_channel = least(c.neurons.C, first_channel + tiling.span);
    const int64_t most_products = tiling.layout.runs * tiling.layout.run_tiles;
    TileTask u = tile_task_of(c, tiling, task % tiling.units);
    const int64_t last = u.images * u.rows * c.W_out;
    for (; u.t < c.neurons.T; u.t += tile_rows) {
        u.steps = least(tile_rows, c.neurons.T - u.t);
        expand(c, tiling, u, expanded);
        for (int64_t first = 0, group = 0; first < last; first += pixels, group++)
            counts[group] =
                list_products<pixels>(c, tiling, u, expanded, digits, {c, u, first, last}, products + group * most_products);
        with_model(c.neurons.neuron, [&](auto model) {
            fire_groups<digits, pixels>(c, tiling, u, model, expanded.spikes.data, last, last_channel, products, counts,
                                        {first_channel, tiling.span / tile_channels, bits});
        });
    }
}

template void run_unit(const Conv2d&, const Tiling&, int64_t, TileMemory<1>&);
template void run_unit(const Conv2d&, const Tiling&, int64_t, TileMemory<2>&);
template void run_unit(const Conv2d&, const Tiling&, int64_t, TileMemory<3>&);
template void run_unit(const Conv2d&, const Tiling&, int64_t, TileMemory<4>&);

}  // namespace PK_TARGET
#endif  // __AMX_INT8__
