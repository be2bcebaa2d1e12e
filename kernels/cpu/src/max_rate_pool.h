// Max pooling of spike counts (max_rate_pool.py): an output fires when the highest count in its window grows. Lanes are
// channels, as in conv2d/pixel_by_pixel.h. The counts of a window's inputs stay in the first-level cache for all steps.
#pragma once
#include "neurons.h"
#include "packed_spikes.h"
#include "work.h"

namespace PK_TARGET {

// The spikes of a block of channels, of whose bytes only n may exist.
static inline uint32_t load_block_bits(const uint8_t* bytes, int64_t n) {
    uint32_t bits;
    if (n < 4) return (uint32_t)load_bits(bytes, n);
    memcpy(&bits, bytes, 4);
    return bits;
}

// The inputs of a window that lie inside the image. Padding never spikes and has no counts.
struct PoolTaps {
    ThreadMemory<int64_t> pixel;
    ThreadMemory<Block> counts;  // the count of each input, while a block of channels walks through the steps
    int64_t count = 0;
    explicit PoolTaps(const Pool2d& p) : pixel(p.kernel_h * p.kernel_w), counts(p.kernel_h * p.kernel_w) {}
    void find(const Pool2d& p, int64_t place) {
        const int64_t top = place / p.W_out * p.stride_h - p.padding_h, left = place % p.W_out * p.stride_w - p.padding_w;
        count = 0;
        for (int64_t y = most(top, 0); y < least(top + p.kernel_h, p.H); y++)
            for (int64_t x = most(left, 0); x < least(left + p.kernel_w, p.W); x++) pixel.data[count++] = y * p.W + x;
    }
};

// Runs all steps of 32 channels of an output pixel. `known`: the number of inputs of its window, whose counts then stay in
// registers; 0: any number.
template <int known>
static void pool_counts(const MaxRatePool& m, int64_t place, int64_t channel, PoolTaps& taps) {
    const Pool2d& p = m.pool;
    const int64_t P_out = p.H_out * p.W_out, P = p.H * p.W, image = place / P_out, frame = P * p.bytes, T = m.T;
    const int channels = (int)least(m.C - channel, block);
    const int64_t bytes = p.bytes - channel / 8;
    const uint8_t* const x = p.x + image * m.T * frame + channel / 8;
    uint8_t* const y = p.y + (image * m.T * P_out + place % P_out) * p.bytes + channel / 8;
    const Vec one = broadcast(1.0f);
    Block highest = broadcast_block(0.0f), registers[known ? known : 1];
    Block* const counts = known ? registers : taps.counts.data;
    const int64_t* const pixels = taps.pixel.data;
    int64_t offset[known ? known : 1];
    const auto each_tap = [&](auto visit) {
        if constexpr (known > 0) each<known>(visit);
        else
            for (int64_t tap = 0; tap < taps.count; tap++) visit(tap);
    };
    each_tap([&](int64_t tap) {
        if (known) offset[tap] = pixels[tap] * p.bytes;
        counts[tap] = load_block(m.counts + (image * P + pixels[tap]) * m.C + channel, channels);
        for (int i = 0; i < vecs; i++) highest.v[i] = greater(highest.v[i], counts[tap].v[i]);
    });
    for (int64_t t = 0; t < T; t++) {
        Block now = highest;
        each_tap([&](int64_t tap) {
            const uint32_t fired = load_block_bits(x + t * frame + (known ? offset[tap] : pixels[tap] * p.bytes), bytes);
            for (int i = 0; i < vecs; i++) {
                Vec& count = counts[tap].v[i];
                count = add_where(mask_of(fired >> (i * Vec::width)), count, one);
                now.v[i] = greater(now.v[i], count);
            }
        });
        uint32_t grown = 0;
        for (int i = 0; i < vecs; i++) grown |= bits(now.v[i] - highest.v[i] >= one) << (i * Vec::width);
        highest = now;
        store_spikes(y + t * P_out * p.bytes, grown, channels);
    }
}

// Adds the spikes of all steps to the counts of an input pixel.
static void add_counts(const MaxRatePool& m, int64_t place) {
    const Pool2d& p = m.pool;
    const int64_t P = p.H * p.W, T = m.T, frame = P * p.bytes, image = place / P;
    const Vec one = broadcast(1.0f);
    for (int64_t channel = 0; channel < m.C; channel += block) {
        const int channels = (int)least(m.C - channel, block);
        float* const counts = m.counts + place * m.C + channel;
        const uint8_t* const x = p.x + (image * T * P + place % P) * p.bytes + channel / 8;
        const int64_t bytes = p.bytes - channel / 8;
        Block count = load_block(counts, channels);
        for (int64_t t = 0; t < T; t++) {
            const uint32_t fired = load_block_bits(x + t * frame, bytes);
            for (int i = 0; i < vecs; i++) count.v[i] = add_where(mask_of(fired >> (i * Vec::width)), count.v[i], one);
        }
        store_block(counts, count, channels);
    }
}

void max_rate_pool2d(const MaxRatePool* pool) {
    const MaxRatePool& m = *pool;
    const Pool2d& p = m.pool;
#pragma omp parallel
    {
        PoolTaps taps(p);
#pragma omp for schedule(dynamic, 16)
        for (int64_t place = 0; place < p.M * p.H_out * p.W_out; place++) {
            taps.find(p, place % (p.H_out * p.W_out));
            for (int64_t channel = 0; channel < m.C; channel += block)
                if (taps.count == 4) pool_counts<4>(m, place, channel, taps);
                else if (taps.count == 9) pool_counts<9>(m, place, channel, taps);
                else pool_counts<0>(m, place, channel, taps);
        }
#pragma omp for schedule(static)
        for (int64_t place = 0; place < p.M * p.H * p.W; place++) add_counts(m, place);
    }
}

}  // namespace PK_TARGET
