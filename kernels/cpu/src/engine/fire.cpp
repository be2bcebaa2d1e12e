// Runs neurons for the steps of a segment. The inputs that fired are listed once, their rows of weights are added one block of
// output channels at a time, and the neurons go through the steps with their states in registers.
//
// If a pixel's windows hold the same inputs as those of the pixel to its left, and the two pixels' neurons have been equal
// since the start, its outputs and states are copied from there. In most images that covers the background.
#include "behind.h"
#include "convolution.h"
#include "currents.h"
#include "tasks.h"

namespace PK_TARGET {

struct Firing : Currents {
    using FireBlock = void (*)(const Firing&, int64_t b);  // fire_block for the neuron model of the operation
    const FireBlock fire_block;
    const int64_t number, start, all_steps;  // index of the operation; first step; steps of the whole segment
    const int64_t pixel_bytes;  // of its output
    const bool fresh, goes_on;  // whether it starts from rest; whether the states are needed afterwards
    int64_t first_image = 0;  // of the tasks

    Firing(FireBlock fire_block, Session& session, const Op& op, const Tasks& cut, int64_t number, int64_t start,
           int64_t all_steps, bool fresh, bool goes_on)
        : Currents{{{session, op, cut}}},
          fire_block(fire_block),
          number(number),
          start(start),
          all_steps(all_steps),
          pixel_bytes(slot_bytes(op) / op.P()),
          fresh(fresh),
          goes_on(goes_on) {
        for (int64_t i = 0; i < op.count; i++) views[i] = session.views[op.windows[i].slot].from(start);
    }

    void run(int64_t task, int64_t thread) {
        s = session.scratch + thread;
        const int64_t part = task / cut.spans, span = task % cut.spans;
        const int64_t key = (session.serial & 0xffffff) << 36 | part;  // valid for one segment only
        const int64_t first_block = cut.spans > 1 ? span : 0, last_block = cut.spans > 1 ? span + 1 : op.blocks();
        const bool listed = s->key == key;  // this thread has listed the same pixels for another block
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
        image = first_image + part / cut.bands, first_row = part % cut.bands * cut.rows,
        last_row = least(first_row + cut.rows, op.H);
        first_pixel = first_row * op.W;
        list_input();
        walk_band(first_block, last_block);
    }

    // Collects the pixels of the band in batches and runs each batch once it is full.
    void walk_band(int64_t first_block, int64_t last_block) {
        pixels = copies = 0;
        uint8_t* const alike = session.states[number].alike + image * op.P();
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
            for (int64_t x = 0; x < op.W; x++) {
                const int64_t pixel = y * op.W + x;
                if (look && x && alike[pixel] && windows_alike(y, x)) {
                    s->copies[copies++] = pixel;
                    continue;
                }
                __atomic_store_n(alike + pixel, 0, __ATOMIC_RELAXED);  // tasks of other blocks write the same value
                s->pixels[pixels++] = pixel;
                if (pixels == cut.pixels) flush();
            }
        flush();
    }

    void run_blocks(int64_t first_block, int64_t last_block) {
        for (int64_t b = first_block; b < last_block; b++) {
            sum_up(b);
            if (session.currents) keep_currents(b);
            fire_block(*this, b);
            if (b == 0)
                for (int64_t i = 0; i < pixels; i++) s->tally[1] += s->additions[in_band(i)];
        }
    }

    // Where the currents of a pixel go, of a layer whose currents are wanted.
    float* currents_at(int64_t image, int64_t t, int64_t pixel) const {
        return session.currents + (((start + t) * session.N + image) * op.P() + pixel) * op.C;
    }
    void keep_currents(int64_t b) const {
        const int64_t first = b * columns, bytes = least(columns, op.C - first) * (int64_t)sizeof(float);
        for (int64_t i = 0; i < pixels; i++)
            for (int64_t t = 0; t < cut.steps; t++)
                memcpy(currents_at(image_of(i), t, pixel_of(i)) + first, sums(i, cut.sums > 1 ? t : 0), bytes);
    }

    // Copies outputs, states and counts from the pixel to the left.
    void copy(int64_t pixel) const {
        char* const slot = session.slots[number];
        const int64_t P = op.P(), bytes = pixel_bytes;
        for (int64_t t = 0; t < cut.steps; t++) {
            char* const to = slot + ((image * all_steps + start + t) * P + pixel) * bytes;
            copy_bytes((const uint8_t*)to - bytes, (uint8_t*)to, bytes);
            float* const currents = session.currents ? currents_at(image, t, pixel) : nullptr;
            if (currents) memcpy(currents, currents - op.C, op.C * sizeof(float));
        }
        for (int64_t k = 0; k < op.states && goes_on; k++) {
            float* const to = session.states[number].v + ((image * op.states + k) * P + pixel) * op.C;
            memcpy(to, to - op.C, op.C * sizeof(float));
        }
        const int64_t at = pixel - first_pixel;
        s->tally[0] += s->spikes[at] = s->spikes[at - 1];
        s->tally[1] += s->additions[at] = s->additions[at - 1];
    }
};

// Runs `together` pixels of a batch, from `first` on, through all steps, for one block of channels.
template <class Model, int together>
static inline void fire_pixels(const Firing& f, const NeuronBlock<Model, block>& neurons, const Neurons& n, int64_t b,
                               int64_t first, int64_t channel) {
    const Op& op = f.op;
    const bool real = op.real;  // local copies, since the compiler must assume that storing spikes may change memory
    const int64_t steps = f.cut.steps, next_sum = f.cut.sums > 1 ? columns : 0, bytes = f.pixel_bytes, next = n.P * bytes;
    const int count = (int)least(block, op.C - channel);
    const uint32_t is_channel = (uint32_t)((uint64_t(1) << count) - 1);  // lanes past the last channel may fire
    NeuronStates<Model::states, block> state[together];
    const float* sum[together];
    char* out[together];
    int64_t spikes[together] = {};
    each<together>([&](auto k) {
        const int64_t at = f.image_of(first + k), pixel = f.pixel_of(first + k);
        load_states<Model>(state[k], n, 0, at, pixel, channel, count);
        sum[k] = f.sums(first + k, 0) + channel - b * columns;
        out[k] = f.session.slots[f.number] + (at * f.all_steps + f.start) * next + pixel * bytes +
                 (real ? channel * (int64_t)sizeof(float) : channel / 8);
    });
    for (int64_t t = 0; t < steps; t++)
        each<together>([&](auto k) {
            const Block current = load_block<block>(sum[k] + t * next_sum);
            if constexpr (counts<Model>) {
                float* const to = (float*)(out[k] + t * next);
                store_block(to, count_block(neurons, state[k], current), count);
                for (int c = 0; c < count; c++) spikes[k] += (int64_t)to[c];
            } else {
                const uint32_t fired = step_block(neurons, state[k], current) & is_channel;
                if (real) store_block((float*)(out[k] + t * next), state[k].part[0], count);
                else store_spikes((uint8_t*)out[k] + t * next, fired, count);
                spikes[k] += __builtin_popcount(fired);
            }
        });
    each<together>([&](auto k) {
        if (f.goes_on)
            store_states(states_of<Model>(n, f.image_of(first + k), f.pixel_of(first + k), channel), n, state[k], count);
        f.s->tally[0] += spikes[k];
        f.s->spikes[f.in_band(first + k)] += spikes[k];
    });
}

template <class Model>
static void fire_block(const Firing& f, int64_t b) {
    constexpr int together = most(1, 8 / vecs);  // independent pixels hide the latency of a neuron's step
    const Neurons n = neurons_of(f.session, f.number, f.session.N, f.cut.steps, f.fresh);
    const int64_t last = least((b + 1) * columns, f.op.C);
    for (int64_t channel = b * columns; channel < last; channel += block) {
        const NeuronBlock<Model, block> neurons(n.neuron, channel);
        int64_t i = 0;
        for (; i + together <= f.pixels; i += together) fire_pixels<Model, together>(f, neurons, n, b, i, channel);
        for (; i < f.pixels; i++) fire_pixels<Model, 1>(f, neurons, n, b, i, channel);
    }
}

// Neurons on the largest currents of a convolution under the windows of a pooling. A batch is the pixels of some windows; the
// currents of each are replaced by the largest ones, which the neurons then take.
struct FiringOnMaxima {
    Firing neurons;
    Currents from;  // of the convolution
    const Op& pool;
    const Pooling windows;

    FiringOnMaxima(const Firing& neurons, const View& x, const Op& conv, const Op& pool)
        : neurons(neurons), from{{{neurons.session, conv, neurons.cut}}}, pool(pool), windows(pooling_of(pool)) {
        from.views[0] = x.from(neurons.start);
    }

    void run(int64_t task, int64_t thread) {
        const Tasks& cut = neurons.cut;
        const int64_t part = task / cut.spans, span = task % cut.spans, W = from.op.W;
        first_block = cut.spans > 1 ? span : 0, last_block = cut.spans > 1 ? span + 1 : from.op.blocks();
        s = neurons.s = from.s = neurons.session.scratch + thread;
        neurons.image = from.image = neurons.first_image + part / cut.bands;
        const int64_t first = part % cut.bands * cut.pooled_rows, last = least(first + cut.pooled_rows, pool.H);
        neurons.first_pixel = first * pool.W;
        from.first_row = first ? windows.row_of(first, pool.H) : 0, from.last_row = windows.row_of(last, pool.H);
        from.first_pixel = from.first_row * W;
        from.list_input();
        for (int64_t y = first; y < last; y++)
            for (int64_t x = 0; x < pool.W; x++) {
                if (from.pixels + windows.taps() > cut.pixels) flush(true);
                windows.each_under(y, x, [&](int64_t i, int64_t k) { s->pixels[from.pixels++] = i * W + k; });
                s->copies[neurons.pixels++] = y * pool.W + x;
            }
        flush(true);
        for (int64_t y = from.first_row; y < from.last_row && !first_block; y++)  // counted, though no window looks at them
            for (int64_t x = 0; x < W; x++) {
                if (is_seen(y + windows.padding_h, windows.kernel_h, windows.stride_h, pool.H) &&
                    is_seen(x + windows.padding_w, windows.kernel_w, windows.stride_w, pool.W))
                    continue;
                if (from.pixels == cut.pixels) flush(false);
                s->pixels[from.pixels++] = y * W + x;
            }
        flush(false);
    }

private:
    Scratch* s = nullptr;
    int64_t first_block = 0, last_block = 0;

    static bool is_seen(int64_t at, int64_t kernel, int64_t stride, int64_t outputs) {
        return at / stride < outputs && at % stride < kernel;
    }

    // Runs a batch. `fires`: or its spikes are only counted.
    void flush(bool fires) {
        if (from.pixels) from.list_batch();
        for (int64_t i = 0; i < from.pixels && !first_block; i++) s->tally[1] += s->additions[from.in_band(i)];
        for (int64_t b = first_block; b < last_block && fires && neurons.pixels; b++) {
            from.sum_up(b);
            take_largest(from.op.vecs_of(b) * Vec::width);
            std::swap(s->pixels, s->copies);
            for (int64_t i = 0; i < neurons.pixels; i++) s->spikes[neurons.in_band(i)] = 0;
            neurons.fire_block(neurons, b);
            std::swap(s->pixels, s->copies);
        }
        from.pixels = neurons.pixels = 0;
    }

    void take_largest(int64_t width) const {
        int64_t first = 0;
        for (int64_t i = 0; i < neurons.pixels; i++) {
            int64_t n = 0;
            windows.each_under(s->copies[i] / pool.W, s->copies[i] % pool.W, [&](int64_t, int64_t) { n++; });
            for (int64_t t = 0; t < neurons.cut.sums; t++)
                for (int64_t c = 0; c < width; c += Vec::width) {
                    Vec largest = load(from.sums(first, t) + c);
                    for (int64_t k = 1; k < n; k++) largest = greater(largest, load(from.sums(first + k, t) + c));
                    store(from.sums(i, t) + c, largest);
                }
            first += n;
        }
    }
};

// The function of the neuron model of an operation.
static Firing::FireBlock fire_block_of(const Op& op) {
    Firing::FireBlock found = nullptr;
    const auto choose = [&](auto model) { found = fire_block<decltype(model)>; };
    if (!with_counting_model(op.neuron, choose)) with_model_or_sums(op.neuron, choose);
    return found;
}

// Shares the tasks of neurons on the largest currents of a convolution `conv` of x, which may be a Behind.
static void share_maxima(const Firing& firing, const View& x, const Op& conv, const Op& pool) {
    struct Context {
        const Firing& firing;
        const View& x;
        const Op &conv, &pool;
    } context{firing, x, conv, pool};
    firing.session.serial++;
    share(firing.session, firing.cut.count(), &context, [](void* given, int64_t task, int64_t thread) {
        const Context& c = *(const Context*)given;
        FiringOnMaxima(c.firing, c.x, c.conv, c.pool).run(task, thread);
    });
}

void fire_maxima(Session& session, int64_t k, int64_t N, int64_t start, int64_t steps, int64_t all_steps, bool fresh,
                 bool goes_on) {
    const Op &op = session.plan.ops[k], &conv = session.plan.ops[op.maxima->conv], &pool = session.plan.ops[op.maxima->pool];
    const Tasks cut(conv, N, steps, session.threads, false, reads_values(session, conv), &pool);
    share_maxima({fire_block_of(op), session, op, cut, k, start, all_steps, fresh, goes_on},
                 session.views[conv.windows[0].slot], conv, pool);
}

static void share_firing(const Firing& firing) {
    firing.session.serial++;
    share(firing.session, firing.cut.count(), (void*)&firing,
          [](void* given, int64_t task, int64_t thread) { Firing(*(const Firing*)given).run(task, thread); });
}

void fire_steps(Session& session, int64_t k, int64_t N, int64_t start, int64_t steps, int64_t all_steps, bool fresh,
                bool goes_on) {
    const Op& any = session.plan.ops[k];
    const bool values = reads_values(session, any);
    const Op& op = any.for_spikes && !values ? *any.for_spikes : any;
    const Tasks cut(op, N, steps, session.threads, all_held(session, op), values);
    share_firing({fire_block_of(op), session, op, cut, k, start, all_steps, fresh, goes_on});
}

// Calls fire(currents, first image, images) for the images whose currents tiles have computed. `conv`: has the tiles.
template <class Fire>
static void with_tile_currents(Session& session, const Op& conv, const View& x, int64_t N, int64_t steps, Fire fire) {
    const int64_t together = images_at_a_time(conv, N, steps);
    View currents;
    currents.pixel = conv.C, currents.step = conv.P() * conv.C, currents.image = steps * currents.step;
    for (int64_t first = 0; first < N; first += together) {
        const int64_t images = least(together, N - first);
        View some = x;
        if (some.spikes) some.spikes += first * x.image;
        else some.values += first * x.image;
        run_tile_currents(session, conv, some, images, steps, session.tile_currents);
        currents.values = session.tile_currents - first * currents.image;
        fire(currents, first, images);
    }
}

void fire_tile_currents(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh, bool goes_on) {
    const Op& op = session.plan.ops[k];
    const Behind behind(op);
    with_tile_currents(session, op, session.views[op.windows[op.weighted].slot], N, steps,
                       [&](const View& currents, int64_t first, int64_t images) {
                           const Tasks cut(behind.op, images, steps, session.threads, false, false);
                           Firing firing(fire_block_of(op), session, behind.op, cut, k, 0, steps, fresh, goes_on);
                           firing.views[op.weighted] = currents, firing.first_image = first;
                           share_firing(firing);
                       });
}

void fire_tile_maxima(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh, bool goes_on) {
    const Op &op = session.plan.ops[k], &conv = session.plan.ops[op.maxima->conv], &pool = session.plan.ops[op.maxima->pool];
    const Behind behind(conv);
    with_tile_currents(session, op.maxima->op, session.views[conv.windows[0].slot], N, steps,
                       [&](const View& currents, int64_t first, int64_t images) {
                           const Tasks cut(behind.op, images, steps, session.threads, false, false, &pool);
                           Firing firing(fire_block_of(op), session, op, cut, k, 0, steps, fresh, goes_on);
                           firing.first_image = first;
                           share_maxima(firing, currents, behind.op, pool);
                       });
}

}  // namespace PK_TARGET
