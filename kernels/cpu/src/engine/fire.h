// Neurons behind their windows, for the steps of a segment: the inputs that fired are listed once, their rows are added block
// by block of output channels, and the neurons walk the steps with their states in registers.
//
// A pixel whose windows show what those of the pixel before it show, and whose neurons have always been like those, is
// copied: of most images the background.
#pragma once
#include "patterns.h"
#include "rows.h"

namespace PK_TARGET {

template <class Model>
struct Firing {
    Session& session;
    const Step& step;
    const Tasks& cut;
    const int64_t number;  // of the operation
    const bool fresh, goes_on;  // from rest; and whether there are steps, or somebody, that states are kept for

    Scratch* s = nullptr;
    int64_t image = 0, first_row = 0, last_row = 0, pixels = 0, copies = 0, first_pixel = 0;
    static constexpr int64_t most_offsets = 64;
    int64_t offsets[most_offsets], offsets_of = -1;  // of the last window of values
    int64_t input_row[8] = {}, input_rows[8] = {}, place_of[8] = {}, alike_of[8] = {};

    const View& view(const Window& w) const { return session.views[w.slot]; }
    bool has_patterns(const Window& w) const { return w.rows && view(w).spikes; }

    void run(int64_t task, int64_t thread) {
        s = session.scratch + thread;
        const int64_t part = task / cut.spans, span = task % cut.spans, key = session.serial * Team::most_tasks + part;
        const int64_t first_block = cut.spans > 1 ? span : 0, last_block = cut.spans > 1 ? span + 1 : step.blocks();
        const bool listed = s->key == key;  // by this thread, for another block
        s->key = key;
        if (cut.one_pixel) {
            image = part * cut.images, first_row = 0, last_row = 1;
            pixels = least(cut.images, session.N - image), copies = 0;
            if (!listed) {
                for (int64_t i = 0; i < pixels; i++) s->pixels[i] = i;
                list_input();
                list_batch();
            }
            run_blocks(first_block, last_block);
            return;
        }
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
                run_blocks(first_block, last_block);
            }
            for (int64_t i = 0; i < copies; i++) copy(s->copies[i]);
            pixels = copies = 0;
        };
        for (int64_t y = first_row; y < last_row; y++)
            for (int64_t x = 0; x < step.W; x++) {
                const int64_t pixel = y * step.W + x;
                if (look && x && alike[pixel] && windows_alike(y, x)) {
                    s->copies[copies++] = pixel;
                    continue;
                }
                __atomic_store_n(alike + pixel, 0, __ATOMIC_RELAXED);  // of several blocks' tasks, all write the same
                s->pixels[pixels++] = pixel;
                if (pixels == cut.pixels) flush();
            }
        flush();
    }

    // What fired under the band; and which of its pixels are like the one a stride to their left.
    void list_input() {
        int64_t n = 0, places = 0, flags = 0;
        for (int64_t k = 0; k < step.count; k++) {
            const Window& w = step.windows[k];
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
            if (!has_patterns(w)) continue;
            for (int64_t i = 0; i < (cut.one_pixel ? pixels : 1); i++)
                for (int64_t p = first; p < last; p++, places++) {
                    s->fired.start[places] = (uint32_t)n;
                    s->fired.spikes[places] =
                        look && s->alike[alike_of[k] + p - first] && w.stride_w == 1
                            ? list_again(places - 1, n)
                            : (uint32_t)list_fired(x, image + i, p, w.C, cut.steps, s->fired, n, s->patterns);
                }
            s->fired.start[places++] = (uint32_t)n;
        }
    }
    // The list of a pixel that is like the one before it.
    uint32_t list_again(int64_t place, int64_t& n) {
        const int64_t from = s->fired.start[place], count = n - from;
        n += append(s->fired.channel + from, s->fired.pattern + from, count, 0, s->fired.channel + n, s->fired.pattern + n);
        return s->fired.spikes[place];
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
    int64_t in_band(int64_t i) const { return s->pixels[i] - first_pixel; }

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

    // The rows of each pixel of the batch, sorted by their patterns.
    void list_batch() {
        Buckets buckets(*s);
        int64_t n = 0, count = 0;
        for (int64_t i = 0; i < pixels; i++) s->additions[in_band(i)] = s->spikes[in_band(i)] = 0;
        for (int64_t k = 0; k < step.count; k++) {
            const Window& w = step.windows[k];
            for (int64_t i = 0; i < pixels; i++) {
                s->buckets[bucket_place(k, i)] = (uint32_t)count;
                int64_t& additions = s->additions[in_band(i)];
                if (!view(w).spikes) continue;
                if (has_patterns(w)) {
                    int64_t spikes = 0;
                    const int64_t found = list_window(w, k, i, spikes);
                    additions += spikes * step.C;
                    count += buckets.sort(found, cut.steps, n, count);
                    n += found;
                } else {
                    for (int64_t t = 0; t < cut.sums; t++)
                        additions += w.span ? count_window(w, i, t) * (step.C / w.groups)
                                            : count_bits(view(w).spikes_at(image_of(i), t, pixel_of(i)), (w.C + 7) / 8);
                }
            }
            s->buckets[bucket_place(k, pixels)] = (uint32_t)count;
        }
        s->start[count] = (uint32_t)n;
        PK_ASSERT(n <= cut.room(step).rows);
    }
    int64_t list_window(const Window& w, int64_t k, int64_t i, int64_t& spikes) const {
        int64_t n = 0;
        const int64_t start = place_of[k] + (cut.one_pixel ? i * input_rows[k] * w.W : 0) - input_row[k] * w.W;
        each_tap(w, i, [&](int64_t tap, int64_t at) {
            const int64_t place = start + at, first = s->fired.start[place];
            spikes += s->fired.spikes[place];
            n += append(s->fired.channel + first, s->fired.pattern + first, s->fired.start[place + 1] - first,
                        (uint32_t)(tap * w.C), s->unsorted + n, s->unsorted_pattern + n);
        });
        return n;
    }
    int64_t count_window(const Window& w, int64_t i, int64_t t) const {
        int64_t sum = 0;
        each_tap(w, i, [&](int64_t, int64_t at) { sum += count_bits(view(w).spikes_at(image_of(i), t, at), (w.C + 7) / 8); });
        return sum;
    }

    void run_blocks(int64_t first_block, int64_t last_block) {
        for (int64_t b = first_block; b < last_block; b++) {
            run_block(b);
            if (b == 0)
                for (int64_t i = 0; i < pixels; i++) s->tally[1] += s->additions[in_band(i)];
        }
    }

    // Where a matrix is large, all pixels of the batch go through it part after part, so that it comes from far once.
    void run_block(int64_t b) {
        const int64_t row_bytes = step.vecs_of(b) * Vec::width * (int64_t)sizeof(float);
        for (int64_t k = 0; k < step.count; k++)
            if (step.windows[k].rows && !view(step.windows[k]).spikes) find_offsets(step.windows[k]), offsets_of = k;
        const Adders near = adders((int)step.vecs_of(b), false), far = adders((int)step.vecs_of(b), true);
        const auto is_far = [&](const Window& w) { return has_patterns(w) && w.rows * row_bytes > near_bytes; };
        if (in_double()) {
            for (int64_t i = 0; i < pixels; i++)
                for (int64_t t = 0; t < cut.sums; t++) sum_exactly(b, i, t);
        } else {
            for (int64_t i = 0; i < pixels; i++) {
                for (int64_t t = 0; t < cut.sums; t++) memcpy(sums(i, t), step.bias + b * columns, row_bytes);
                for (int64_t k = 0; k < step.count; k++) {
                    const Window& w = step.windows[k];
                    if (w.rows && !view(w).spikes) add_values_of(w, k, b, i, near);
                    else if (w.span) add_groups(w, b, i);
                    else if (!w.rows) add_input(w, b, i);
                    else if (!is_far(w) || pixels == 1)
                        for (uint32_t j = first_bucket(k, i); j < last_bucket(k, i); j++)
                            (is_far(w) ? far : near)
                                .rows(w.matrix + b * w.rows * columns, s->row + s->start[j], s->start[j + 1] - s->start[j],
                                      s->pattern[j], sums(i, 0));
                }
            }
            for (int64_t k = 0; k < step.count && pixels > 1; k++)
                if (is_far(step.windows[k])) add_in_parts(step.windows[k], k, b, far, most(64, near_bytes / row_bytes));
        }
        fire_block(b);
    }
    int64_t bucket_place(int64_t k, int64_t i) const { return k * (cut.pixels + 1) + i; }
    float* sums(int64_t i, int64_t t) const { return s->sums + (i * cut.sums + t) * columns; }
    uint32_t first_bucket(int64_t k, int64_t i) const { return s->buckets[bucket_place(k, i)]; }
    uint32_t last_bucket(int64_t k, int64_t i) const { return s->buckets[bucket_place(k, i + 1)]; }

    void add_in_parts(const Window& w, int64_t k, int64_t b, const Adders& add, int64_t part) const {
        const float* const matrix = w.matrix + b * w.rows * columns;
        for (uint32_t j = first_bucket(k, 0); j < last_bucket(k, pixels - 1); j++) s->place[j] = s->start[j];
        for (int64_t last = part; last < w.rows + part; last += part)
            for (int64_t i = 0; i < pixels; i++)
                for (uint32_t j = first_bucket(k, i); j < last_bucket(k, i); j++) {
                    const uint32_t first = s->place[j], stop = s->start[j + 1];
                    uint32_t next = first;
                    while (next < stop && s->row[next] < last) next++;
                    if (next > first) add.rows(matrix, s->row + first, next - first, s->pattern[j], sums(i, 0));
                    s->place[j] = next;
                }
    }

    // Real values: at each step others, so there are no patterns.
    int64_t list_values(const Window& w, int64_t i, int64_t t) const {
        const View& x = view(w);
        int64_t n = 0;
        each_tap(w, i, [&](int64_t tap, int64_t at) {
            const float* const values = x.values_at(image_of(i), t, at);
            for (int64_t c = 0; c < w.C; c++) {
                const float value = values[c * x.channel];
                s->unsorted[n] = (uint32_t)(tap * w.C + c), s->value[n] = value;
                n += value != 0;
            }
        });
        return n;
    }
    void add_values_of(const Window& w, int64_t k, int64_t b, int64_t i, const Adders& add) const {
        const float* const matrix = w.matrix + b * w.rows * columns;
        const View& x = view(w);
        if (k == offsets_of && w.rows <= most_offsets && lies_inside(w, i)) {
            const int64_t top = pixel_of(i) / step.W * w.stride_h - w.padding_h;
            const int64_t left = pixel_of(i) % step.W * w.stride_w - w.padding_w;
            for (int64_t t = 0; t < cut.sums; t++)
                add.inside(matrix, x.values_at(image_of(i), t, top * w.W + left), offsets, w.rows, sums(i, t));
            return;
        }
        for (int64_t t = 0; t < cut.sums; t++) {
            const int64_t n = list_values(w, i, t);
            add.values(matrix, s->unsorted, s->value, n, sums(i, t));
        }
    }
    bool lies_inside(const Window& w, int64_t i) const {
        const int64_t top = pixel_of(i) / step.W * w.stride_h - w.padding_h;
        const int64_t left = pixel_of(i) % step.W * w.stride_w - w.padding_w;
        return top >= 0 && left >= 0 && top + (w.kernel_h - 1) * w.dilation_h < w.H &&
               left + (w.kernel_w - 1) * w.dilation_w < w.W;
    }
    // Where each row's value lies, seen from a window's first pixel.
    void find_offsets(const Window& w) {
        const View& x = view(w);
        for (int64_t row = 0; row < w.rows && w.rows <= most_offsets; row++) {
            const int64_t tap = row / w.C, y = tap / w.kernel_w * w.dilation_h, at = y * w.W + tap % w.kernel_w * w.dilation_w;
            offsets[row] = at * x.pixel + row % w.C * x.channel;
        }
    }

    bool in_double() const {
        for (int64_t k = 0; k < step.count && step.exact; k++)
            if (!view(step.windows[k]).spikes) return true;
        return false;
    }

    // The current of a pixel, of which no addition is rounded but the last.
    void sum_exactly(int64_t b, int64_t i, int64_t t) const {
        double* const sum = s->exact;
        const int64_t width = step.vecs_of(b) * Vec::width, channels = least(columns, step.C - b * columns);
        for (int64_t c = 0; c < width; c++) sum[c] = step.bias[b * columns + c];
        for (int64_t k = 0; k < step.count; k++) {
            const Window& w = step.windows[k];
            const View& x = view(w);
            const float* const matrix = w.matrix + b * w.rows * columns;
            const auto add = [&](const float* row, double value) {
                for (int64_t c = 0; c < width; c++) sum[c] += value * row[c];
            };
            if (w.rows && !x.spikes) {
                const int64_t n = list_values(w, i, t);
                for (int64_t j = 0; j < n; j++) add(matrix + s->unsorted[j] * width, s->value[j]);
            } else if (w.rows) {
                for (uint32_t j = first_bucket(k, i); j < last_bucket(k, i); j++)
                    for (uint32_t r = s->start[j]; r < s->start[j + 1] && s->pattern[j] >> t & 1; r++)
                        add(matrix + s->row[r] * width, 1.0);
            } else if (w.span) {
                for (int64_t j = 0; j < step.vecs_of(b); j++)
                    each_row(w, b * block_vecs + j, i, t, [&](const float* row, float value) {
                        for (int c = 0; c < Vec::width; c++) sum[j * Vec::width + c] += (double)value * row[c];
                    });
            } else {
                for (int64_t c = 0; c < channels; c++) sum[c] += input_value(x, i, t, b * columns + c);
            }
        }
        for (int64_t c = 0; c < width; c++) sums(i, t)[c] = (float)sum[c];
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

    void add_groups(const Window& w, int64_t b, int64_t i) const {
        const bool real = !view(w).spikes;
        for (int64_t t = 0; t < cut.sums; t++)
            for (int64_t j = 0; j < step.vecs_of(b); j++) {
                float* const at = sums(i, t) + j * Vec::width;
                Vec sum = load(at);
                each_row(w, b * block_vecs + j, i, t, [&](const float* row, float value) {
                    sum = real ? multiply_add(broadcast(value), load(row), sum) : sum + load(row);
                });
                store(at, sum);
            }
    }

    // What adds as it is.
    void add_input(const Window& w, int64_t b, int64_t i) const {
        const View& x = view(w);
        const int64_t channels = least(columns, step.C - b * columns);
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
            const uint32_t is_channel = (uint32_t)((uint64_t(1) << count) - 1);  // what else a register holds may fire
            const NeuronBlock<Model, block> neurons(n.neuron, channel);
            for (int64_t i = 0; i < pixels; i++) {
                const int64_t at = image_of(i), pixel = pixel_of(i);
                States<Model::states, block> state;
                load_states<Model>(state, n, 0, at, pixel, channel, count);
                const float* sum = sums(i, 0) + channel - b * columns;
                int64_t spikes = 0;
                for (int64_t t = 0; t < cut.steps; t++) {
                    const uint32_t fired = step_block(neurons, state, load_block<block>(sum)) & is_channel;
                    if (cut.sums > 1) sum += columns;
                    const int64_t frame = (at * cut.steps + t) * n.P + pixel;
                    if (step.real) store_block((float*)slot + frame * step.C + channel, state.part[0], count);
                    else store_spikes((uint8_t*)slot + frame * step.bytes() + channel / 8, fired, count);
                    spikes += __builtin_popcount(fired);
                }
                if (goes_on) store_states(states_of<Model>(n, at, pixel, channel), n, state, count);
                s->tally[0] += spikes;
                s->spikes[in_band(i)] += spikes;
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
        for (int64_t k = 0; k < step.states && goes_on; k++) {
            float* const to = session.states[number].v + ((image * step.states + k) * P + pixel) * step.C;
            memcpy(to, to - step.C, step.C * sizeof(float));
        }
        const int64_t at = pixel - first_pixel;
        s->tally[0] += s->spikes[at] = s->spikes[at - 1];
        s->tally[1] += s->additions[at] = s->additions[at - 1];
    }
};

}  // namespace PK_TARGET
