// The currents of a batch of pixels, one block of output channels at a time: rows of weights of the inputs that fired, and
// inputs that are added without weights.
#pragma once
#include "../sigma_delta/codes.h"
#include "../sigma_delta/products.h"
#include "rows_to_add.h"
#include "add_rows.h"

namespace PK_TARGET {

struct Currents : RowsToAdd {
    int64_t offsets[most_offsets];  // of the rows of a window of few values

    OUT_OF_LINE void sum_up(int64_t b) {
        const Adders add = adders(op.vecs_of(b));
        if (in_double() && op.count == 1 && op.windows[0].rows && op.rows <= most_offsets) return sum_all_exactly(b, add);
        if (in_double()) {
            for (int64_t i = 0; i < pixels; i++)
                for (int64_t t = 0; t < cut.sums; t++) sum_exactly(b, i, t, add);
            return;
        }
        for (int64_t i = 0; i < pixels; i++)
            for (int64_t t = 0; t < cut.sums; t++) memcpy(sums(i, t), op.neurons.bias + b * columns, columns * sizeof(float));
        for (int64_t k = 0; k < op.count; k++) {
            const Window& w = op.windows[k];
            if (is_listed(w)) {
                add_rows(w, k, b);
                continue;
            }
            if (w.rows) {
                multiply(w, b, add);
                continue;
            }
            for (int64_t i = 0; i < pixels; i++) {
                if (w.depthwise) add_depthwise(w, b, i);
                else if (w.span) add_groups(w, b, i);
                else add_input(w, b, i);
            }
        }
    }
    float* sums(int64_t i, int64_t t) const { return s->sums + (i * cut.sums + t) * columns; }

private:
    static const float* matrix_of(const Window& w, int64_t b) { return (const float*)w.block(b); }

    // Adds the rows of the inputs that fired. A large matrix is used in parts, each by all pixels of the batch, so that it is
    // fetched from memory once per batch.
    void add_rows(const Window& w, int64_t k, int64_t b) const {
        const RowAdder add = row_adder(w.kind, op.vecs_of(b), is_far(w));
        const auto values = adders(op.vecs_of(b)).values;
        const int64_t parts = cut.parts(w).count, together = cut.in_parts(w) ? pixels : 1;
        const uint32_t* const begin = s->buckets + first_place(k);
        const char* const matrix = w.block(b);
        const bool whole = w.kind != RowKind::Floats;
        const int64_t sum_bytes = columns * add.number_bytes;
        for (int64_t first = 0; first < pixels; first += together) {
            char* const all = whole ? (char*)s->whole : (char*)sums(first, 0);
            if (whole) memset(all, 0, together * cut.sums * sum_bytes);
            for (int64_t part = 0; part < parts; part++)
                for (int64_t i = 0; i < together; i++) {
                    const uint32_t* const at = begin + (first + i) * parts + part;
                    char* const to = all + i * cut.sums * sum_bytes;
                    if (view(w).spikes) add.buckets(matrix, s->row, s->bucket + at[0], s->bucket + at[1], to);
                    else values(matrix_of(w, b), s->row, s->value, s->bucket + at[0], s->bucket + at[1], (float*)to);
                }
            for (int64_t i = 0; i < together && whole; i++)
                for (int64_t t = 0; t < cut.sums; t++)
                    add.whole(all + (i * cut.sums + t) * sum_bytes, w.unit + b * columns, sums(first + i, t));
        }
    }

    // Multiplies the values of all windows of the batch by all rows of weights.
    void multiply(const Window& w, int64_t b, const Adders& add) {
        if (w.rows > most_offsets) return multiply_packed(w, b, 0, pixels * cut.sums);
        find_offsets(w);
        for (int64_t i = 0; i < pixels; i++) {
            const int64_t top = pixel_of(i) / op.W * w.stride_h - w.padding_h;
            const int64_t left = pixel_of(i) % op.W * w.stride_w - w.padding_w;
            if (!lies_inside(w, i)) multiply_packed(w, b, i * cut.sums, (i + 1) * cut.sums);
            else
                for (int64_t t = 0; t < cut.sums; t++)
                    add.inside(matrix_of(w, b), view(w).values_at(image_of(i), t, top * w.W + left), offsets, w.rows,
                               sums(i, t));
        }
    }
    // The same for the sums first .. last - 1, some windows and rows at a time. Products are added in the order of the lists, so the
    // sums are bit-equal.
    void multiply_packed(const Window& w, int64_t b, int64_t first, int64_t last) const {
        const View& x = view(w);
        const bool is_one_run = w.dilation_w == 1 && (x.pixel == w.C || (w.C > 1 && x.channel != 1));
        const int64_t runs = is_one_run ? 1 : w.kernel_w;  // of a row of taps
        const int64_t run = w.kernel_w / runs * w.C;
        for (; first < last; first += dense_rows) {
            const int64_t some = least(dense_rows, last - first);
            const float* weight = matrix_of(w, b);
            int64_t depth = 0;
            const auto flush = [&] {
                multiply_rows(op.vecs_of(b), s->packed, packed_row, depth, weight, s->sums + first * columns, columns, some,
                              first + some == pixels * cut.sums);
                weight += depth * op.vecs_of(b) * Vec::width, depth = 0;
            };
            for (int64_t tap = 0; tap < w.kernel_h * runs; tap++)
                for (int64_t from = 0; from < run; from += packed_depth) {
                    const int64_t n = least(packed_depth, run - from);
                    if (depth + n > packed_depth) flush();
                    for (int64_t r = 0; r < some; r++)
                        pack(w, first + r, tap / runs, tap % runs, from, n, s->packed + r * packed_row + depth);
                    depth += n;
                }
            flush();
        }
    }
    // Copies n values of a window of the batch, from position `from` of a run of taps; in the padding, zeros.
    void pack(const Window& w, int64_t item, int64_t ky, int64_t kx, int64_t from, int64_t n, float* to) const {
        const View& x = view(w);
        const int64_t i = item / cut.sums, y = pixel_of(i) / op.W * w.stride_h - w.padding_h + ky * w.dilation_h;
        const int64_t left = pixel_of(i) % op.W * w.stride_w - w.padding_w + kx * w.dilation_w;
        const int64_t begin = y < 0 || y >= w.H ? n : most(0, -left * w.C - from), end = least(n, (w.W - left) * w.C - from);
        if (begin > 0 || end < n) memset(to, 0, n * sizeof *to);
        if (begin >= end) return;
        const float* const values = x.values_at(image_of(i), item % cut.sums, y * w.W) + left * x.pixel;
        if (x.channel != 1 && w.C > 1) return pack_planes(w, values, from, begin, end, to);
        if (begin) memcpy(to + begin, values + from + begin, (end - begin) * sizeof *to);
        else
            for (int64_t k = 0; k < end; k += Vec::width) store(to + k, PK_TARGET::load_values(values + from + k, end - k));
    }
    // Copies the values begin .. end - 1 of those from position `from` on, of an image whose channels are planes.
    void pack_planes(const Window& w, const float* values, int64_t from, int64_t begin, int64_t end, float* to) const {
        const View& x = view(w);
        int64_t tap = (from + begin) / w.C, channel = (from + begin) % w.C;
        for (int64_t k = begin; k < end; k++) {
            to[k] = values[tap * x.pixel + channel * x.channel];
            if (++channel == w.C) channel = 0, tap++;
        }
    }
    bool lies_inside(const Window& w, int64_t i) const {
        const int64_t top = pixel_of(i) / op.W * w.stride_h - w.padding_h;
        const int64_t left = pixel_of(i) % op.W * w.stride_w - w.padding_w;
        return top >= 0 && left >= 0 && top + (w.kernel_h - 1) * w.dilation_h < w.H &&
               left + (w.kernel_w - 1) * w.dilation_w < w.W;
    }
    // Finds the offset of each row's value from the first pixel of a window.
    void find_offsets(const Window& w) {
        const View& x = view(w);
        for (int64_t row = 0; row < w.rows; row++) {
            const int64_t tap = row / w.C, y = tap / w.kernel_w * w.dilation_h, at = y * w.W + tap % w.kernel_w * w.dilation_w;
            offsets[row] = at * x.pixel + row % w.C * x.channel;
        }
    }

    bool in_double() const {
        for (int64_t k = 0; k < op.count && op.exact; k++)
            if (!view(op.windows[k]).spikes) return true;
        return false;
    }

    // The currents of all pixels, for one window of at most `most_offsets` real values.
    void sum_all_exactly(int64_t b, const Adders& add) {
        const Window& w = op.windows[0];
        const int64_t items = pixels * cut.sums;
        find_offsets(w);
        for (int64_t first = 0; first < items; first += exact_pixels) {
            const int64_t n = least(exact_pixels, items - first);
            double value[most_offsets * exact_pixels];
            if (n == exact_pixels && are_side_by_side(w, first)) take_side_by_side(w, first, value);
            else {
                memset(value, 0, w.rows * exact_pixels * sizeof *value);
                for (int64_t item = 0; item < n; item++)
                    take_values(w, (first + item) / cut.sums, (first + item) % cut.sums, value + item);
            }
            add.all_exactly(matrix_of(w, b), op.neurons.bias + b * columns, value, w.rows, n, s->sums + first * columns);
        }
    }
    // Whether the windows of exact_pixels pixels, from the i-th on, lie inside the image with their values adjacent in memory.
    bool are_side_by_side(const Window& w, int64_t i) const {
        const int64_t last = i + exact_pixels - 1, y = pixel_of(i) / op.W;
        return cut.sums == 1 && w.stride_w == 1 && view(w).pixel == 1 && pixel_of(last) - pixel_of(i) == exact_pixels - 1 &&
               pixel_of(last) / op.W == y && lies_inside(w, i) && lies_inside(w, last);
    }
    void take_side_by_side(const Window& w, int64_t i, double* value) const {
        const int64_t top = pixel_of(i) / op.W * w.stride_h - w.padding_h, left = pixel_of(i) % op.W - w.padding_w;
        const float* const from = view(w).values_at(image_of(i), 0, top * w.W + left);
        for (int64_t row = 0; row < w.rows; row++)
            for (int k = 0; k < exact_pixels; k += Vec::width / 2) {
                const Doubles some = to_doubles(from + offsets[row] + k);
                memcpy(value + row * exact_pixels + k, &some, sizeof some);
            }
    }
    // The values of a pixel, one per row, interleaved with those of the other pixels: [row][exact_pixels].
    void take_values(const Window& w, int64_t i, int64_t t, double* value) const {
        const View& x = view(w);
        if (lies_inside(w, i)) {
            const int64_t top = pixel_of(i) / op.W * w.stride_h - w.padding_h;
            const int64_t left = pixel_of(i) % op.W * w.stride_w - w.padding_w;
            const float* const from = x.values_at(image_of(i), t, top * w.W + left);
            for (int64_t row = 0; row < w.rows; row++) value[row * exact_pixels] = from[offsets[row]];
            return;
        }
        each_tap(w, i, [&](int64_t tap, int64_t at) {
            const float* const values = x.values_at(image_of(i), t, at);
            for (int64_t c = 0; c < w.C; c++) value[(tap * w.C + c) * exact_pixels] = values[c * x.channel];
        });
    }

    // The current of a pixel, summed in double and rounded once.
    void sum_exactly(int64_t b, int64_t i, int64_t t, const Adders& add_rows) const {
        double* const sum = s->exact;
        const int64_t width = op.vecs_of(b) * Vec::width, channels = least(columns, op.C - b * columns);
        for (int64_t c = 0; c < width; c++) sum[c] = op.neurons.bias[b * columns + c];
        for (int64_t k = 0; k < op.count; k++) {
            const Window& w = op.windows[k];
            const View& x = view(w);
            const float* const matrix = matrix_of(w, b);
            const auto add = [&](const float* row, double value) {
                for (int64_t c = 0; c < width; c++) sum[c] += value * row[c];
            };
            if (w.rows) {
                PK_ASSERT(w.kind == RowKind::Floats);
                const int64_t parts = cut.parts(w).count;
                const uint32_t* const at = s->buckets + first_place(k) + i * parts;
                for (const Bucket* bucket = s->bucket + at[0]; bucket < s->bucket + at[parts]; bucket++) {
                    if (!(bucket->pattern >> t & 1)) continue;
                    const uint32_t first = bucket->first, n = bucket->last - first;
                    if (x.values) add_rows.exactly(matrix, s->row + first, s->value + first, n, sum);
                    for (uint32_t r = first; r < first + n && x.spikes; r++) add(matrix + s->row[r] * width, 1.0);
                }
            } else if (w.depthwise) {
                const float* const weight = w.depthwise + b * columns;
                each_tap(w, i, [&](int64_t tap, int64_t at) {
                    const float* const of_tap = weight + tap * ceil_div(op.C, block) * block;
                    for (int64_t c = 0; c < channels; c++) sum[c] += (double)value_at(x, i, t, at, b * columns + c) * of_tap[c];
                });
            } else if (w.span) {
                for (int64_t j = 0; j < op.vecs_of(b); j++)
                    each_row(w, b * block_vecs + j, i, t, [&](const float* row, float value) {
                        for (int c = 0; c < Vec::width; c++) sum[j * Vec::width + c] += (double)value * row[c];
                    });
            } else {
                for (int64_t c = 0; c < channels; c++) sum[c] += value_at(x, i, t, pixel_of(i), b * columns + c);
            }
        }
        for (int64_t c = 0; c < width; c++) sums(i, t)[c] = (float)sum[c];
    }
    float value_at(const View& x, int64_t i, int64_t t, int64_t pixel, int64_t c) const {
        if (x.spikes) return (float)(x.spikes_at(image_of(i), t, pixel)[c / 8] >> c % 8 & 1);
        return x.values_at(image_of(i), t, pixel)[c * x.channel];
    }

    // A depthwise window: each output channel reads only its own input channel.
    void add_depthwise(const Window& w, int64_t b, int64_t i) const {
        const View& x = view(w);
        const int64_t next = ceil_div(op.C, block) * block;
        for (int64_t t = 0; t < cut.sums; t++)
            for (int64_t c = b * columns; c < least((b + 1) * columns, op.C); c += block) {
                const int64_t channels = least(block, op.C - c);
                float* const at_sum = sums(i, t) + c - b * columns;
                Block sum = load_block(at_sum);
                each_tap(w, i, [&](int64_t tap, int64_t at) {
                    const Block weight = load_block(w.depthwise + tap * next + c);
                    if (x.spikes) {
                        const uint32_t fired =
                            (uint32_t)load_bits(x.spikes_at(image_of(i), t, at) + c / 8, least(4, ceil_div(channels, 8)));
                        for (int j = 0; j < sum.vecs; j++)
                            sum.v[j] = add_where(mask_of(fired >> (j * Vec::width)), sum.v[j], weight.v[j]);
                    } else {
                        const Block values = load_values(x, i, t, at, c, channels);
                        for (int j = 0; j < sum.vecs; j++) sum.v[j] = multiply_add(values.v[j], weight.v[j], sum.v[j]);
                    }
                });
                store_block(at_sum, sum);
            }
    }
    Block load_values(const View& x, int64_t i, int64_t t, int64_t pixel, int64_t channel, int64_t channels) const {
        const float* const values = x.values_at(image_of(i), t, pixel) + channel * x.channel;
        if (x.channel == 1) return load_block(values, (int)channels);
        float side_by_side[block] = {};
        for (int64_t c = 0; c < channels; c++) side_by_side[c] = values[c * x.channel];
        return load_block(side_by_side);
    }

    // Calls visit(row, value) for each nonzero input of the groups that a register of output channels belongs to.
    template <class Visit>
    void each_row(const Window& w, int64_t vec, int64_t i, int64_t t, Visit visit) const {
        const View& x = view(w);
        const int64_t first = w.first_input(vec, op.C), last = w.last_input(vec, op.C);
        const float* const rows = w.matrix + vec * w.taps() * w.span * Vec::width;
        each_tap(w, i, [&](int64_t tap, int64_t at) {
            const float* const of_tap = rows + (tap * w.span - first) * Vec::width;
            if (!x.spikes) {
                const float* const values = x.values_at(image_of(i), t, at);
                for (int64_t c = first; c < last; c++)
                    if (values[c * x.channel] != 0) visit(of_tap + c * Vec::width, values[c * x.channel]);
                return;
            }
            const uint8_t* const bytes = x.spikes_at(image_of(i), t, at);
            for (int64_t from = first / 8 * 8; from < last; from += 64) {
                uint64_t word = load_bits(bytes + from / 8, ceil_div(least(64, last - from), 8));
                if (from < first) word &= ~(uint64_t)0 << (first - from);
                if (last - from < 64) word &= ((uint64_t)1 << (last - from)) - 1;
                for (; word; word &= word - 1) visit(of_tap + (from + __builtin_ctzll(word)) * Vec::width, 1.0f);
            }
        });
    }

    void add_groups(const Window& w, int64_t b, int64_t i) const {
        const bool real = !view(w).spikes;
        for (int64_t t = 0; t < cut.sums; t++)
            for (int64_t j = 0; j < op.vecs_of(b); j++) {
                float* const at = sums(i, t) + j * Vec::width;
                Vec sum = load(at);
                if (real) sum = add_group_values(w, b * block_vecs + j, i, t, sum);
                else each_row(w, b * block_vecs + j, i, t, [&](const float* row, float) { sum = sum + load(row); });
                store(at, sum);
            }
    }
    // Several independent accumulators hide the latency of the addition.
    Vec add_group_values(const Window& w, int64_t vec, int64_t i, int64_t t, Vec start) const {
        constexpr int together = 4;
        const View& x = view(w);
        const int64_t first = w.first_input(vec, op.C), inputs = w.last_input(vec, op.C) - first;
        const float* const rows = w.matrix + vec * w.taps() * w.span * Vec::width;
        Vec sum[together] = {start, broadcast(0.0f), broadcast(0.0f), broadcast(0.0f)};
        each_tap(w, i, [&](int64_t tap, int64_t at) {
            const float* const row = rows + tap * w.span * Vec::width;
            const float* const values = x.values_at(image_of(i), t, at) + first * x.channel;
            const auto add = [&](int k, int64_t c) {
                sum[k] = multiply_add(broadcast(values[c * x.channel]), load(row + c * Vec::width), sum[k]);
            };
            int64_t c = 0;
            for (; c + together <= inputs; c += together) add(0, c), add(1, c + 1), add(2, c + 2), add(3, c + 3);
            for (; c < inputs; c++) add(0, c);
        });
        return (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }

    // Adds an input that has no weights.
    void add_input(const Window& w, int64_t b, int64_t i) const {
        const View& x = view(w);
        const int64_t channels = least(columns, op.C - b * columns);
        for (int64_t t = 0; t < cut.sums; t++) {
            float* const sum = sums(i, t);
            if (x.spikes) {
                const uint8_t* const bytes = x.spikes_at(image_of(i), t, pixel_of(i)) + b * columns / 8;
                for (int64_t c = 0; c < channels; c++) sum[c] += (float)(bytes[c / 8] >> c % 8 & 1);
            } else {
                const float* const values = x.values_at(image_of(i), t, pixel_of(i)) + b * columns * x.channel;
                for (int64_t c = 0; c < channels; c++) sum[c] += values[c * x.channel];
            }
        }
    }
};

}  // namespace PK_TARGET
