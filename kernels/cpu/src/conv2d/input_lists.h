// Which inputs fired at each step: stages 1 and 2 of row_sums.h; and the firing rate of a sample of them.
#pragma once
#include "../set_bits.h"
#include "../fingerprint.h"
#include "slices.h"

namespace PK_TARGET {

// Steady inputs: they fire at most steps of a span, often at all but a few, as saturated inputs do behind a clip or a pool.
// Their weights are added once for the span, and their negated weights at each step at which they are silent.

// How many steps of a span an input may be silent and still be steady. A steady input costs 1 + silent rows for the span; that
// is no more than the steps - silent rows that it would cost otherwise.
static constexpr int64_t most_silent(int64_t steps, bool negated) { return negated ? (steps - 1) / 2 : 0; }

// Counts each of the 64 bits of added words, up to 63 each: plane k holds bit k of all 64 counts.
struct BitCounts {
    static constexpr int planes = 6;
    uint64_t plane[planes] = {};

    inline void add(uint64_t word, int first = 0) {
        for (int k = first; k < planes; k++) {
            const uint64_t carry = plane[k] & word;
            plane[k] ^= word;
            word = carry;
        }
    }
    // A full adder: adds b and c to plane k, and returns the carry.
    inline uint64_t add_two(int k, uint64_t b, uint64_t c) {
        const uint64_t a = plane[k], either = a ^ b;
        plane[k] = either ^ c;
        return (a & b) | (either & c);
    }
    inline void add_four(const uint64_t* words) {
        const uint64_t first = add_two(0, words[0], words[1]), second = add_two(0, words[2], words[3]);
        add(add_two(1, first, second), 2);
    }
    // The bits whose counts are at most `most`.
    inline uint64_t at_most(int64_t most) const {
        uint64_t more = 0, equal = ~0ull;
        for (int k = planes - 1; k >= 0; k--) {
            const uint64_t bit = (most >> k & 1) ? ~0ull : 0;
            more |= equal & plane[k] & ~bit;
            equal &= ~(plane[k] ^ bit);
        }
        return ~more;
    }
};

// Finds the channels that are silent at no more than `silent` of the steps from x on; returns whether there are any. `silent`
// is below `steps`.
static inline bool find_steady(const uint8_t* x, int64_t frame, int64_t bytes, int64_t steps, int64_t silent,
                               uint64_t* steady) {
    uint64_t any = 0;
    for (int64_t i = 0; i < bytes; i += 8, any |= *steady++) {
        const auto silent_at = [&](int64_t t) { return ~load_bits(x + t * frame + i, bytes - i); };
        if (!silent) {
            *steady = ~0ull;
            for (int64_t t = 0; t < steps; t++) *steady &= ~silent_at(t);
            continue;
        }
        BitCounts counts;
        int64_t t = 0;
        for (; t + 4 <= steps; t += 4) {
            const uint64_t words[] = {silent_at(t), silent_at(t + 1), silent_at(t + 2), silent_at(t + 3)};
            counts.add_four(words);
        }
        for (; t < steps; t++) counts.add(silent_at(t));
        *steady = counts.at_most(silent);
    }
    return any;
}

// Whether `bytes` of a pixel equal those of the pixel before at all steps.
static inline bool fires_like_the_last(const uint8_t* at, int64_t bytes, const SpikeFrames& x, int64_t steps) {
    for (int64_t t = 0; t < steps; t++, at += x.step)
        if (!equal_bytes(at, at - x.pixel, bytes)) return false;
    return true;
}

// The number of spikes in a part of the input.
static inline int64_t count_spikes(const Conv2d& c, const Region& in, const SpikeFrames& x) {
    int64_t sum = 0;
    for (int64_t image = in.image; image < in.image + in.images; image++)
        for (int64_t t = in.t; t < in.t + in.steps; t++)
            sum += count_pixels(x.at(image, t, in.row * c.W), in.rows * c.W, x.pixel, (c.C_in + 7) / 8);
    return sum;
}

// The memory of one thread, and stages 1 and 2. An output pixel has a sum for each step, then one for each span.
struct InputLists {
    static constexpr int group = 4;  // rows that are added together: a sum usually has few rows
    static constexpr int64_t longest_segment = 64, uses = 512, band_lists = 1 << 17;  // Segment (work.h)
    static constexpr int64_t span = 32, most_spans = longest_segment / span;          // steps of a span; spans of a segment

    int64_t steps = 0, sums = 0;  // of the segment
    int64_t negated = 0;          // distance in rows from a row to its negation; 0: there are no negated rows
    bool has_steady = true;       // whether to look for steady inputs
    int64_t pixel_sums = 0;       // lists of an input pixel: `sums` for each chunk of its channels
    int64_t repeats = 0;          // number of input pixels that fire like the pixel before
    Grown<uint16_t> input;        // the entries of all lists, of all input pixels of a task
    Grown<uint32_t> input_start;  // [image][pixel][chunk][sum]: where its list begins in `input`; it ends where the next begins
    Grown<const uint32_t*> tap_start;  // [tap of a slice]: input_start of its pixel
    Grown<uint32_t> length;  // [sum]

    static int64_t most_sums(int64_t steps) { return steps + ceil_div(steps, span); }

    // Borrows memory for the lists of `pixels` pixels with `spikes` spikes; returns how many entries they may have.
    int64_t borrow(Carver& carver, const Slices& slices, int64_t pixels, int64_t steps, int64_t spikes) {
        input.borrow(carver, spikes + overrun);
        input_start.borrow(carver, pixels * slices.chunks * most_sums(steps) + 1);
        tap_start.borrow(carver, slices.taps);
        length.borrow(carver, most_sums(steps));
        return spikes;
    }

    // `spikes`: the most that the part may have.
    void list_inputs(const Conv2d& c, const Slices& slices, const Region& in, const SpikeFrames& x, int64_t spikes) {
        negated = c.negated ? slices.inputs : 0;
        list_pixels(c, slices, in, x, spikes, most_sums(in.steps),
                    [&](const uint8_t* at, int64_t bytes, uint32_t* start, int64_t n) {
                        return list_steps(at, x.step, bytes, start, n);
                    });
    }

    // Makes `lists` lists for each chunk of each pixel. list_chunk(spikes, bytes, start, n) makes those of one chunk: it
    // writes where they begin to `start`, and their entries from number n on; it returns where these end.
    template <class ListChunk>
    void list_pixels(const Conv2d& c, const Slices& slices, const Region& in, const SpikeFrames& x, int64_t spikes,
                     int64_t lists, ListChunk list_chunk) {
        if (spikes > UINT32_MAX) abort();  // entries could not be numbered, and a kernel cannot report errors
        steps = in.steps;
        sums = lists;
        pixel_sums = slices.chunks * sums;
        const int64_t bytes = (c.C_in + 7) / 8, pixels = in.rows * c.W;
        input.reserve(spikes + overrun);
        uint32_t* start = input_start.reserve(in.images * pixels * pixel_sums + 1);
        int64_t n = 0;
        repeats = 0;
        for (int64_t image = 0; image < in.images; image++)
            for (int64_t pixel = 0; pixel < pixels; pixel++, start += pixel_sums) {
                const uint8_t* const at = x.at(in.image + image, in.t, in.row * c.W + pixel);
                if (pixel && fires_like_the_last(at, bytes, x, steps)) {
                    n = copy_lists(start, n);
                    repeats++;
                    continue;
                }
                for (int64_t chunk = 0; chunk < slices.chunks; chunk++) {
                    const int64_t byte = chunk * slices.chunk / 8, left = bytes - byte;
                    const int64_t chunk_bytes = chunk + 1 < slices.chunks ? slices.chunk / 8 : left;
                    n = list_chunk(at + byte, chunk_bytes, start + chunk * sums, n);
                }
            }
        PK_ASSERT(n <= spikes && start + 1 == input_start.data + input_start.size);
        *start = (uint32_t)n;
    }

    // Copies the lists of the pixel before, to entry n of `input` and after; returns where they end.
    int64_t copy_lists(uint32_t* start, int64_t n) const {
        const uint32_t *const last = start - pixel_sums, length = (uint32_t)n - last[0];
        for (int64_t i = 0; i < pixel_sums; i++) start[i] = last[i] + length;
        memcpy(input.data + n, input.data + last[0], length * sizeof(uint16_t));
        return n + length;
    }

    // For EqualWindows (row_sums.h): two pixels of the input fire alike if their lists are equal.
    uint64_t hash_of(int64_t pixel) const {
        const uint32_t *const start = input_start.data + pixel * pixel_sums, length = start[pixel_sums] - start[0];
        uint32_t starts = 0;
        for (int64_t i = 1; i <= pixel_sums; i++) starts += (start[i] - start[0]) * (uint32_t)(2 * i + 1);
        return mix(starts, hash_piece((const uint8_t*)(input.data + start[0]), length * sizeof(uint16_t), length));
    }
    bool are_alike(int64_t a, int64_t b) const {
        const uint32_t *const start = input_start.data + a * pixel_sums, *const other = input_start.data + b * pixel_sums;
        for (int64_t i = 1; i <= pixel_sums; i++)
            if (start[i] - start[0] != other[i] - other[0]) return false;
        return !memcmp(input.data + start[0], input.data + other[0], (start[pixel_sums] - start[0]) * sizeof(uint16_t));
    }

    // Joins the lists of the taps of one slice of a window. Entries are written from `end` on; returns their new end.
    OUT_OF_LINE uint16_t* list_slice(const Tap* taps, int64_t count, Choice& choice, Visit* visits, uint16_t* end) {
        const uint32_t** const starts = tap_start.reserve(count);
        uint32_t* const lengths = length.reserve(sums);
        memset(lengths, 0, sums * sizeof *lengths);
        for (int64_t tap = 0; tap < count; tap++) {
            const uint32_t* const start = starts[tap] = input_start.data + taps[tap].list * sums;
            for (int64_t i = 0; i < sums; i++) lengths[i] += start[i + 1] - start[i];
        }
        choice = sort_sums<group>(lengths, sums, visits, end);
        for (int64_t i = choice.empty; i < sums; i++) {
            uint16_t* const full = end + visits[i].groups * group;
            const int64_t sum = visits[i].sum;
            for (int64_t tap = 0; tap < count; tap++) {
                const uint32_t first = starts[tap][sum], last = starts[tap][sum + 1];
                end = append_shifted(input.data + first, last - first, taps[tap].base, end);
            }
            memset(end, 0, group * sizeof *end);
            end = full;
        }
        return end;
    }

    // The number of entries in lists first .. last - 1 (one list for each pixel and chunk).
    int64_t length_of(int64_t first, int64_t last) const {
        return input_start.data[last * sums] - input_start.data[first * sums];
    }

    // The most entries that the lists of one slice of a window can have, before they are padded to whole groups.
    static int64_t most_listed(const Slices& slices, int64_t steps) { return steps * slices.inputs; }

    // Lists some channels of a pixel, step by step and then span by span, from entry n of `input` on; returns where they end.
    int64_t list_steps(const uint8_t* x, int64_t frame, int64_t bytes, uint32_t* start, int64_t n) const {
        uint64_t steady[most_spans][most_slice_rows / 64], others[most_slice_rows / 64], silent[most_slice_rows / 64];
        const auto list_bits = [&](const void* bits, int64_t rows_before) {
            n += append_set_bits((const uint8_t*)bits, bytes, entry_scale, rows_before, input.data + n);
        };
        for (int64_t first = 0; first < steps; first += span) {
            const int64_t length = least(span, steps - first);
            uint64_t* const all = steady[first / span];
            const int64_t silent_steps = most_silent(length, negated);
            const bool any = has_steady && find_steady(x + first * frame, frame, bytes, length, silent_steps, all);
            if (!has_steady) memset(all, 0, ceil_div(bytes, 8) * sizeof *all);
            for (int64_t t = first; t < first + length; t++) {
                *start++ = (uint32_t)n;
                if (any)
                    for (int64_t i = 0; i < bytes; i += 8) {
                        const uint64_t fires = load_bits(x + t * frame + i, bytes - i);
                        others[i / 8] = fires & ~all[i / 8], silent[i / 8] = all[i / 8] & ~fires;
                    }
                list_bits(any ? (const void*)others : x + t * frame, 0);
                if (any && negated) list_bits(silent, negated);
            }
        }
        for (int64_t i = 0; i < sums - steps; i++) {
            *start++ = (uint32_t)n;
            list_bits(steady[i], 0);
        }
        return n;
    }

    template <class Rows>
    void finish(typename Rows::Number*) const {}  // the sums are the currents
};

// How many rows are added for the spikes of a pixel in T steps, which are `frame` bytes apart. A steady input counts once for
// each span and, with negated rows, once for each step at which it is silent.
static inline int64_t count_rows_of(const uint8_t* x, int64_t T, int64_t frame, int64_t bytes, int64_t negated) {
    constexpr int64_t span = InputLists::span;
    int64_t count = 0;
    for (int64_t first = 0; first < T; first += span) {
        const uint8_t* const of_span = x + first * frame;
        const int64_t steps = least(span, T - first);
        for (int64_t i = 0; i < bytes; i += 8) {
            const int64_t length = least(8, bytes - i);
            uint64_t steady;
            find_steady(of_span + i, frame, length, steps, most_silent(steps, negated), &steady);
            count += __builtin_popcountll(steady);
            for (int64_t t = 0; t < steps; t++)
                count += __builtin_popcountll(load_bits(of_span + t * frame + i, length) ^ steady);
        }
    }
    return count;
}

// Estimates the firing rate from a sample of pixels, to choose a kernel.
// The sampled pixels are multiples of the golden ratio, so they cover all parts of an image, whatever its width.
inline void sample_rates(Sample* sample) {
    constexpr int64_t most_pixels = 16;  // sampled of an image
    Sample& s = *sample;
    const int64_t apart = most(1, s.N / 4), pixels = least(s.P, most_pixels), count = ceil_div(s.N, apart) * pixels;
    const int64_t bytes = (s.C + 7) / 8;
    int64_t spikes = 0, rows = 0, negated = 0;
#pragma omp parallel for schedule(static) reduction(+ : spikes, rows, negated) if (2 * count * s.T * bytes > worth_threads)
    for (int64_t k = 0; k < count; k++) {
        const uint32_t number = (uint32_t)(k % pixels);
        const int64_t place = s.P <= most_pixels ? number : (int64_t)((uint64_t)(number * 2654435769u) * (uint64_t)s.P >> 32);
        const uint8_t* const x = s.spikes + k / pixels * apart * s.image + place * s.pixel;
        for (int64_t t = 0; t < s.T; t++) spikes += count_bits(x + t * s.step, bytes);
        rows += count_rows_of(x, s.T, s.step, bytes, 0);
        negated += count_rows_of(x, s.T, s.step, bytes, 1);
    }
    const double inputs = (double)most(1, count * s.T * s.C);
    s.rate = (double)spikes / inputs, s.rows = (double)rows / inputs, s.negated_rows = (double)negated / inputs;
}

}  // namespace PK_TARGET
