// Convolution by table lookup, with the IF neuron in the same pass: its speed does not depend on the firing rate.
//
// Four inputs fire in one of 16 combinations, so four weights have 16 partial sums, which fill one vector register (a table).
// The lanes of a second register are 16 steps of an output pixel; the low four bits of each lane tell which of the four inputs
// fired at that step. One permutation then looks up the contribution of the four inputs to all 16 steps: it replaces 64
// multiplications. A shift by four brings up the next four inputs; a lane holds a word of 32 inputs.
//
// For 8 output channels at a time, the tables of a window's inputs, or of as many as fit the second-level cache, are built and
// used for many output pixels and steps. They are read in order, so the second-level cache keeps up. Fewer tables, for the
// first-level cache, would have to store and reload the sums more often. Finally the sums of 16 channels are transposed, and
// fired as in fire_sums.cpp.
#pragma once
#if defined(__AVX512F__)
#include <type_traits>

#include "../work.h"
#include "../simd.h"
#include "row_sums.h"

namespace PK_TARGET {

// The operands of the lookup kernel: the inputs of each output pixel's window as words of 32 bits; the words of successive
// steps lie side by side.
//
// Where the channels of an input pixel (of one group) fill whole words, a window consists of the words of its pixels.
// Otherwise its bits are packed together, so that a 3x3 window of one channel is one word instead of nine.

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

constexpr int table_channels = 8, table_words = 64;  // channels and words of the tables that exist at a time: 256 kB
constexpr int pair = 2;                              // uses that share the load of a table

constexpr int64_t lookup_segment = 64;     // steps
constexpr int64_t lookup_uses = 4096;      // pixels times steps that a set of tables is built for
constexpr int64_t lookup_words = 1 << 17;  // words of a band: Segment (work.h)

// Weights lie in blocks of output channels: [block][input of a window, tap by tap, channel by channel][channel of the block,
// padded to a multiple of 16].
constexpr int64_t matrix_columns = 128;

// How the work is cut. A use of the tables is 16 steps of an output pixel.
struct LookupCut : Cut {
    LookupCut(const Conv2d& c, const WindowWords& words, int64_t threads) : Cut(c, segment(c, words), row, threads) {}

private:
    static Segment segment(const Conv2d& c, const WindowWords& words) {
        const int64_t steps = ceil_div(most(1, least(c.neurons.T, lookup_segment)), lanes) * lanes;
        return {steps, lookup_uses, words.all() * steps, words.pixel * steps, lookup_words};
    }
};

// The memory of one thread.
struct LookupLists {
    Windows windows;
    Grown<float> tables;  // [word][quad][channel][16]
    Grown<float> sums;  // [use][16 channels][16 steps]
    Grown<float> current;  // [output pixel][step][16 channels]

    void borrow(Carver& carver, const Conv2d& c, const WindowWords& words, const LookupCut& cut) {
        windows.borrow(carver, c, words, cut.images * input_rows(c, cut.rows), cut.places, cut.steps);
        tables.borrow(carver, table_words * quads * table_channels * lanes);
        sums.borrow(carver, cut.places * cut.steps * row);
        current.borrow(carver, together * cut.steps * row);
    }
};

// Builds the tables: entry i of a table is the sum of those of its four weights whose bits are set in i. `width`: floats from
// one input to the next. If inputs are missing to the last four, the last input is repeated: its repetitions never fire.
static void make_tables(const float* weight, int64_t width, int64_t inputs, float* tables) {
    for (int64_t first = 0; first < inputs; first += 4) {
        const float* w[4];
        for (int i = 0; i < 4; i++) w[i] = weight + least(first + i, inputs - 1) * width;
        for (int channel = 0; channel < table_channels; channel++, tables += lanes) {
            __m512 sum = _mm512_maskz_mov_ps(0xaaaa, _mm512_set1_ps(w[0][channel]));
            sum = _mm512_mask_add_ps(sum, 0xcccc, sum, _mm512_set1_ps(w[1][channel]));
            sum = _mm512_mask_add_ps(sum, 0xf0f0, sum, _mm512_set1_ps(w[2][channel]));
            sum = _mm512_mask_add_ps(sum, 0xff00, sum, _mm512_set1_ps(w[3][channel]));
            _mm512_store_ps(tables, sum);
        }
    }
}

// Adds the contribution of some words at some taps to the sums of `uses` uses. Every second use adds by a multiply-add with
// 1, which gives the same bits but runs on another execution port. `start`: the words, [tap][use]; `last_quads`: quads of the
// last word; `fresh`: the sums start at zero.
template <int uses>
OUT_OF_LINE static void look_up(const float* tables, const uint32_t* const* start, int64_t taps, int64_t words, int64_t steps,
                                int last_quads, bool fresh, float* const* sums) {
    const __m512 one = _mm512_set1_ps(1.0f);
    __m512 sum[uses][table_channels];
    for (int u = 0; u < uses; u++)
        for (int c = 0; c < table_channels; c++) sum[u][c] = _mm512_setzero_ps();
    for (int64_t tap = 0; tap < taps; tap++, start += uses)
        for (int64_t i = 0; i < words; i++, tables += quads * table_channels * lanes) {
            __m512i word[uses], any = _mm512_setzero_si512();
            for (int u = 0; u < uses; u++) {
                word[u] = _mm512_load_si512(start[u] + i * steps);
                any = _mm512_or_si512(any, word[u]);
            }
            if (!_mm512_test_epi32_mask(any, any)) continue;
            const int some = tap + 1 == taps && i + 1 == words ? last_quads : quads;
#pragma GCC unroll 1  // if it is unrolled, the compiler spills the sums
            for (int quad = 0; quad < some; quad++) {
#pragma GCC unroll 8
                for (int c = 0; c < table_channels; c++) {
                    __m512 table = _mm512_load_ps(tables + (quad * table_channels + c) * lanes);
                    __asm__("" : "+v"(table));  // keeps it in a register: the compiler would load it again for each use
                    for (int u = 0; u < uses; u++) {
                        const __m512 found = _mm512_permutexvar_ps(word[u], table);
                        sum[u][c] = u % 2 ? _mm512_fmadd_ps(found, one, sum[u][c]) : _mm512_add_ps(sum[u][c], found);
                    }
                }
                for (int u = 0; u < uses; u++) word[u] = _mm512_srli_epi32(word[u], 4);
            }
        }
    for (int u = 0; u < uses; u++)
        for (int c = 0; c < table_channels; c++) {
            float* const to = sums[u] + c * lanes;  // the earlier sum is added last, so that rounding errors stay small
            _mm512_store_ps(to, fresh ? sum[u][c] : _mm512_add_ps(sum[u][c], _mm512_load_ps(to)));
        }
}

// Transposes [16 channels][16 steps] to [16 steps][16 channels].
static void transpose(const float* from, float* to) {
    __m512 a[lanes], b[lanes];
    for (int i = 0; i < lanes; i++) a[i] = _mm512_load_ps(from + i * lanes);
    for (int i = 0; i < lanes; i += 2) b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]), b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    for (int i = 0; i < lanes; i += 4)
        for (int k = 0; k < 2; k++) {
            const __m512d low = _mm512_castps_pd(b[i + k]), high = _mm512_castps_pd(b[i + k + 2]);
            a[i + 2 * k] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
            a[i + 2 * k + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
        }
    for (int i = 0; i < 4; i++) {  // now a[4 * r + i] holds step i, i + 4, i + 8 and i + 12 of channels 4 * r .. 4 * r + 3
        const __m512 low01 = _mm512_shuffle_f32x4(a[i], a[4 + i], 0x88), high01 = _mm512_shuffle_f32x4(a[i], a[4 + i], 0xdd);
        const __m512 low23 = _mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0x88);
        const __m512 high23 = _mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0xdd);
        b[i] = _mm512_shuffle_f32x4(low01, low23, 0x88);
        b[i + 4] = _mm512_shuffle_f32x4(high01, high23, 0x88);
        b[i + 8] = _mm512_shuffle_f32x4(low01, low23, 0xdd);
        b[i + 12] = _mm512_shuffle_f32x4(high01, high23, 0xdd);
    }
    for (int i = 0; i < lanes; i++) _mm512_store_ps(to + i * lanes, b[i]);
}

// Computes the sums of 8 output channels of a group of output pixels, table_words words of their windows at a time: those of
// several taps, or a part of the words of one tap.
static void add_words(const WindowWords& words, const float* weight, int64_t width, int64_t places, int64_t steps, int half,
                      LookupLists& lists) {
    const int64_t uses_each = steps / lanes, uses = places * uses_each;
    const int64_t some_words = least(words.count, table_words), some_taps = table_words / some_words;
    for (int64_t tap = 0; tap < words.taps; tap += some_taps)
        for (int64_t first = 0; first < words.count; first += some_words) {
            const int64_t taps = least(some_taps, words.taps - tap), count = least(some_words, words.count - first);
            const int last_quads = tap + taps == words.taps && first + count == words.count ? words.last_quads() : quads;
            const int64_t before = (tap * words.count + first) * word_bits;
            make_tables(weight + before * width, width, least(taps * count * word_bits, words.inputs - before),
                        lists.tables.data);
            const auto add = [&](auto constant, int64_t use) {
                constexpr int together = decltype(constant)::value;
                const uint32_t* start[table_words * together];
                float* sums[together];
                for (int u = 0; u < together; u++) {
                    const int64_t place = (use + u) / uses_each, t = (use + u) % uses_each * lanes;
                    sums[u] = lists.sums.data + ((use + u) * row + half * table_channels) * lanes;
                    for (int64_t i = 0; i < taps; i++)
                        start[i * together + u] = lists.windows.start.data[(tap + i) * places + place] + first * steps + t;
                }
                look_up<together>(lists.tables.data, start, taps, count, steps, last_quads, tap + first == 0, sums);
            };
            int64_t use = 0;
            for (; use + pair <= uses; use += pair) add(std::integral_constant<int, pair>(), use);
            for (; use < uses; use++) add(std::integral_constant<int, 1>(), use);
        }
}

static void run_lookup_group(const Conv2d& c, const WindowWords& words, const Region& out, const Region& in, int64_t first,
                             int64_t last, int64_t first_channel, int64_t last_channel, int64_t steps, LookupLists& lists) {
    const int64_t places = last - first, uses = places * steps / lanes;
    lists.tables.reserve(table_words * quads * table_channels * lanes);
    float* const sums = lists.sums.reserve(uses * row * lanes);
    constexpr int most_places = together;
    float* const current = lists.current.reserve(most_places * steps * row);
    int64_t found = -1;  // the group of channels that lists.windows holds
    for (int64_t channel = first_channel; channel < last_channel; channel += row) {
        const int64_t before = channel / matrix_columns * matrix_columns;
        const int64_t width = least(matrix_columns, ceil_div(c.neurons.C - before, row) * row);
        const float* const weight = (const float*)c.weight + before * words.inputs + channel - before;
        for (int half = 0; half < row / table_channels; half++) {
            const int64_t first_of_half = channel + half * table_channels;
            if (first_of_half >= c.neurons.C) break;  // channels of padding: their sums are never stored
            const int64_t group = first_of_half / (c.neurons.C / c.groups);
            if (group != found) lists.windows.find(c, words, out, in, group, first, last, steps);
            found = group;
            add_words(words, weight + half * table_channels, width, places, steps, half, lists);
        }
        for (int64_t i = 0, n; i < places; i += n) {
            Place at[most_places];
            n = i + most_places <= places ? most_places : 1;
            for (int64_t k = 0; k < n; k++) at[k] = Place(c, out, first + i + k);
            for (int64_t t = 0; t < n * steps; t += lanes) transpose(sums + (i * steps + t) * row, current + t * row);
            fire(c, in, at, n, channel, sums_of<FloatRows>(current, steps * row, 0), 0);
        }
    }
}

// Runs a task. In a grouped convolution each group has a multiple of 8 output channels.
static void run_lookup_task(const Conv2d& c, const WindowWords& words, const LookupCut& cut, int64_t task, LookupLists& lists) {
    const int64_t first_channel = cut.first_channel(task), last_channel = least(c.neurons.C, first_channel + cut.channels);
    Region out = cut.part(c, task);
    const int64_t places = out.images * out.rows * c.W_out;
    for (; out.t < c.neurons.T; out.t += cut.steps) {
        out.steps = least(cut.steps, c.neurons.T - out.t);
        const Region in = input_of(c, out);
        lists.windows.read(c, words, in, cut.steps);
        for (int64_t first = 0; first < places; first += cut.places)
            run_lookup_group(c, words, out, in, first, least(places, first + cut.places), first_channel, last_channel,
                             cut.steps, lists);
    }
}

}  // namespace PK_TARGET
#endif  // __AVX512F__
