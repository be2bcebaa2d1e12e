// Neurons behind their windows, for the steps of a segment: the rows of inputs that fired are listed once for a batch of pixels
// and steps, added block by block of output channels, and the neurons walk the steps with their states in registers.
//
// A task is a band of rows of one image, all channels; of layers of one pixel, or of few, a group of images and one block.
// A pixel whose windows show what those of the pixel before it show, and whose neurons have always been like those, is
// copied: of most images the background.
#pragma once
#include "rows.h"
#include "session.h"

namespace PK_TARGET {

constexpr int64_t most_items = 128;  // sums of a block that are made side by side
constexpr int64_t most_list_rows = 1 << 19;  // of a batch, where it has more than one pixel
constexpr int64_t most_band_list = 1 << 19;  // entries of the lists of the pixels under a band, where it has more than one row

// How a layer is cut into tasks.
struct Cut2 {
    int64_t steps, sums;  // of the segment; of a pixel: one, if all its inputs are held
    int64_t rows, bands;  // of output rows of an image: of a band, how many
    int64_t images, groups;  // of a task, where a layer has one pixel: how many such groups
    int64_t spans;  // of blocks
    int64_t pixels;  // of a batch, at most
    bool one_pixel;

    Cut2(const Step& step, int64_t N, int64_t steps, int64_t threads, bool held) : steps(steps), sums(held ? 1 : steps) {
        one_pixel = step.P() == 1;
        pixels = most(1, least(most_items, most_list_rows / most(1, step.rows)) / sums);
        images = one_pixel ? least(pixels, most(N, 1)) : 1;
        groups = ceil_div(N, images);
        const int64_t wanted = 4 * threads;
        rows = one_pixel ? 1 : most(1, step.H * most(N, 1) / wanted);
        rows = least(rows, step.H);
        for (; rows > 1; rows = ceil_div(rows, 2)) {
            int64_t entries = 0;
            for (int64_t i = 0; i < step.count; i++) {
                const Window& w = step.windows[i];
                entries += least(w.H, (rows - 1) * w.stride_h + (w.kernel_h - 1) * w.dilation_h + 1) * w.W * w.C * steps;
            }
            if (entries <= most_band_list) break;
        }
        bands = ceil_div(step.H, rows);
        spans = groups * bands < 2 * threads ? step.blocks() : 1;
    }
    int64_t tasks() const { return groups * bands * spans; }

    // Memory that one thread needs.
    Room room(const Step& step) const {
        Room r;
        r.items = pixels * sums, r.rows = r.items * step.rows, r.starts = r.items * step.count;
        r.pixels = rows * step.W + images;
        for (int64_t i = 0; i < step.count; i++) {
            const Window& w = step.windows[i];
            const int64_t in_rows = least(w.H, (rows - 1) * w.stride_h + (w.kernel_h - 1) * w.dilation_h + 1);
            r.alike += in_rows * w.W;
            r.width = most(r.width, w.W);
            if (!listed_by_pixel(step, w)) continue;
            r.pixel_lists += in_rows * w.W * w.C * steps;
            r.pixel_starts += in_rows * w.W * steps + 1;
        }
        return r;
    }
    static bool listed_by_pixel(const Step& step, const Window& w) { return w.rows && step.P() > 1 && w.taps() > 1; }
};

template <class Model>
struct Firing {
    Session& session;
    const Step& step;
    const Cut2& cut;
    const int64_t number, first_step;  // of the operation; of the segment: 0, or else
    const bool fresh;

    Scratch* s = nullptr;
    int64_t image = 0, first_row = 0, last_row = 0, pixels = 0, copies = 0, first_pixel = 0;
    int64_t input_row[8] = {}, input_rows[8] = {}, list_of[8] = {}, start_of[8] = {}, alike_of[8] = {};

    const View& view(const Window& w) const { return session.views[w.slot]; }

    void run(int64_t task, int64_t thread) {
        s = session.scratch + thread;
        const int64_t part = task / cut.spans, span = task % cut.spans, key = session.serial * Team::most_tasks + part;
        const int64_t first_block = cut.spans > 1 ? span : 0, last_block = cut.spans > 1 ? span + 1 : step.blocks();
        if (cut.one_pixel) {
            const int64_t first = part * cut.images;
            pixels = least(cut.images, session.N - first), copies = 0, image = first;
            for (int64_t i = 0; i < pixels; i++) s->pixels[i] = i;
            if (s->key != key) list_batch();
            s->key = key;
            for (int64_t b = first_block; b < last_block; b++) run_block(b, b == 0);
            return;
        }
        s->key = -1;
        image = part / cut.bands, first_row = part % cut.bands * cut.rows, last_row = least(first_row + cut.rows, step.H);
        first_pixel = first_row * step.W;
        list_input();
        walk_band(first_block, last_block);
    }

    // Pixels of the band, one after another; a batch is run when it is full.
    void walk_band(int64_t first_block, int64_t last_block) {
        pixels = copies = 0;
        uint8_t* const alike = session.states[number].alike + image * step.P();
        const bool look = cut.spans == 1;
        const auto flush = [&] {
            if (pixels) {
                list_batch();
                for (int64_t b = first_block; b < last_block; b++) run_block(b, b == 0);
            }
            for (int64_t i = 0; i < copies; i++) copy(s->copies[i]);
            pixels = copies = 0;
        };
        for (int64_t y = first_row; y < last_row; y++)
            for (int64_t x = 0; x < step.W; x++) {
                const int64_t pixel = y * step.W + x;
                if (look) {
                    if (x && alike[pixel] && windows_alike(y, x)) {
                        s->copies[copies++] = pixel;
                        continue;
                    }
                }
                __atomic_store_n(alike + pixel, 0, __ATOMIC_RELAXED);  // of several blocks' tasks, all write the same
                s->rows_of[pixel - first_pixel] = s->spikes_of[pixel - first_pixel] = 0;
                s->pixels[pixels++] = pixel;
                if (pixels == cut.pixels) flush();
            }
        flush();
    }

    // Lists of what fired, of the input pixels under the band; and which of these are like the one a stride to their left.
    void list_input() {
        int64_t lists = 0, starts = 0, flags = 0;
        for (int64_t i = 0; i < step.count; i++) {
            const Window& w = step.windows[i];
            const View& x = view(w);
            const int64_t top = first_row * w.stride_h - w.padding_h;
            const int64_t bottom = (last_row - 1) * w.stride_h - w.padding_h + (w.kernel_h - 1) * w.dilation_h + 1;
            input_row[i] = least(most(top, 0), w.H);
            input_rows[i] = most(least(bottom, w.H) - input_row[i], 0);
            alike_of[i] = flags;
            const int64_t steps = x.held() ? 1 : cut.steps;
            for (int64_t y = 0; y < input_rows[i]; y++)
                for (int64_t c = 0; c < w.W; c++)
                    s->alike[flags++] = c >= w.stride_w && pixel_alike(w, x, (input_row[i] + y) * w.W + c, steps);
            if (!x.spikes || !Cut2::listed_by_pixel(step, w)) continue;
            list_of[i] = lists, start_of[i] = starts;
            const int64_t bytes = (w.C + 7) / 8;
            for (int64_t p = input_row[i] * w.W; p < (input_row[i] + input_rows[i]) * w.W; p++)
                for (int64_t t = 0; t < steps; t++) {
                    s->pixel_start[starts++] = (uint32_t)lists;
                    lists += append_set_bits(x.spikes_at(image, t, p), bytes, 1, -1, s->pixel_lists + lists);
                }
            s->pixel_start[starts++] = (uint32_t)lists;
        }
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
        for (int64_t i = 0; i < step.count; i++) {
            const Window& w = step.windows[i];
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

    // The image and pixel of a number of the batch.
    int64_t image_of(int64_t i) const { return cut.one_pixel ? image + s->pixels[i] : image; }
    int64_t pixel_of(int64_t i) const { return cut.one_pixel ? 0 : s->pixels[i]; }

    void list_batch() {
        int64_t n = 0, starts = 0;
        for (int64_t i = 0; i < pixels; i++) {
            const int64_t before = n;
            int64_t values = 0, ones = 0;  // rows of real values; spikes that are added as they are
            for (int64_t t = 0; t < cut.sums; t++)
                for (int64_t k = 0; k < step.count; k++) {
                    const Window& w = step.windows[k];
                    s->start[starts++] = (uint32_t)n;
                    const int64_t first = n;
                    if (w.rows) n = list_window(w, k, i, t, n);
                    if (!view(w).spikes) values += n - first;
                    else if (w.span) ones += count_window(w, i, t) * (step.C / w.groups);
                    else if (!w.rows) ones += count_bits(view(w).spikes_at(image_of(i), t, pixel_of(i)), (w.C + 7) / 8);
                }
            if (!cut.one_pixel) s->rows_of[s->pixels[i] - first_pixel] = (n - before - values) * step.C + ones;
            else s->rows_of[i] = (n - before - values) * step.C + ones;
        }
        s->start[starts] = (uint32_t)n;
        PK_ASSERT(n <= cut.room(step).rows);
    }
    // Calls visit(tap, pixel) for the pixels of a window that lie in the image.
    template <class Visit>
    void each_tap(const Window& w, int64_t i, Visit visit) const {
        const int64_t pixel = pixel_of(i), top = pixel / step.W * w.stride_h - w.padding_h;
        const int64_t left = pixel % step.W * w.stride_w - w.padding_w;
        for (int64_t ky = 0; ky < w.kernel_h; ky++) {
            const int64_t y = top + ky * w.dilation_h;
            if (y < 0 || y >= w.H) continue;
            for (int64_t kx = 0; kx < w.kernel_w; kx++) {
                const int64_t x = left + kx * w.dilation_w;
                if (x >= 0 && x < w.W) visit(ky * w.kernel_w + kx, y * w.W + x);
            }
        }
    }
    int64_t count_window(const Window& w, int64_t i, int64_t t) const {
        int64_t sum = 0;
        each_tap(w, i, [&](int64_t, int64_t at) { sum += count_bits(view(w).spikes_at(image_of(i), t, at), (w.C + 7) / 8); });
        return sum;
    }
    int64_t list_window(const Window& w, int64_t k, int64_t i, int64_t t, int64_t n) const {
        const View& x = view(w);
        const bool listed = Cut2::listed_by_pixel(step, w);
        each_tap(w, i, [&](int64_t tap, int64_t at) {
            const uint32_t base = (uint32_t)(tap * w.C);
            if (!x.spikes) {
                const float* const values = x.values_at(image_of(i), t, at);
                for (int64_t c = 0; c < w.C; c++)
                    if (values[c * x.channel] != 0) s->value[n] = values[c * x.channel], s->row[n++] = base + (uint32_t)c;
            } else if (listed) {
                const int64_t steps = x.held() ? 1 : cut.steps;
                const uint32_t* const start = s->pixel_start + start_of[k] + (at - input_row[k] * w.W) * steps + t;
                n = widen(s->pixel_lists + start[0], start[1] - start[0], base, s->row + n) - s->row;
            } else {
                n = list_pixel(x.spikes_at(image_of(i), t, at), (w.C + 7) / 8, base, s->row + n) - s->row;
            }
        });
        return n;
    }

    void run_block(int64_t b, bool counts_rows) {
        const int64_t items = pixels * cut.sums;
        if (in_double()) {
            for (int64_t item = 0; item < items; item++) sum_exactly(b, item);
        } else {
            for (int64_t item = 0; item < items; item++)
                memcpy(s->sums + item * columns, step.bias + b * columns, columns * sizeof(float));
            for (int64_t k = 0; k < step.count; k++) {
                if (step.windows[k].rows) add_window(step.windows[k], k, b, items);
                else if (step.windows[k].span) add_groups(step.windows[k], b, items);
                else add_input(step.windows[k], b);
            }
        }
        if (counts_rows)
            for (int64_t i = 0; i < pixels; i++) s->tally[1] += s->rows_of[cut.one_pixel ? i : s->pixels[i] - first_pixel];
        fire_block(b);
    }

    bool in_double() const {
        for (int64_t k = 0; k < step.count && step.exact; k++)
            if (!view(step.windows[k]).spikes) return true;
        return false;
    }

    // The current of an item, of which no addition is rounded but the last.
    void sum_exactly(int64_t b, int64_t item) const {
        double* const sum = s->exact;
        const int64_t i = item / cut.sums, t = item % cut.sums, width = step.vecs_of(b) * Vec::width;
        const int64_t channels = least(columns, step.C - b * columns);
        for (int64_t c = 0; c < width; c++) sum[c] = step.bias[b * columns + c];
        for (int64_t k = 0; k < step.count; k++) {
            const Window& w = step.windows[k];
            const View& x = view(w);
            if (w.rows) {
                const float* const matrix = w.matrix + b * w.rows * columns;
                for (uint32_t j = s->start[item * step.count + k]; j < s->start[item * step.count + k + 1]; j++) {
                    const float* const row = matrix + s->row[j] * width;
                    const double value = x.spikes ? 1.0 : s->value[j];
                    for (int64_t c = 0; c < width; c++) sum[c] += value * row[c];
                }
            } else if (w.span) {
                for (int64_t j = 0; j < step.vecs_of(b); j++)
                    each_row(w, b * block_vecs + j, i, t, [&](const float* row, float value) {
                        for (int c = 0; c < Vec::width; c++) sum[j * Vec::width + c] += (double)value * row[c];
                    });
            } else {
                for (int64_t c = 0; c < channels; c++) sum[c] += input_value(x, i, t, b * columns + c);
            }
        }
        for (int64_t c = 0; c < width; c++) s->sums[item * columns + c] = (float)sum[c];
    }
    float input_value(const View& x, int64_t i, int64_t t, int64_t c) const {
        if (x.spikes) return (float)(x.spikes_at(image_of(i), t, pixel_of(i))[c / 8] >> c % 8 & 1);
        return x.values_at(image_of(i), t, pixel_of(i))[c * x.channel];
    }

    // Calls visit(row, value) for the inputs of a register of output channels whose value is not zero: of its groups alone.
    template <class Visit>
    void each_row(const Window& w, int64_t vec, int64_t i, int64_t t, Visit visit) const {
        const View& x = view(w);
        const int64_t first = w.first_input(vec, step.C), last = w.last_input(vec, step.C);
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

    void add_groups(const Window& w, int64_t b, int64_t items) const {
        const bool real = !view(w).spikes;
        for (int64_t item = 0; item < items; item++)
            for (int64_t j = 0; j < step.vecs_of(b); j++) {
                float* const at = s->sums + item * columns + j * Vec::width;
                Vec sum = load(at);
                each_row(w, b * block_vecs + j, item / cut.sums, item % cut.sums, [&](const float* row, float value) {
                    sum = real ? multiply_add(broadcast(value), load(row), sum) : sum + load(row);
                });
                store(at, sum);
            }
    }

    // The rows of one window, of all items; where the matrix is large, part after part, so that it comes from far once.
    void add_window(const Window& w, int64_t k, int64_t b, int64_t items) const {
        const int64_t vecs_here = step.vecs_of(b), row_bytes = vecs_here * Vec::width * (int64_t)sizeof(float);
        const float* const matrix = w.matrix + b * w.rows * columns;
        const bool real = !view(w).spikes, far = w.rows * row_bytes > near_bytes;
        const AddRows add = adder((int)vecs_here, real, far);
        const auto list = [&](int64_t item) { return s->start[item * step.count + k]; };
        const auto end = [&](int64_t item) { return s->start[item * step.count + k + 1]; };
        const int64_t part = far && items > 1 ? most(64, near_bytes / row_bytes) : w.rows;
        if (part >= w.rows) {
            for (int64_t item = 0; item < items; item++)
                add(matrix, s->row + list(item), s->value + list(item), end(item) - list(item), s->sums + item * columns);
            return;
        }
        for (int64_t item = 0; item < items; item++) s->place[item] = list(item);
        for (int64_t last = part; last < w.rows + part; last += part)
            for (int64_t item = 0; item < items; item++) {
                const uint32_t first = s->place[item], stop = end(item);
                uint32_t next = first;
                while (next < stop && s->row[next] < last) next++;
                add(matrix, s->row + first, s->value + first, next - first, s->sums + item * columns);
                s->place[item] = next;
            }
    }

    // What adds as it is.
    void add_input(const Window& w, int64_t b) const {
        const View& x = view(w);
        for (int64_t i = 0; i < pixels; i++)
            for (int64_t t = 0; t < cut.sums; t++) {
                float* const sum = s->sums + (i * cut.sums + t) * columns;
                const int64_t channels = least(columns, step.C - b * columns);
                if (x.spikes) {
                    const uint8_t* const bytes = x.spikes_at(image_of(i), t, pixel_of(i)) + b * columns / 8;
                    for (int64_t c = 0; c < channels; c++) sum[c] += (float)(bytes[c / 8] >> c % 8 & 1);
                } else {
                    const float* const values = x.values_at(image_of(i), t, pixel_of(i)) + b * columns * x.channel;
                    for (int64_t c = 0; c < channels; c++) sum[c] += values[c * x.channel];
                }
            }
    }

    Neurons neurons_of() const {
        Neurons n{};
        n.neuron = step.neuron, n.v = session.states[number].v;
        n.T = cut.steps, n.N = session.N, n.P = step.P(), n.C = step.C;
        n.start = fresh ? step.start : n.v;
        n.start_image = fresh ? 0 : step.states * n.P * n.C;
        n.start_state = fresh ? n.C : n.P * n.C;
        n.start_pixel = fresh ? 0 : n.C;
        return n;
    }

    void fire_block(int64_t b) const {
        const Neurons n = neurons_of();
        char* const slot = session.slots[number];
        const int64_t last = least((b + 1) * columns, step.C);
        for (int64_t channel = b * columns; channel < last; channel += block) {
            const int count = (int)least(block, step.C - channel);
            const NeuronBlock<Model, block> neurons(n.neuron, channel);
            for (int64_t i = 0; i < pixels; i++) {
                const int64_t at = image_of(i), pixel = pixel_of(i);
                States<Model::states, block> state;
                load_states<Model>(state, n, 0, at, pixel, channel, count);
                const float* sum = s->sums + i * cut.sums * columns + channel - b * columns;
                int64_t spikes = 0;
                for (int64_t t = 0; t < cut.steps; t++) {
                    const uint32_t fired = step_block(neurons, state, load_block<block>(sum));
                    if (cut.sums > 1) sum += columns;
                    const int64_t frame = (at * cut.steps + t) * n.P + pixel;
                    if (step.real) store_block((float*)slot + frame * step.C + channel, state.part[0], count);
                    else store_spikes((uint8_t*)slot + frame * step.bytes() + channel / 8, fired, count);
                    spikes += __builtin_popcount(fired);
                }
                store_states(states_of<Model>(n, at, pixel, channel), n, state, count);
                s->tally[0] += spikes;
                if (!cut.one_pixel) s->spikes_of[pixel - first_pixel] += spikes;
            }
        }
    }

    // A pixel takes over what the one before it has.
    void copy(int64_t pixel) const {
        char* const slot = session.slots[number];
        const int64_t P = step.P(), bytes = slot_bytes(step) / P;
        for (int64_t t = 0; t < cut.steps; t++) {
            char* const to = slot + ((image * cut.steps + t) * P + pixel) * bytes;
            copy_bytes((const uint8_t*)to - bytes, (uint8_t*)to, bytes);
        }
        for (int64_t k = 0; k < step.states; k++) {
            float* const to = session.states[number].v + ((image * step.states + k) * P + pixel) * step.C;
            memcpy(to, to - step.C, step.C * sizeof(float));
        }
        const int64_t at = pixel - first_pixel;
        s->tally[0] += s->spikes_of[at] = s->spikes_of[at - 1];
        s->tally[1] += s->rows_of[at] = s->rows_of[at - 1];
    }
};

}  // namespace PK_TARGET
