// The gradient of a convolution's weights, computed event by event from spikes and the gradient of the currents. The gradient
// of a weight is the sum of the gradients of its output over all pixels and steps at which its input fired. Each spike
// therefore adds one row for each tap of the kernel: the gradients of a block of output channels at the pixel that the tap
// leads to.
//
// A task is an image at one step. The stages:
//
// 1. list_spikes: lists, for each band of input rows and each input channel, the pixels that fired.
// 2. spread_rows: lays out the rows of all output pixels, for a block of output channels, on the grid of input pixels
//    (by stride and padding), with zeros between and around them, so that every tap of every pixel finds a row.
// 3. add_rows: adds up all taps in registers, for each band and input channel. The rows that a band reaches fit the
//    first-level cache for every channel.
//
// Each thread has its own sums, which are finally added in the order of the threads.
#pragma once
#include "../set_bits.h"
#include "weight_rows.h"
#include "../work.h"

namespace PK_TARGET {

// How the rows of one image lie in memory.
struct SpreadImage {
    static constexpr int64_t cached_rows = 320;  // rows that a band reaches: 20 kB of a first-level cache of 32 kB or more
    static constexpr int64_t most_taps = 9;      // taps whose sums are in registers at a time

    int64_t H, W, first_y, first_x;      // size; coordinates of its first row and column on the grid of padded input pixels
    int64_t band, bands;                 // input rows of a band; bands
    int64_t taps;

    explicit SpreadImage(const Conv2d& c)
        : H(c.H + (c.kernel_h - 1) * c.dilation_h),
          W(c.W + (c.kernel_w - 1) * c.dilation_w),
          first_y(c.padding_h - (c.kernel_h - 1) * c.dilation_h),
          first_x(c.padding_w - (c.kernel_w - 1) * c.dilation_w),
          band(most(1, cached_rows / W - (c.kernel_h - 1) * c.dilation_h)),
          taps(c.kernel_h * c.kernel_w) {
        band = least(band, c.H);
        bands = ceil_div(c.H, most(1, band));
    }
    // The distance in bytes from a pixel's row to the row of one of its taps.
    int64_t offset(const Conv2d& c, int64_t tap) const {
        const int64_t y = (c.kernel_h - 1 - tap / c.kernel_w) * c.dilation_h;
        const int64_t x = (c.kernel_w - 1 - tap % c.kernel_w) * c.dilation_w;
        return (y * W + x) * row_line;
    }
};

struct WeightGradientMemory {
    Grown<uint32_t> spikes;  // [band][channel][pixel of a band]: byte offsets of the rows of pixels that fired
    Grown<int32_t> count;    // [band][channel]: how many fired
    ThreadMemory<float> rows;      // [SpreadImage.H][SpreadImage.W][channel of a block]
    ThreadMemory<float> sums;      // [block][C_in][tap][channel of a block]
    WeightGradientMemory(int64_t rows_size, int64_t sums_size) : rows(rows_size), sums(sums_size) {}

    void list_spikes(const Conv2d& c, const SpreadImage& spread, const uint8_t* x) {
        const int64_t bytes = (c.C_in + 7) / 8, longest = spread.band * c.W;
        uint32_t* const lists = spikes.reserve(spread.bands * c.C_in * longest);
        int32_t* const counts = count.reserve(spread.bands * c.C_in);
        memset(counts, 0, spread.bands * c.C_in * sizeof *counts);
        for (int64_t y = 0; y < c.H; y++) {
            const int64_t first = y / spread.band * c.C_in;
            for (int64_t column = 0; column < c.W; column++, x += bytes) {
                const uint32_t offset = (uint32_t)((y * spread.W + column) * row_line);
                for (int64_t byte = 0; byte < bytes; byte += 8)
                    for (uint64_t word = load_bits(x + byte, bytes - byte); word; word &= word - 1) {
                        const int64_t list = first + byte * 8 + __builtin_ctzll(word);
                        lists[list * longest + counts[list]++] = offset;
                    }
            }
        }
    }

    void spread_rows(const Conv2d& c, const SpreadImage& spread, const float* grad, int64_t channel) {
        const Neurons& n = c.neurons;
        const int channels = (int)least(n.C - channel, row);
        for (int64_t p = 0; p < n.P; p++) {
            const int64_t y = p / c.W_out * c.stride_h - spread.first_y, x = p % c.W_out * c.stride_w - spread.first_x;
            if (y < 0 || y >= spread.H || x < 0 || x >= spread.W) continue;  // its window holds only padding
            store_block(rows.data + (y * spread.W + x) * row, load_block<row>(grad + p * n.C + channel, channels));
        }
    }
};

// For each of `taps` taps: adds up the rows at that tap's offset from the rows of the listed pixels.
template <int taps>
OUT_OF_LINE static void add_rows(const char* rows, const uint32_t* pixels, int64_t n, const int64_t* offsets, float* sums) {
    int64_t offset[taps];
    for (int k = 0; k < taps; k++) offset[k] = offsets[k];
    for (int lane = 0; lane < row; lane += Vec::width) {  // one vector of each tap's sum at a time: all taps fit registers
        Vec sum[taps];
        for (int k = 0; k < taps; k++) sum[k] = load(sums + k * row + lane);
        const char* const first = rows + lane * sizeof(float);
        for (int64_t i = 0; i < n; i++) {
            const char* const pixel = first + pixels[i];
            for (int k = 0; k < taps; k++) sum[k] = sum[k] + load((const float*)(pixel + offset[k]));
        }
        for (int k = 0; k < taps; k++) store(sums + k * row + lane, sum[k]);
    }
}

template <int taps>
static void add_taps(int64_t count, const char* rows, const uint32_t* pixels, int64_t n, const int64_t* offsets, float* sums) {
    if (count == taps) add_rows<taps>(rows, pixels, n, offsets, sums);
    else if constexpr (taps > 1) add_taps<taps - 1>(count, rows, pixels, n, offsets, sums);
}

// Adds the spikes of one image at one step. grad: [P, C_out].
static void add_frame(const Conv2d& c, const SpreadImage& spread, const uint8_t* x, const float* grad, const int64_t* offsets,
                      WeightGradientMemory& memory) {
    memory.list_spikes(c, spread, x);
    const int64_t longest = spread.band * c.W;
    float* sums = memory.sums.data;
    for (int64_t channel = 0; channel < c.neurons.C; channel += row, sums += c.C_in * spread.taps * row) {
        memory.spread_rows(c, spread, grad, channel);
        for (int64_t list = 0; list < spread.bands * c.C_in; list++) {
            const int64_t n = memory.count.data[list];
            float* const its = sums + list % c.C_in * spread.taps * row;
            for (int64_t tap = 0; n && tap < spread.taps; tap += SpreadImage::most_taps)
                add_taps<SpreadImage::most_taps>(least(SpreadImage::most_taps, spread.taps - tap),
                                                 (const char*)memory.rows.data, memory.spikes.data + list * longest, n,
                                                 offsets + tap, its + tap * row);
        }
    }
}

void conv2d_weight_gradient(const WeightGradient* gradient) {
    const Conv2d& c = gradient->conv;
    const Neurons& n = c.neurons;
    const SpreadImage spread(c);
    const int64_t size = ceil_div(n.C, row) * c.C_in * spread.taps * row, threads = max_threads();
    ThreadMemory<int64_t> offsets(spread.taps);
    for (int64_t tap = 0; tap < spread.taps; tap++) offsets.data[tap] = spread.offset(c, tap);
    ThreadMemory<float*> parts(threads);
    memset(gradient->grad_weight, 0, size * sizeof(float));
#pragma omp parallel
    {
        WeightGradientMemory memory(spread.H * spread.W * row, size);
        parts.data[thread_number()] = memory.sums.data;
#pragma omp for schedule(static)
        for (int64_t frame = 0; frame < n.T * n.N; frame++) {  // frame = t * N + n
            const uint8_t* const x = c.x + (frame % n.N * n.T + frame / n.N) * c.H * c.W * ((c.C_in + 7) / 8);
            add_frame(c, spread, x, gradient->grad_current + frame * n.P * n.C, offsets.data, memory);
        }
#pragma omp for schedule(static)
        for (int64_t first = 0; first < size; first += row)
            for (int64_t thread = 0; thread < threads; thread++)
                if (parts.data[thread])
                    for (int64_t i = first; i < first + row; i++) gradient->grad_weight[i] += parts.data[thread][i];
    }
}

}  // namespace PK_TARGET
