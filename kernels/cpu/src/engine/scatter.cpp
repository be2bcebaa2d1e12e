// Convolutions of few spikes and few channels, as from an event camera. Each spike adds its rows of weights to the currents of
// the outputs that it reaches, and marks them.
//
// If only input can make neurons fire, only marked pixels are visited, plus those that fire again by themselves; decaying
// potentials are updated when they are visited. Other layers are visited in the order of memory. If a bias alone cannot fire
// any pixel of a 64-pixel word within the next `nap` steps, the word is skipped and updated afterwards. A task is a band of
// pixels of one image, for all steps.
#include "slot_lists.h"
#include "tasks.h"
#include "pools_and_moves.h"

namespace PK_TARGET {

struct ScatteredEvents {
    Session& session;
    const Op& op;
    const Reach& reach;
    const int64_t k, N, steps;
    const PixelBands bands;

    ScatteredEvents(Session& session, int64_t k, int64_t N, int64_t steps)
        : session(session),
          op(session.plan.ops[k]),
          reach(*op.reach),
          k(k),
          N(N),
          steps(steps),
          bands(op.P(), op.C, N, session.threads) {}

    struct Task {
        int64_t image, first_word, last_word, first, last;  // words and pixels of the band
        int64_t from, to;  // input pixels that may reach the band
        uint64_t* touched;
        float* currents;  // of the band's pixels, without biases; zero where not touched
        FiredWriter out;
        int64_t added = 0;
        bool is_calm = false;  // whether biases alone cannot make the last visited word fire within a nap

        inline void touch(int64_t at, int64_t n) const {
            for (int64_t some; n > 0; at += some, n -= some) {
                some = least(n, word_pixels - at % word_pixels);
                touched[at / word_pixels] |= ~uint64_t(0) >> (word_pixels - some) << at % word_pixels;
            }
        }
    };

    void add_events(Task& task, int64_t t) const {
        if (op.C % Vec::width == 0) add_events<Vec::width>(task, t);
        else if (op.C % 8 == 0) add_events<8>(task, t);
        else if (op.C % 4 == 0) add_events<4>(task, t);
        else if (op.C % 2 == 0) add_events<2>(task, t);
        else add_events<1>(task, t);
    }

    // Adds the weights of all spikes of step t; adjacent outputs are added in one go.
    template <int lanes>
    OUT_OF_LINE void add_events(Task& task, int64_t t) const {
        const Window& w = op.windows[0];
        const int64_t C = op.C, W = op.W, W_in = w.W, channel_weights = w.kernel_w * C;
        const int64_t first = task.first, pixels = task.last - first;
        const float* const v = session.states[k].v + (task.image * op.states * op.P() + first) * C;
        float* const currents = task.currents;
        const Side rows = reach.rows, columns = reach.columns;
        int64_t row = 0, row_end = 0, added = 0;  // input pixels of the row of the last spike
        const Reached *row_first = nullptr, *row_last = nullptr;
        session.lists[w.slot].each_within(task.image, t, task.from, task.to, [&](int64_t pixel, int64_t channel) {
            if (pixel < row || pixel >= row_end) {
                const int64_t y = (uint32_t)pixel / (uint32_t)W_in;
                row = y * W_in, row_end = row + W_in;
                row_first = rows.reached + rows.first[y], row_last = rows.reached + rows.first[y + 1];
                while (row_first < row_last && (row_first->at + 1) * W <= first) row_first++;
                while (row_first < row_last && row_last[-1].at * W >= task.last) row_last--;
            }
            const Reached* const begin = columns.reached + columns.first[pixel - row];
            const Reached* const end = columns.reached + columns.first[pixel - row + 1];
            const float* const weights = reach.weights + channel * channel_weights;
            for (const Reached* y = row_first; y < row_last; y++)
                for (const Reached* x = begin; x < end; x++) {
                    const float* from = weights + y->weights + x->weights;
                    int64_t at = y->at * W - first + x->at, n = x->n;
                    if (at < 0 || at + n > pixels) {  // partly in another band
                        const int64_t before = most(0, -at);
                        from += before * C, at += before, n = least(n - before, pixels - at);
                        if (n <= 0) continue;
                    }
                    task.touch(at, n);
                    added += n;
                    add_row<lanes>(from, v + at * C, currents + at * C, n * C);
                }
        });
        task.added += added;
    }

    // Also prefetches the states that will be updated. Works in pieces of fixed size that divide a pixel, so that a later load
    // matches an earlier store.
    template <int lanes>
    static inline void add_row(const float* from, const float* v, float* to, int64_t n) {
        typedef float Lanes __attribute__((vector_size(4 * lanes)));
        for (int64_t i = 0; i < n; i += lanes) {
            Lanes sum, row;
            __builtin_prefetch(v + i, 1);
            memcpy(&sum, to + i, sizeof sum), memcpy(&row, from + i, sizeof row);
            sum += row;
            memcpy(to + i, &sum, sizeof sum);
        }
    }
};

template <class Model>
struct Scattered : ScatteredEvents {
    using ScatteredEvents::ScatteredEvents;

    void run(int64_t number, int64_t thread) const {
        Scratch& s = session.scratch[thread];
        const LayerState& state = session.states[k];
        const int64_t image = number / bands.count, band = number % bands.count;
        const int64_t first = bands.first_pixel(band), last = bands.first_pixel(band + 1);
        const Window& w = op.windows[0];
        const int64_t top = first / op.W * w.stride_h - w.padding_h;  // input rows that reach the band
        const int64_t bottom = (ceil_div(last, op.W) - 1) * w.stride_h - w.padding_h + (w.kernel_h - 1) * w.dilation_h + 1;
        Task task{image,
                  bands.first_word(band),
                  bands.first_word(band + 1),
                  first,
                  last,
                  most(top, 0) * w.W,
                  most(least(bottom, w.H), 0) * w.W,
                  s.marks,
                  s.currents,
                  FiredWriter(session.lists[k + 1], bits_of(session, k + 1), image, band, bands.count, first, last)};
        const uint32_t now = state.done ? state.done[N * counted_places(op)] : 0;
        for (int64_t t = 0; t < steps; t++) {
            task.out.begin_step(t);
            add_events(task, t);
            const bool all = !reach.waits || (!t && !state.is_settled);
            for (int64_t word = task.first_word; word < task.last_word; word++) visit(task, word, all, now + (uint32_t)t);
            task.out.end_step();
        }
        task.out.finish();
        s.tally[0] += task.out.spikes, s.tally[1] += task.added * op.C;
    }

    // Runs one step for the pixels of a word, after the spikes of the step have been added.
    void visit(Task& task, int64_t word, bool all, uint32_t now) const {
        const LayerState& state = session.states[k];
        uint64_t& touched = task.touched[word - task.first_word];
        uint64_t& again = state.again[task.image * bands.words() + word];
        const int64_t pixels = least(word_pixels, op.P() - word * word_pixels);
        const bool drifts = reach.drifts;
        if (drifts && !wake(task, word, now, touched)) return;
        if (all && pixels == word_pixels && (drifts || !state.done)) {
            again = step_word(task, word, touched ? task.currents + (word * word_pixels - task.first) * op.C : nullptr);
            touched = 0;
            if (drifts && task.is_calm) state.due[task.image * bands.words() + word] += ((uint32_t)word - now - 1) % nap;
            return;
        }
        uint64_t visited = touched | again;
        if (all) visited = ~uint64_t(0) >> (word_pixels - pixels);
        if (!visited) return;
        uint64_t next = 0;
        for (uint64_t left = visited; left; left &= left - 1) {
            const int i = __builtin_ctzll(left);
            const int64_t pixel = word * word_pixels + i;
            float* const currents = touched >> i & 1 ? task.currents + (pixel - task.first) * op.C : nullptr;
            if (state.done && !drifts) {
                uint32_t& done = state.done[task.image * op.P() + pixel];
                decay_pixel(op, state.v + (task.image * op.P() + pixel) * op.C, now - done);
                done = now + 1;
            }
            next |= (uint64_t)step_pixel(task, pixel, currents) << i;
        }
        touched = 0, again = next;
    }

    // Updates a word of pixels that biases move; false if it has nothing to do at this step.
    bool wake(Task& task, int64_t word, uint32_t now, uint64_t touched) const {
        const LayerState& state = session.states[k];
        uint32_t &done = state.done[task.image * bands.words() + word], &due = state.due[task.image * bands.words() + word];
        if (!touched && now < due) return false;
        drift_word(op, state.v + (task.image * op.P() + word * word_pixels) * op.C, now - done);
        done = due = now + 1;
        return true;
    }

    // Runs one step of a pixel. `currents`: the pixel's, which are reset to zero; or null. Returns whether it fires again
    // without input.
    inline bool step_pixel(Task& task, int64_t pixel, float* currents) const {
        const Neuron& n = op.neuron;
        Parameters<Vec> p = shared_parameters<Model, Vec>(n);
        float* const v = session.states[k].v + (task.image * Model::states * op.P() + pixel) * op.C;
        const int64_t next = op.P() * op.C;  // state
        uint32_t again = 0;
        for (int64_t c = 0; c < op.C; c += Vec::width) {
            const int count = (int)least(Vec::width, op.C - c);
            set_parameters(p, n.channels + c, n.stride);
            Vec state[Model::states];
            for (int i = 0; i < Model::states; i++) state[i] = load_first(v + i * next + c, count);
            Vec current = load(op.neurons.bias + c);
            if (currents) {
                current = load_first(currents + c, count) + current;
                store_first(currents + c, broadcast(0.0f), count);
            }
            uint32_t fired = bits(Model::step(state, current, p).fires) & ((2u << (count - 1)) - 1);
            for (int i = 0; i < Model::states; i++) store_first(v + i * next + c, state[i], count);
            for (; fired; fired &= fired - 1) task.out.fires(pixel, c + __builtin_ctz(fired));
            again |= bits(state[0] >= p.theta);
        }
        return again;
    }

    // Runs one step of all pixels of a word in the order of memory, so that no lane is idle. `currents`: those of the pixels,
    // which are reset to zero; or null if no spike reaches them. Returns which pixels fire again without input.
    OUT_OF_LINE uint64_t step_word(Task& task, int64_t word, float* currents) const {
        Parameters<Vec> p = shared_parameters<Model, Vec>(op.neuron);
        float* const v = session.states[k].v + (task.image * Model::states * op.P() + word * word_pixels) * op.C;
        const int64_t C = op.C, next = op.P() * C, period = reach.period, all = word_pixels * C;
        const bool waits = reach.waits;
        uint64_t again = 0;
        uint32_t excited = 0;
        for (int64_t first = 0; first < period; first += Vec::width) {
            set_parameters(p, reach.pattern + period + first, period);
            const Vec bias = load(reach.pattern + first), calm = load(reach.calm + first);
            for (int64_t i = first; i < all; i += period) {
                Vec state[Model::states];
                for (int s = 0; s < Model::states; s++) state[s] = load(v + i + s * next);
                Vec current = bias;
                if (currents) {
                    current = load(currents + i) + bias;
                    store(currents + i, broadcast(0.0f));
                }
                uint32_t fired = bits(Model::step(state, current, p).fires);
                for (int s = 0; s < Model::states; s++) store(v + i + s * next, state[s]);
                excited |= bits(state[0] >= calm);
                if (!fired && !waits) continue;
                for (; fired; fired &= fired - 1) {
                    const int64_t place = i + __builtin_ctz(fired), pixel = place / C;
                    task.out.fires(word * word_pixels + pixel, place - pixel * C);
                }
                for (uint32_t over = bits(state[0] >= p.theta); over; over &= over - 1)
                    again |= uint64_t(1) << (i + __builtin_ctz(over)) / C;
            }
        }
        task.is_calm = !excited;
        return again;
    }

    static inline void set_parameters(Parameters<Vec>& p, const float* from, int64_t stride) {
        p.theta = load(from);
        if constexpr (channelwise<Model> > 1) p.decay = load(from + stride);
        if constexpr (channelwise<Model> > 2) p.second_decay = load(from + 2 * stride);
        if constexpr (channelwise<Model> > 3) p.increment = load(from + 3 * stride);
    }
};

static void run_scattered(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh) {
    const Op& op = session.plan.ops[k];
    LayerState& state = session.states[k];
    FiredList& list = session.lists[k + 1];
    session.ways[k] = engine::ByScattering;
    if (fresh) begin_at_rest(session, k, N);
    else begin_marks(session, k);
    const bool by_words = !op.reach->waits || !state.is_settled, ascends = !by_words || op.reach->period <= Vec::width;
    if (state.is_looked_at) memset(state.alike, 0, N * op.P()), state.is_looked_at = false;
    const PixelBands bands(op.P(), op.C, N, session.threads);
    with_model(op.neuron, [&](auto model) {
        Scattered<decltype(model)> scattered(session, k, N, steps);
        using Work = decltype(scattered);
        share(session, N * bands.count, &scattered,
              [](void* given, int64_t task, int64_t thread) { ((const Work*)given)->run(task, thread); });
    });
    if (session.watch.over.load()) return;
    if (state.done) state.done[N * counted_places(op)] += (uint32_t)steps, state.is_behind = true;
    state.is_settled = true;
    finish_list(list, bits_of(session, k + 1), bands, ascends);
}

// Runs operations from lists of spikes: scattered layers, and the pooling and flattening between them.

// The largest number of input spikes for which a layer is scattered. `worth` is the measured cost of the other ways, in
// register additions per output pixel and step.
static int64_t most_scattered(const Op& op, int64_t N, int64_t steps) {
    constexpr double entry = 4,
                     visit = 2;  // cost of a spike, and of each output that it reaches, in addition to its row of weights
    constexpr double addition = 7, around = 40;  // cycles of an addition, and of pixel tiles outside their products
    const double outputs = (double)(op.P() * steps);
    double worth = (has_kernel(op, N, steps) ? 12 : 64) / (op.exact ? 2.0 : 1.0);  // integer rows are faster
    worth = fmin(worth, (pixel_tile_cycles(op, N, steps) / outputs + around) / addition);
    const double taken = entry + op.reach->outputs * (visit + (double)op.vecs_of(0));
    const Window& w = op.windows[0];
    const int64_t quarter = N * (w.H * w.W * w.C * least(steps, 4) / 4 + 64 * steps);  // a quarter of up to four steps' inputs
    return least((int64_t)(worth * (double)N * outputs / taken), quarter);
}

// Whether layer k is scattered; if so, lists its input.
static bool is_scattered(Session& session, int64_t k, int64_t N, int64_t steps) {
    const Op& op = session.plan.ops[k];
    if (!op.reach) return false;
    const View& x = session.views[op.windows[0].slot];
    return x.spikes && !x.held() && list_slot(session, op.windows[0].slot, most_scattered(op, N, steps));
}

static bool is_listed_between(const Session& session, const Op& op) {
    if (!session.lists[op.windows[0].slot].is_listed) return false;
    return op.kind == engine::Flatten || (op.kind == engine::MaxPool && !op.adaptive);
}

// The maximum of spikes is their OR: an output fires once, however many spikes reach it.
static void pool_list(Session& session, int64_t k) {
    const Op& op = session.plan.ops[k];
    const Window& w = op.windows[0];
    FiredList& list = session.lists[k + 1];
    const SlotBits bits = bits_of(session, k + 1);
    const ImageBands whole{op.P(), 1};
    const auto first_over = [](int64_t at, int64_t kernel, int64_t stride) {
        return at < kernel ? 0 : (at - kernel) / stride + 1;
    };
    for (int64_t image = 0; image < list.N; image++) {
        FiredWriter out(list, bits, image, 0, 1, 0, op.P());
        bits.clear(image, 0, op.P());
        for (int64_t t = 0; t < list.steps; t++) {
            out.begin_step(t);
            session.lists[w.slot].each(image, t, [&](int64_t pixel, int64_t channel) {
                const int64_t y = pixel / w.W + w.padding_h, x = pixel % w.W + w.padding_w;
                const int64_t y1 = least(y / w.stride_h + 1, op.H), x1 = least(x / w.stride_w + 1, op.W);
                for (int64_t oy = first_over(y, w.kernel_h, w.stride_h); oy < y1; oy++)
                    for (int64_t ox = first_over(x, w.kernel_w, w.stride_w); ox < x1; ox++) {
                        uint8_t& byte = bits.at(image, t, oy * op.W + ox)[channel / 8];
                        if (byte >> channel % 8 & 1) continue;
                        out.fires(oy * op.W + ox, channel);
                        byte |= (uint8_t)(1 << channel % 8);
                    }
            });
            out.end_step();
        }
        out.finish();
    }
    finish_list(list, bits, whole, false);
    list.has_bits = true;
}

static void flatten_list(Session& session, int64_t k) {
    const FiredList &from = session.lists[session.plan.ops[k].windows[0].slot], &to = session.lists[k + 1];
    const SlotBits bits = bits_of(session, k + 1);
    for (int64_t image = 0; image < to.N; image++) {
        bits.clear(image, 0, 1);
        for (int64_t t = 0; t < to.steps; t++)
            from.each(image, t, [&](int64_t pixel, int64_t channel) { bits.set(image, t, 0, channel * from.P + pixel); });
    }
}

bool run_listed(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh) {
    const Op& op = session.plan.ops[k];
    if (is_scattered(session, k, N, steps)) return run_scattered(session, k, N, steps, fresh), true;
    if (is_listed_between(session, op)) {
        if (op.kind == engine::MaxPool) pool_list(session, k);
        else flatten_list(session, k);
        return true;
    }
    for (int64_t i = 0; i < op.count; i++) make_bits(session, op.windows[i].slot);
    if (op.kind != engine::Fire) return false;
    catch_up(session, k);
    forget(session.states[k]);
    session.states[k].is_looked_at = true;
    return false;
}

}  // namespace PK_TARGET
