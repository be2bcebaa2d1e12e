// im2col for few channels: gathers each window into one pixel, so that a 1x1 kernel computes the same convolution. A window of
// 7x7 pixels with 3 channels is 49 bytes with 3 bits each; gathered, it is 147 contiguous bits, channels first, then columns.
#pragma once
#include "../work.h"

namespace PK_TARGET {

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

}  // namespace PK_TARGET
