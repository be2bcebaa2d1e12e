// Lists, for a band, the inputs that fired at each pixel, and which pixels equal their left neighbour; and for each output
// pixel of a batch the rows of weights to add.
#pragma once
#include "patterns.h"

namespace PK_TARGET {

struct RowsToAdd : Located {
    int64_t place_of[most_windows] = {}, alike_of[most_windows] = {};  // where each window's entries begin

    OUT_OF_LINE void list_input() {
        PixelPatterns patterns(*s, cut.steps);
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
                int64_t& additions = s->additions[in_band(i)];
                if (!view(w).spikes && !view(w).scaled) continue;
                if (is_listed(w) && cut.by_steps(w)) additions += list_steps(w, k, i, n, count, bucket_at) * op.C;
                else if (is_listed(w)) additions += list_patterns(w, k, i, n, count, bucket_at) * op.C;
                else
                    for (int64_t t = 0; t < cut.sums; t++)
                        additions += w.weight ? count_window(w, i, t) * (op.C / w.groups) : spikes_at(w, i, t, pixel_of(i));
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
                for (int64_t t = 0; t < cut.steps; t++) {
                    uint32_t* const begin = to;
                    for (const FiredTap* own = tap; own < last; own++) {
                        const Entries part = entries[own->first + chunk * cut.steps + t];
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
