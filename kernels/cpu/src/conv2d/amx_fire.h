// What becomes of the tile kernel's sums: currents, and the spikes of 16 steps.
#pragma once
#if defined(__AMX_INT8__)
#include "../neurons.h"
#include "amx_units.h"

namespace PK_TARGET {

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

// The spikes of a group of pixels, until those of a whole span of channels are there. Each 16 channels would else write two
// bytes to a cache line of each step.
struct Fired {
    const int64_t first_channel, blocks;
    uint16_t* const bits;  // [pixel][step][16 channels]
    uint16_t* of(int64_t pixel, int64_t t, int64_t channel) const {
        return bits + (pixel * tile_rows + t) * blocks + (channel - first_channel) / tile_channels;
    }
    template <int pixels>
    void write(const Conv2d& c, const Unit& u, const Group<pixels>& group) const {
        const int64_t bytes = least(blocks * tile_channels / 8, (c.neurons.C + 7) / 8 - first_channel / 8);
        for (int i = 0; i < group.used; i++) {
            uint8_t* const to = c.neurons.spikes + first_byte(c, u, group.at[i]) + first_channel / 8;
            for (int64_t t = 0; t < u.steps; t++) memcpy(to + t * frame_bytes(c), of(i, t, first_channel), bytes);
        }
    }
};

// 16 output channels of a group of pixels: sums that are ready to be fired, a few steps of a pixel at a time.
template <int digits, int pixels, class Model>
struct Firing {
    static constexpr int digit_sums = pixels * tile_rows * tile_channels, part_steps = 4;
    static constexpr int parts = pixels * tile_rows / part_steps;
    alignas(64) int32_t sums[digits * digit_sums];
    NeuronBlock<Model, tile_channels> neurons;
    States<Model::states, tile_channels> state[pixels];
    Vec bias;
    __m512 unit, high_unit;
    float* kept[pixels];
    uint16_t* fired[pixels];
    const uint8_t* shortcut[pixels];
    int64_t steps = 0;
    int channels, used = 0;

    void begin(const Conv2d& c, const Unit& u, const Group<pixels>& group, int64_t channel, const Fired& to) {
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
    // The parts of a pixel come one after another, with those of the others between them.
    inline void step(int64_t part, const Conv2d& c, const Fired& to) {
        const int64_t i = part % pixels, first = part / pixels * part_steps, last = least(first + part_steps, steps);
        States<Model::states, tile_channels> its = state[i];
        for (int64_t t = first; t < last; t++) {
            const int32_t* row = sums + (i * tile_rows + t) * tile_channels;
            Lanes<tile_channels> current{{{current_of<digits>(row, digit_sums, unit, high_unit, bias.x)}}};
            if (shortcut[i]) add_spikes(current, shortcut[i] + t * frame_bytes(c), channels);
            fired[i][t * to.blocks] = (uint16_t)bits(neurons.step(its, current.v[0], 0));
        }
        state[i] = its;
    }
    void end(const Conv2d& c) {
        for (int i = 0; i < used; i++) store_states(kept[i], c.neurons, state[i], channels);
        steps = 0, used = 0;
    }
};

}  // namespace PK_TARGET
#endif  // __AMX_INT8__
