// Lists the channels of input pixels that fired in a segment: by step if there are few steps, otherwise by spike pattern (one
// bit per step).
//
// Rows of weights whose inputs have the same pattern are summed once, and the sum is added at each step of the pattern. There
// are fewer patterns than inputs, because neurons under a constant current fire periodically and most others fire rarely. Even
// a row with a unique pattern is read only once for all steps. Channels are sorted once per input pixel; windows, which share
// pixels, then only join the sorted ranges.
#pragma once
#include "tasks.h"

namespace PK_TARGET {

// The place of a task of neurons: its samples, rows and pixels, and the inputs under their windows.
struct Located {
    Session& session;
    const Op& op;
    const Tasks& cut;

    Scratch* s = nullptr;
    int64_t image = 0, first_row = 0, last_row = 0, first_pixel = 0;  // the band; in layers of one pixel, `image` is the first
    int64_t pixels = 0, copies = 0;  // counts of the batch
    int64_t input_row[most_windows] = {},
            input_rows[most_windows] = {};  // for each window: first row under the band, and count

    View views[most_windows];  // the inputs of the windows, from the first step of the task on

    const View& view(const Window& w) const { return views[&w - op.windows]; }
    bool is_listed(const Window& w) const { return w.rows && view(w).spikes; }

    // The image, and the pixel, of the i-th pixel of the batch.
    int64_t image_of(int64_t i) const { return cut.one_pixel ? image + s->pixels[i] : image; }
    int64_t pixel_of(int64_t i) const { return cut.one_pixel ? 0 : s->pixels[i]; }
    int64_t in_band(int64_t i) const { return s->pixels[i] - first_pixel; }

    // Calls visit(tap, pixel) for the input pixels of the i-th pixel's window, except those in the padding.
    template <class Visit>
    void each_tap(const Window& w, int64_t i, Visit visit) const {
        const int64_t pixel = pixel_of(i), top = pixel / op.W * w.stride_h - w.padding_h;
        const int64_t left = pixel % op.W * w.stride_w - w.padding_w;
        for (int64_t ky = 0; ky < w.kernel_h; ky++) {
            const int64_t y = top + ky * w.dilation_h;
            if (y < 0 || y >= w.H) continue;
            for (int64_t kx = 0; kx < w.kernel_w; kx++) {
                const int64_t x = left + kx * w.dilation_w;
                if (x >= 0 && x < w.W) visit(ky * w.kernel_w + kx, y * w.W + x);
            }
        }
    }
};

// Counting sort by id, for few distinct ids. Call `count` for all items, then `place`, then `next` for the items in the order
// in which they were counted.
class Sorter {
public:
    explicit Sorter(Scratch& s) : size(s.size), touched(s.touched) {}
    inline void count(uint32_t id, uint32_t n) {
        touched[ids] = id;
        ids += !size[id];
        size[id] += n;
    }
    // Calls visit(j, id, first, last) with the range of places of each id. Ranges start at n and are followed by `gap` unused
    // places; returns the end.
    template <class Visit>
    inline int64_t place(int64_t n, int64_t gap, Visit visit) {
        for (int64_t j = 0; j < ids; j++) {
            uint32_t& mine = size[touched[j]];
            const uint32_t first = (uint32_t)n;
            n += mine;
            visit(j, touched[j], first, (uint32_t)n);
            n += gap;
            mine = first;
        }
        return n;
    }
    // The first of the next n places of an id.
    inline uint32_t next(uint32_t id, uint32_t n) {
        const uint32_t at = size[id];
        size[id] += n;
        return at;
    }
    // Resets the counts; returns how many distinct ids there were.
    int64_t finish() {
        for (int64_t j = 0; j < ids; j++) size[touched[j]] = 0;
        return ids;
    }

private:
    uint32_t *const size, *const touched;  // `size` is all zeros before and after
    int64_t ids = 0;
};

// Writes the positions of the set bits plus `first`; returns how many there are. Up to `overhang` elements past them are
// overwritten.
static inline int64_t list_bits(const uint8_t* bytes, int64_t n, int64_t first, uint32_t* to) {
    constexpr int64_t piece = 512;  // bytes
    uint16_t found[8 * piece + overhang];
    int64_t all = 0;
    for (int64_t i = 0; i < n; i += piece) {
        const int64_t count = append_set_bits(bytes + i, least(piece, n - i), 1, -1, found);
        for (int64_t j = 0; j < count; j += 16)
            for (int k = 0; k < 16; k++) to[all + j + k] = found[j + k] + (uint32_t)(first + 8 * i);
        all += count;
    }
    return all;
}

// Lists the channels of pixels that fired. A hash table gives each pattern an id; a pattern that a collision evicted from the
// table gets a second id.
class PixelPatterns {
public:
    PixelPatterns(Scratch& s, int64_t steps) : s(s), steps(steps) {
        if (steps > 1) memset(table, 0xff, sizeof table);
    }

    // One entry per chunk of channels and step, chunk by chunk.
    FiredPixel list_steps(const View& x, int64_t image, int64_t pixel, int64_t C, int64_t chunk) {
        const uint32_t first_segment = (uint32_t)segments;
        const int64_t before = n;
        for (int64_t c = 0; c < C; c += chunk)
            for (int64_t t = 0; t < steps; t++) {
                const uint32_t first = (uint32_t)n;
                const int64_t bytes = (least(chunk, C - c) + 7) / 8;
                n += list_bits(x.spikes_at(image, t, pixel) + c / 8, bytes, c, s.channel + n);
                s.entries[segments++] = {(uint32_t)t, first, (uint32_t)n};
            }
        return {first_segment, (uint32_t)segments, (uint32_t)(n - before)};
    }

    // One entry per pattern.
    FiredPixel list_patterns(const View& x, int64_t image, int64_t pixel, int64_t C) {
        const int64_t spikes = list_fired(x, image, pixel, C, s.unsorted, s.unsorted_pattern);
        const uint32_t first_segment = (uint32_t)segments;
        if (!found) return {first_segment, first_segment, 0};
        Sorter sorter(s);
        for (int64_t i = 0; i < found; i++) sorter.count(s.unsorted_pattern[i] = number_of(s.unsorted_pattern[i]), 1);
        n = sorter.place(n, 0, [&](int64_t j, uint32_t id, uint32_t first, uint32_t last) {
            s.entries[first_segment + j] = {id, first, last};
        });
        for (int64_t i = 0; i < found; i++) s.channel[sorter.next(s.unsorted_pattern[i], 1)] = s.unsorted[i];
        segments += sorter.finish();
        return {first_segment, (uint32_t)segments, (uint32_t)spikes};
    }

private:
    static constexpr int bits_of_table = 9;
    Scratch& s;
    const int64_t steps;
    int64_t n = 0, segments = 0, ids = 0, found = 0;
    uint32_t table[1 << bits_of_table];

    uint32_t number_of(uint32_t pattern) {
        uint32_t& id = table[(pattern * 2654435769u) >> (32 - bits_of_table)];
        if (id == ~0u || s.pattern_of[id] != pattern) {
            id = (uint32_t)ids++;
            s.pattern_of[id] = pattern;
        }
        return id;
    }

    // Lists the `found` channels that fired, and their patterns. Returns the number of spikes.
    int64_t list_fired(const View& x, int64_t image, int64_t pixel, int64_t C, uint32_t* channel, uint32_t* pattern) {
        const int64_t bytes = (C + 7) / 8;
        int64_t spikes = 0;
        found = 0;
        for (int64_t byte = 0; byte < bytes; byte += 8) {
            const int64_t here = least(8, bytes - byte);
            const auto word_at = [&](int64_t t) { return load_bits(x.spikes_at(image, t, pixel) + byte, here); };
            for (uint64_t any = patterns_of(steps, word_at, s.patterns); any; any &= any - 1, found++) {
                const int c = __builtin_ctzll(any);
                channel[found] = (uint32_t)(8 * byte + c);
                pattern[found] = s.patterns[c];
                spikes += __builtin_popcount(s.patterns[c]);
            }
        }
        return spikes;
    }
};

}  // namespace PK_TARGET
