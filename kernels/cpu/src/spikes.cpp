// Packing, camera events, pooling and im2col of spikes, and rounding of weights.
#include "work.h"
#include "neurons.h"
#include "packed_spikes.h"
#include "units.h"
#include "dense_spikes.h"
#include "camera_events.h"

namespace PK_TARGET {

// im2col for few channels: gathers each window into one pixel, so that a 1x1 kernel computes the same convolution. A window of
// 7x7 pixels with 3 channels is 49 bytes with 3 bits each; gathered, it is 147 contiguous bits, channels first, then columns.

// The part of each window that lies in one row of an image: the bits of `kernel_w` pixels for each output column.
class WindowRows {
public:
    explicit WindowRows(const Conv2d& layer)
        : conv(layer),
          kept(least((layer.kernel_h - 1) * layer.dilation_h + 1, layer.H)),
          bits(layer.kernel_w * layer.C_in),
          line(ceil_div((layer.W + 2 * layer.padding_w) * layer.C_in, 8) + 8),
          rows(kept * layer.W_out),
          held(kept) {}

    void start(const uint8_t* image) {
        x = image;
        for (int64_t i = 0; i < kept; i++) held.data[i] = -1;
    }

    // The parts of the windows in row y of the image, [W_out]. The rows that the last windows needed are kept.
    const uint64_t* of(int64_t y) {
        const int64_t place = y % kept;
        uint64_t* const row = rows.data + place * conv.W_out;
        if (held.data[place] == y) return row;
        held.data[place] = y;
        string_up(x + y * conv.W);
        const uint64_t mask = (1ull << bits) - 1;
        for (int64_t column = 0; column < conv.W_out; column++) {
            const int64_t first = column * conv.stride_w * conv.C_in;
            uint64_t word;
            memcpy(&word, line.data + first / 8, sizeof word);  // after a shift of up to 7 bits 57 are left
            row[column] = word >> first % 8 & mask;
        }
        return row;
    }

private:
    // Joins all bits of a row of pixels without gaps, with zeros for the padding.
    void string_up(const uint8_t* pixels) {
        memset(line.data, 0, line.size);
        int64_t bit = conv.padding_w * conv.C_in;
        for (int64_t i = 0; i < conv.W; i++, bit += conv.C_in) {
            const unsigned both = (unsigned)pixels[i] << bit % 8;
            line.data[bit / 8] |= (uint8_t)both;
            line.data[bit / 8 + 1] |= (uint8_t)(both >> 8);
        }
    }

    const Conv2d& conv;
    const int64_t kept, bits;
    const uint8_t* x = nullptr;
    ThreadMemory<uint8_t> line;
    ThreadMemory<uint64_t> rows;
    ThreadMemory<int64_t> held;  // [place]: the row of the image that `rows` has there
};

// y [N, T, P, ceil(C_in * kernel_h * kernel_w / 8)]; a pixel of x is one byte, and a row of a window 57 bits at most.
void im2col(const Conv2d* layer, uint8_t* y) {
    const Conv2d& c = *layer;
    const int64_t row_bits = c.kernel_w * c.C_in, bytes = ceil_div(c.kernel_h * row_bits, 8), words = ceil_div(bytes, 8);
    PK_ASSERT(c.C_in <= 8 && row_bits <= 57 && c.dilation_w == 1);
#pragma omp parallel
    {
        WindowRows rows(c);
        ThreadMemory<uint64_t> gathered(words * c.W_out);
#pragma omp for schedule(static)
        for (int64_t m = 0; m < c.neurons.N * c.neurons.T; m++) {
            rows.start(c.x + m * c.H * c.W);
            for (int64_t top = 0; top < rows_out(c); top++) {
                memset(gathered.data, 0, words * c.W_out * sizeof(uint64_t));
                for (int64_t i = 0; i < c.kernel_h; i++) {
                    const int64_t row = top * c.stride_h - c.padding_h + i * c.dilation_h;
                    if (row < 0 || row >= c.H) continue;
                    const uint64_t* const part = rows.of(row);
                    const int64_t shift = i * row_bits % 64;
                    uint64_t* const word = gathered.data + i * row_bits / 64 * c.W_out;
                    for (int64_t p = 0; p < c.W_out; p++) word[p] |= part[p] << shift;
                    if (shift + row_bits > 64)
                        for (int64_t p = 0; p < c.W_out; p++) word[c.W_out + p] |= part[p] >> (64 - shift);
                }
                // A whole word may write past its pixel: later pixels of this frame overwrite that, but the bytes behind the
                // frame belong to another thread.
                uint8_t* out = y + (m * c.neurons.P + top * c.W_out) * bytes;
                const uint8_t* const end = y + (m + 1) * c.neurons.P * bytes;
                for (int64_t p = 0; p < c.W_out; p++, out += bytes) {
                    const bool whole = end - out >= 8 * words;
                    for (int64_t w = 0; w < words; w++)
                        memcpy(out + 8 * w, gathered.data + w * c.W_out + p, whole ? 8 : least(8, bytes - 8 * w));
                }
            }
        }
    }
}

// Max pooling of spike counts (max_rate_pool.py): an output fires when the highest count in its window grows. Lanes are
// channels, as in conv2d/pixel_by_pixel.h. The counts of a window's inputs stay in the first-level cache for all steps.

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

// Rounds weights to integer multiples of a unit, a power of two for each output channel, so that their sums are exact in any
// order. kernels/rounding.py is the definition, and gives the reasons. A channel's weights are in the cache when they are
// rounded.

static inline double larger(double a, double b) { return a > b ? a : b; }

// Sums of absolute values and of positive values, in grains, each value rounded up. There are at most 2^24 values of at most
// 2^28 grains, so the sums fit 64 bits.
struct Grains {
    int64_t all = 0, positive = 0;
};
static inline Grains count_grains(const float* values, int64_t n, double grain) {
    const double grains = 1 / grain;  // exact
    int64_t all = 0, positive = 0;
#pragma omp simd reduction(+ : all, positive)
    for (int64_t i = 0; i < n; i++) {
        const double value = __builtin_fabsf(values[i]) * grains;
        const int32_t whole = (int32_t)value, up = whole + (whole < value);
        all += up;
        positive += values[i] > 0 ? up : 0;
    }
    return {all, positive};
}

void round_weights(const Rounding* rounding) {
    const Rounding& r = *rounding;
#pragma omp parallel for schedule(dynamic, 4)
    for (int64_t channel = 0; channel < r.C; channel++) {
        const float *weight = r.weight + channel * r.inputs, *bias = r.bias ? r.bias + channel : nullptr;
        const double largest = largest_of(weight, r.inputs), beside = bias ? __builtin_fabsf(*bias) : 0;
        const double grain = power_of_two(larger(largest, beside)) * 0x1p-28;
        const Grains weights = count_grains(weight, r.inputs, grain);
        const int64_t all = weights.all + (bias ? count_grains(bias, 1, grain).all : 0);
        double least_unit = larger(largest / r.largest, (double)all * grain / r.room);
        if (r.half_room > 0)
            least_unit =
                larger(least_unit, (double)most(weights.positive, weights.all - weights.positive) * grain / r.half_room);
        const double unit = power_of_two(least_unit);
        round_values(weight, r.rounded + channel * r.inputs, r.inputs, unit);
        if (bias) round_values(bias, r.rounded_bias + channel, 1, unit);
        r.unit[channel] = (float)unit;
    }
}

}  // namespace PK_TARGET
