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

    static constexpr int64_t most_offsets = 64;  // rows of windows whose values are never listed

    View views[most_windows];  // the inputs of the windows, from the first step of the task on

    const View& view(const Window& w) const { return views[&w - op.windows]; }
    bool is_listed(const Window& w) const { return w.rows && !s->multiplied[&w - op.windows]; }

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

// Likewise the positions of the values that are not 0, and the values. Those of a channel lie `next` apart.
static inline int64_t list_values(const float* x, int64_t n, int64_t next, int64_t first, uint32_t* to, float* value) {
    int64_t all = 0;
    for (int64_t c = 0; c < n && next != 1; c++) {
        to[all] = (uint32_t)(first + c), value[all] = x[c * next];
        all += value[all] != 0;
    }
    for (int64_t c = 0; c < n && next == 1; c += 64) {
        const uint64_t found = not_zero(x + c, least(64, n - c));
        const int64_t count = list_bits((const uint8_t*)&found, sizeof found, 0, to + all);
        for (int64_t i = all; i < all + count; i++) value[i] = x[c + to[i]], to[i] += (uint32_t)(first + c);
        all += count;
    }
    return all;
}

// The share of values that are not 0 above which it takes less time to multiply all of them, several windows at a time: a listed
// value reads a row of weights for itself. Measured for blocks of so many registers.
constexpr double dense_share(int64_t vecs) { return vecs <= 2 ? 0.75 : Vec::width == 16 ? 0.35 : 0.5; }

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
                if (x.spikes) n += list_bits(x.spikes_at(image, t, pixel) + c / 8, bytes, c, s.channel + n);
                else
                    n += list_values(x.values_at(image, t, pixel) + c * x.channel, least(chunk, C - c), x.channel, c,
                                     s.channel + n, s.sent + n);
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

// Lists, for a band, the inputs that fired at each pixel, and which pixels equal their left neighbour; and for each output
// pixel of a batch the rows of weights to add.

struct RowsToAdd : Located {
    int64_t place_of[most_windows] = {}, alike_of[most_windows] = {};  // where each window's entries begin

    OUT_OF_LINE void list_input() {
        PixelPatterns patterns(*s, cut.sums);
        int64_t places = 0, flags = 0;
        for (int64_t k = 0; k < op.count; k++) {
            const Window& w = op.windows[k];
            const View& x = view(w);
            const int64_t top = first_row * w.stride_h - w.padding_h;
            const int64_t bottom = (last_row - 1) * w.stride_h - w.padding_h + (w.kernel_h - 1) * w.dilation_h + 1;
            input_row[k] = least(most(top, 0), w.H);
            input_rows[k] = most(least(bottom, w.H) - input_row[k], 0);
            alike_of[k] = flags, place_of[k] = places;
            const int64_t first = input_row[k] * w.W, last = first + input_rows[k] * w.W;
            const bool look = !cut.one_pixel && cut.spans == 1;
            for (int64_t p = first; p < last && look; p++)
                s->alike[flags++] = p % w.W >= w.stride_w && pixel_alike(w, x, p, x.held() ? 1 : cut.steps);
            s->multiplied[k] = w.rows && x.values && is_multiplied(w, first, last);
            if (!is_listed(w)) continue;
            for (int64_t i = 0; i < (cut.one_pixel ? pixels : 1); i++)
                for (int64_t p = first; p < last; p++, places++) {
                    if (look && s->alike[alike_of[k] + p - first] && w.stride_w == 1) s->fired[places] = s->fired[places - 1];
                    else if (cut.by_steps(w)) s->fired[places] = patterns.list_steps(x, image + i, p, w.C, cut.parts(w).chunk);
                    else s->fired[places] = patterns.list_patterns(x, image + i, p, w.C);
                }
        }
    }

    // Lists the rows to add for each pixel of the batch.
    OUT_OF_LINE void list_batch() {
        int64_t n = 0, count = 0;
        for (int64_t i = 0; i < pixels; i++) s->additions[in_band(i)] = s->spikes[in_band(i)] = 0;
        for (int64_t k = 0; k < op.count; k++) {
            const Window& w = op.windows[k];
            uint32_t* bucket_at = s->buckets + first_place(k);
            for (int64_t i = 0; i < pixels; i++) {
                int64_t additions = 0;
                const bool counts = view(w).spikes || view(w).scaled;
                if (is_listed(w) && cut.by_steps(w)) additions = list_steps(w, k, i, n, count, bucket_at) * op.C;
                else if (is_listed(w)) additions = list_patterns(w, k, i, n, count, bucket_at) * op.C;
                else
                    for (int64_t t = 0; t < cut.sums && counts; t++)
                        additions += w.weight ? count_window(w, i, t) * (op.C / w.groups) : spikes_at(w, i, t, pixel_of(i));
                if (counts) s->additions[in_band(i)] += additions;
            }
            if (is_listed(w)) *bucket_at++ = (uint32_t)count;
        }
        PK_ASSERT(n <= cut.room(op).rows && count <= cut.room(op).lists);
    }

    // The index in `buckets` where the pixels and parts of window k begin.
    int64_t first_place(int64_t k) const {
        int64_t first = 0;
        for (int64_t j = 0; j < k; j++)
            if (op.windows[j].rows) first += cut.pixels * cut.parts(op.windows[j]).count + 1;
        return first;
    }

    bool pixel_alike(const Window& w, const View& x, int64_t pixel, int64_t steps) const {
        const int64_t left = pixel - w.stride_w;
        for (int64_t t = 0; t < steps; t++) {
            if (x.spikes) {
                if (!equal_bytes(x.spikes_at(image, t, pixel), x.spikes_at(image, t, left), (w.C + 7) / 8)) return false;
            } else {
                const float *const a = x.values_at(image, t, pixel), *const b = x.values_at(image, t, left);
                for (int64_t c = 0; c < w.C; c++)
                    if (a[c * x.channel] != b[c * x.channel]) return false;
            }
        }
        return true;
    }
    bool windows_alike(int64_t y, int64_t x) const {
        for (int64_t i = 0; i < op.count; i++) {
            const Window& w = op.windows[i];
            const int64_t left = x * w.stride_w - w.padding_w;
            if (left < w.stride_w || left + (w.kernel_w - 1) * w.dilation_w >= w.W) return false;
            for (int64_t ky = 0; ky < w.kernel_h; ky++) {
                const int64_t row = y * w.stride_h - w.padding_h + ky * w.dilation_h;
                if (row < 0 || row >= w.H) continue;
                const uint8_t* const flags = s->alike + alike_of[i] + (row - input_row[i]) * w.W + left;
                for (int64_t kx = 0; kx < w.kernel_w; kx++)
                    if (!flags[kx * w.dilation_w]) return false;
            }
        }
        return true;
    }

private:
    // Whether so many values of a window are not 0, from input pixel `first` to `last`, that it takes less time to multiply all.
    bool is_multiplied(const Window& w, int64_t first, int64_t last) const {
        const View& x = view(w);
        const int64_t images = cut.one_pixel ? pixels : 1;
        if (op.exact) return op.count == 1 && w.rows <= most_offsets;
        if (w.rows <= most_offsets) return true;
        if ((cut.one_pixel ? pixels : op.W) * cut.sums < fewest_multiplied) return false;
        int64_t found = 0;
        for (int64_t i = 0; i < images; i++)
            for (int64_t t = 0; t < cut.sums; t++)
                for (int64_t p = first; p < last; p++) {
                    const float* const values = x.values_at(image + i, t, p);
                    for (int64_t c = 0; c < w.C && x.channel != 1; c++) found += values[c * x.channel] != 0;
                    for (int64_t c = 0; c < w.C && x.channel == 1; c += 64)
                        found += __builtin_popcountll(not_zero(values + c, least(64, w.C - c)));
                }
        return (double)found > dense_share(op.vecs_of(0)) * (double)(images * cut.sums * (last - first) * w.C);
    }
    const FiredPixel* fired_of(const Window& w, int64_t k, int64_t i) const {
        return s->fired + place_of[k] + (cut.one_pixel ? i * input_rows[k] * w.W : 0) - input_row[k] * w.W;
    }
    // Pads a list with rows that add nothing; returns the end of the padding.
    static uint32_t* fill_up(const Window& w, uint32_t* end) {
        for (int j = 0; j < most_group; j++) end[j] = (uint32_t)w.rows;
        return end + most_group;
    }

    // Appends the buckets of a pixel, one per part and step, to `count` buckets, and their rows to n rows. Returns the number
    // of spikes.
    int64_t list_steps(const Window& w, int64_t k, int64_t i, int64_t& n, int64_t& count, uint32_t*& bucket_at) const {
        const FiredPixel* const fired = fired_of(w, k, i);
        const Entries* const entries = s->entries;
        const uint32_t* const channel = s->channel;
        const RowParts parts = cut.parts(w);
        int64_t spikes = 0;
        FiredTap *tap = s->taps, *end = tap;
        each_tap(w, i, [&](int64_t tap, int64_t at) {
            *end++ = {fired[at].first, (uint32_t)(tap * w.C)};
            spikes += fired[at].spikes;
        });
        uint32_t* to = s->row + n;
        for (int64_t first = 0; first < w.taps(); first += parts.taps) {
            FiredTap* last = tap;
            while (last < end && last->row < (first + parts.taps) * w.C) last++;
            for (int64_t chunk = 0; chunk < parts.chunks; chunk++) {
                *bucket_at++ = (uint32_t)count;
                for (int64_t t = 0; t < cut.sums; t++) {
                    uint32_t* const begin = to;
                    for (const FiredTap* own = tap; own < last; own++) {
                        const Entries part = entries[own->first + chunk * cut.sums + t];
                        if (view(w).values) append_shifted(s->sent + part.first, part.size(), 0.0f, s->value + (to - s->row));
                        to = append_shifted(channel + part.first, part.size(), own->row, to);
                    }
                    if (to == begin) continue;
                    s->bucket[count++] = {(uint32_t)(begin - s->row), (uint32_t)(to - s->row), 1u << t};
                    to = fill_up(w, to);
                }
            }
            tap = last;
        }
        n = to - s->row;
        return spikes;
    }

    // The same, with one bucket per pattern.
    int64_t list_patterns(const Window& w, int64_t k, int64_t i, int64_t& n, int64_t& count, uint32_t*& bucket_at) const {
        const FiredPixel* const fired = fired_of(w, k, i);
        int64_t spikes = 0;
        *bucket_at++ = (uint32_t)count;
        Sorter sorter(*s);
        each_tap(w, i, [&](int64_t, int64_t at) {
            spikes += fired[at].spikes;
            for (uint32_t j = fired[at].first; j < fired[at].last; j++) sorter.count(s->entries[j].id, s->entries[j].size());
        });
        Bucket* const bucket = s->bucket + count;
        n = sorter.place(n, gap, [&](int64_t j, uint32_t id, uint32_t first, uint32_t last) {
            bucket[j] = {first, last, s->pattern_of[id]};
        });
        each_tap(w, i, [&](int64_t tap, int64_t at) {
            for (uint32_t j = fired[at].first; j < fired[at].last; j++) {
                const Entries& part = s->entries[j];
                copy_list(s->channel + part.first, part.size(), (uint32_t)(tap * w.C),
                          s->row + sorter.next(part.id, part.size()));
            }
        });
        const int64_t found = sorter.finish();
        for (int64_t j = 0; j < found; j++) fill_up(w, s->row + bucket[j].last);
        count += found;
        return spikes;
    }
    // Copies n entries plus `base`; up to `gap` - 1 entries past them are overwritten.
    static void copy_list(const uint32_t* from, int64_t n, uint32_t base, uint32_t* to) {
        for (int64_t i = 0; i < n; i += gap)
            for (int j = 0; j < gap; j++) to[i + j] = from[i + j] + base;
    }
    int64_t count_window(const Window& w, int64_t i, int64_t t) const {
        int64_t sum = 0;
        each_tap(w, i, [&](int64_t, int64_t at) { sum += spikes_at(w, i, t, at); });
        return sum;
    }
    // The number of spikes, or of nonzero values, of an input pixel at step t.
    int64_t spikes_at(const Window& w, int64_t i, int64_t t, int64_t pixel) const {
        const View& x = view(w);
        if (x.spikes) return count_bits(x.spikes_at(image_of(i), t, pixel), (w.C + 7) / 8);
        int64_t sum = 0;
        for (int64_t c = 0; c < w.C; c++) sum += x.values_at(image_of(i), t, pixel)[c * x.channel] != 0;
        return sum;
    }
};

}  // namespace PK_TARGET
