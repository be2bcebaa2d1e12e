// The operands of the lookup kernel: the inputs of each output pixel's window as words of 32 bits; the words of successive
// steps lie side by side.
//
// Where the channels of an input pixel (of one group) fill whole words, a window consists of the words of its pixels.
// Otherwise its bits are packed together, so that a 3x3 window of one channel is one word instead of nine.
#pragma once
#if defined(__AVX512F__)
#include "../work.h"
#include "../simd.h"

namespace PK_TARGET {

constexpr int lanes = 16, word_bits = 32, quads = word_bits / 4;  // lanes of a register; bits and fours of bits of a word

// The words of the windows of one group of channels.
struct WindowWords {
    int64_t pixel, channels;  // words of an input pixel; input channels of a group
    bool together;            // the bits are packed together: `taps` is then 1, and `count` the words of the whole window
    int64_t count, taps;      // words of a tap, and taps
    int64_t inputs;           // inputs of a neuron
    explicit WindowWords(const Conv2d& c) : pixel(ceil_div(c.C_in, word_bits)), channels(c.C_in / c.groups) {
        const int64_t window = c.kernel_h * c.kernel_w;
        together = channels % word_bits != 0;
        count = together ? ceil_div(channels * window, word_bits) : channels / word_bits;
        taps = together ? 1 : window;
        inputs = channels * window;
    }
    int64_t all() const { return count * taps; }
    // How many fours of bits of the last word have inputs.
    int last_quads() const { return (int)(quads - (all() * word_bits - inputs) / 4); }
};

// Some bits of a window: their place in an input pixel, and their place in the packed window.
struct Piece {
    int64_t tap, from, to;  // words
    int32_t from_bit, to_bit, mask;
};

// The memory of one thread.
struct Windows {
    Grown<uint32_t> words;  // the part of the input, [image][pixel][word][step]; then zeros for taps outside the image
    Grown<uint32_t> put_together;  // [output pixel][word][step]
    Grown<Piece> pieces;
    Grown<const uint32_t*> start;  // [tap][output pixel]: its words

    // Borrows memory for `rows` input rows (of all images together), and for `places` output pixels at a time.
    void borrow(Carver& carver, const Conv2d& c, const WindowWords& window, int64_t rows, int64_t places, int64_t steps) {
        const int64_t taps = c.kernel_h * c.kernel_w;
        words.borrow(carver, (rows * c.W + 1) * window.pixel * steps);
        put_together.borrow(carver, window.together ? places * window.count * steps : 0);
        pieces.borrow(carver, window.together ? most_pieces(window, taps) : 0);
        start.borrow(carver, taps * places);
    }

    // Reads the bits of a part of the input, and pads them with zeros to `steps` steps.
    void read(const Conv2d& c, const WindowWords& window, const Region& in, int64_t steps) {
        const int64_t bytes = (c.C_in + 7) / 8, frame = x_frame(c), pixels = in.rows * c.W;
        const int64_t all = in.images * pixels * window.pixel * steps;
        uint32_t* to = words.reserve(all + window.pixel * steps);
        memset(to + all, 0, window.pixel * steps * sizeof *to);
        for (int64_t image = 0; image < in.images; image++)
            for (int64_t pixel = 0; pixel < pixels; pixel++)
                for (int64_t word = 0; word < window.pixel; word++, to += steps) {
                    const uint8_t* x =
                        c.x + (in.image + image) * x_image(c) + in.t * frame + (in.row * c.W + pixel) * bytes + word * 4;
                    const int64_t size = bytes - word * 4;
                    if (size >= 4)
                        for (int64_t t = 0; t < in.steps; t++, x += frame) memcpy(to + t, x, 4);
                    else if (size == 1)
                        for (int64_t t = 0; t < in.steps; t++, x += frame) to[t] = *x;
                    else
                        for (int64_t t = 0; t < in.steps; t++, x += frame) to[t] = (uint32_t)load_bits(x, size);
                    for (int64_t t = in.steps; t < steps; t++) to[t] = 0;
                }
        PK_ASSERT(to + window.pixel * steps == words.data + words.size);
    }

    // Finds the windows of output pixels first .. last - 1 of a part, for one group of channels.
    void find(const Conv2d& c, const WindowWords& window, const Region& out, const Region& in, int64_t group, int64_t first,
              int64_t last, int64_t steps) {
        const int64_t places = last - first, taps = c.kernel_h * c.kernel_w;
        const uint32_t** const pixels = start.reserve(taps * places);
        const int64_t outside = in.images * in.rows * c.W, word = window.together ? 0 : group * window.count;
        for (int64_t i = 0; i < places; i++) {
            const Place place(c, out, first + i);
            const uint32_t** to = pixels + i;
            int64_t y = place.y * c.stride_h - c.padding_h;
            for (int64_t ky = 0; ky < c.kernel_h; ky++, y += c.dilation_h) {
                const int64_t row = ((place.image - in.image) * in.rows + y - in.row) * c.W;
                int64_t x = place.x * c.stride_w - c.padding_w;
                for (int64_t kx = 0; kx < c.kernel_w; kx++, x += c.dilation_w, to += places) {
                    const bool inside = y >= 0 && y < c.H && x >= 0 && x < c.W;
                    *to = words.data + ((inside ? row + x : outside) * window.pixel + word) * steps;
                }
            }
        }
        if (window.together) put_windows_together(c, window, group, places, steps);
    }

private:
    void put_windows_together(const Conv2d& c, const WindowWords& window, int64_t group, int64_t places, int64_t steps) {
        const int64_t count = list_pieces(window, group, c.kernel_h * c.kernel_w);
        const Piece* const last = pieces.data + count;
        uint32_t* to = put_together.reserve(places * window.count * steps);
        for (int64_t i = 0; i < places; i++)
            for (const Piece* word = pieces.data; word < last;) {
                const Piece* end = word;
                while (end < last && end->to == word->to) end++;
                for (int64_t t = 0; t < steps; t += lanes, to += lanes) {
                    __m512i bits = _mm512_setzero_si512();
                    for (const Piece* piece = word; piece < end; piece++) {
                        const uint32_t* const from = start.data[piece->tap * places + i] + piece->from * steps + t;
                        __m512i some = _mm512_srlv_epi32(_mm512_load_si512(from), _mm512_set1_epi32(piece->from_bit));
                        some = _mm512_and_si512(some, _mm512_set1_epi32(piece->mask));
                        bits = _mm512_or_si512(bits, _mm512_sllv_epi32(some, _mm512_set1_epi32(piece->to_bit)));
                    }
                    _mm512_store_si512(to, bits);
                }
                word = end;
            }
        PK_ASSERT(to == put_together.data + put_together.size);
        for (int64_t i = 0; i < places; i++) start.data[i] = put_together.data + i * window.count * steps;
    }

    // A piece ends where a word of the input or a word of the packed window ends. Among the channels of a tap behind the
    // first, one in 32 begins a word of the input, and one in 32, perhaps another one, begins a word of the window.
    static int64_t most_pieces(const WindowWords& window, int64_t taps) {
        return taps * (2 * ceil_div(window.channels - 1, word_bits) + 1);
    }
    // Lists the pieces of a window; returns their number.
    int64_t list_pieces(const WindowWords& window, int64_t group, int64_t taps) {
        Piece* const all = pieces.reserve(most_pieces(window, taps));
        int64_t count = 0;
        for (int64_t tap = 0; tap < taps; tap++)
            for (int64_t i = 0, size; i < window.channels; i += size) {
                const int64_t from = group * window.channels + i, to = tap * window.channels + i;
                size = least(window.channels - i, word_bits - most(from % word_bits, to % word_bits));
                const int32_t right = (int32_t)(from % word_bits), left = (int32_t)(to % word_bits);
                all[count++] = {tap, from / word_bits, to / word_bits, right, left, (int32_t)((1ull << size) - 1)};
            }
        PK_ASSERT(count <= pieces.size);
        return count;
    }
};

}  // namespace PK_TARGET
#endif  // __AVX512F__
