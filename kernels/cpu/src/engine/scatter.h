// Convolutions of few spikes of few channels, as those of an event camera: each spike adds its rows of weights to the currents
// of the outputs that it reaches, and these are marked. Where nothing but spikes moves neurons, only marked pixels are visited,
// and those that are to fire again by themselves; potentials that decay are caught up with when they are visited. Other layers
// go by as they lie in memory. A task is a band of pixels of an image, for all steps.
#pragma once
#include "listing.h"

namespace PK_TARGET {

struct ScatteredEvents {
    Session& session;
    const Step& step;
    const Reach& reach;
    const int64_t k, N, steps;
    const PixelBands bands;

    ScatteredEvents(Session& session, int64_t k, int64_t N, int64_t steps)
        : session(session),
          step(session.plan.steps[k]),
          reach(*step.reach),
          k(k),
          N(N),
          steps(steps),
          bands(step.P(), N, session.threads) {}

    struct Task {
        int64_t image, first_word, last_word, first, last;  // words and pixels of the band
        int64_t from, to;  // pixels of the input that reach them, and some more
        uint64_t* touched;
        uint32_t* place;
        float *word, *currents;  // of all pixels of a word; of the band's touched pixels
        int64_t added = 0;
        FiredWriter out;
    };

    void add_events(Task& task, int64_t t) const {
        switch (reach.width / Vec::width) {
            case 1: add_events<1>(task, t); break;
            case 2: add_events<2>(task, t); break;
            case 4: add_events<4>(task, t); break;
            default: add_events<0>(task, t);
        }
    }

    // Of a step, in so many registers; 0: as many as there are.
    template <int registers>
    OUT_OF_LINE void add_events(Task& task, int64_t t) const {
        const Window& w = step.windows[0];
        const int64_t width = registers ? registers * Vec::width : reach.width, W = step.W, C = step.C, W_in = w.W;
        const int64_t first = task.first, last = task.last;
        const float *const matrix = reach.weights, *const bias = step.bias;
        const float* const v = session.states[k].v + (task.image * step.states * step.P() + first) * C;
        uint64_t* const touched = task.touched;
        uint32_t* const places = task.place;
        float* const currents = task.currents;
        const Side rows = reach.rows, columns = reach.columns;
        int64_t row = 0, row_end = 0, added = 0;  // pixels of the row that the last event was in
        const Reached *row_first = nullptr, *row_last = nullptr;
        uint32_t new_place = 0;
        session.lists[w.slot].each_within(task.image, t, task.from, task.to, [&](int64_t pixel, int64_t channel) {
            if (pixel < row || pixel >= row_end) {
                const int64_t y = (uint32_t)pixel / (uint32_t)W_in;
                row = y * W_in, row_end = row + W_in;
                row_first = rows.reached + rows.first[y], row_last = rows.reached + rows.first[y + 1];
                while (row_first < row_last && row_first->at * W >= last) row_first++;  // they descend
                while (row_first < row_last && (row_last[-1].at + 1) * W <= first) row_last--;
            }
            const Reached* const column_first = columns.reached + columns.first[pixel - row];
            const Reached* const column_last = columns.reached + columns.first[pixel - row + 1];
            const float* const weights = matrix + channel * width;
            for (const Reached* y = row_first; y < row_last; y++) {
                const int64_t line = y->at * W - first;
                const float* const of_row = weights + y->weights;
                for (const Reached* x = column_first; x < column_last; x++) {
                    const uint64_t at = (uint64_t)(line + x->at);
                    if (at >= (uint64_t)(last - first)) continue;
                    const float* const from = of_row + x->weights;
                    const uint64_t word = touched[at / word_pixels], bit = uint64_t(1) << at % word_pixels;
                    const bool is_new = !(word & bit);  // nobody can predict it: no branch
                    const uint32_t before = places[at], place = is_new ? new_place : before;
                    touched[at / word_pixels] = word | bit;
                    places[at] = place;
                    new_place += is_new, added++;
                    __builtin_prefetch(v + at * C, 1);
                    float* const to = currents + place * width;
                    const float* const sum = is_new ? bias : to;
                    for (int64_t j = 0; j < width; j += Vec::width) store(to + j, load(sum + j) + load(from + j));
                }
            }
        });
        task.added += added;
    }
};

template <class Model>
struct Scattered : ScatteredEvents {
    using ScatteredEvents::ScatteredEvents;

    void run(int64_t number, int64_t thread) const {
        Scratch& s = session.scratch[thread];
        const State& state = session.states[k];
        const int64_t image = number / bands.count, band = number % bands.count;
        const int64_t first = bands.first_pixel(band), last = bands.first_pixel(band + 1);
        const Window& w = step.windows[0];
        int64_t row = 0, row_end = w.H;
        if (bands.count > 1) reach.rows.reaching(w.H, first / step.W, ceil_div(last, step.W), &row, &row_end);
        Task task{image,
                  bands.first_word(band),
                  bands.first_word(band + 1),
                  first,
                  last,
                  row * w.W,
                  row_end * w.W,
                  s.marks,
                  s.place_of,
                  s.currents,
                  s.currents + word_pixels * step.C,
                  0,
                  FiredWriter(session.lists[k + 1], bits_of(session, k + 1), image, band, bands.count, first, last)};
        const uint32_t now = state.done ? state.done[N * step.P()] : 0;
        for (int64_t t = 0; t < steps; t++) {
            task.out.begin_step(t);
            add_events(task, t);
            const bool all = !reach.waits || (!t && !state.is_settled);
            for (int64_t word = task.first_word; word < task.last_word; word++) visit(task, word, all, now + (uint32_t)t);
            task.out.end_step();
        }
        task.out.finish();
        s.tally[0] += task.out.spikes, s.tally[1] += task.added * step.C;
    }

    // The pixels of a word after the events of a step.
    void visit(Task& task, int64_t word, bool all, uint32_t now) const {
        const State& state = session.states[k];
        uint64_t& touched = task.touched[word - task.first_word];
        uint64_t& again = state.again[task.image * bands.words + word];
        const int64_t pixels = least(word_pixels, step.P() - word * word_pixels);
        if (all && pixels == word_pixels && !state.done) {
            if (touched) fill_word(task, word, touched);
            again = step_word(task, word, touched ? task.word : nullptr);
            touched = 0;
            return;
        }
        uint64_t visited = touched | again;
        if (all) visited = ~uint64_t(0) >> (word_pixels - pixels);
        if (!visited) return;
        uint64_t next = 0;
        for (uint64_t left = visited; left; left &= left - 1) {
            const int i = __builtin_ctzll(left);
            const int64_t pixel = word * word_pixels + i;
            const bool is_touched = touched >> i & 1;
            const float* const current = is_touched ? task.currents + task.place[pixel - task.first] * reach.width : step.bias;
            if (state.done) {
                uint32_t& done = state.done[task.image * step.P() + pixel];
                decay_pixel(step, state.v + (task.image * step.P() + pixel) * step.C, now - done);
                done = now + 1;
            }
            next |= (uint64_t)step_pixel(task, pixel, current) << i;
        }
        touched = 0, again = next;
    }

    // Whether the pixel fires again if nothing arrives.
    inline bool step_pixel(Task& task, int64_t pixel, const float* current) const {
        const Neuron& n = step.neuron;
        Parameters<Vec> p = shared_parameters<Model, Vec>(n);
        float* const v = session.states[k].v + (task.image * Model::states * step.P() + pixel) * step.C;
        const int64_t next = step.P() * step.C;  // state
        uint32_t again = 0;
        for (int64_t c = 0; c < step.C; c += Vec::width) {
            const int count = (int)least(Vec::width, step.C - c);
            set_parameters(p, n.channels + c, n.stride);
            Vec state[Model::states];
            for (int i = 0; i < Model::states; i++) state[i] = load_first(v + i * next + c, count);
            uint32_t fired = bits(Model::step(state, load(current + c), p).fires) & ((2u << (count - 1)) - 1);
            for (int i = 0; i < Model::states; i++) store_first(v + i * next + c, state[i], count);
            for (; fired; fired &= fired - 1) task.out.fires(pixel, c + __builtin_ctz(fired));
            again |= bits(state[0] >= p.theta);
        }
        return again;
    }

    // The currents of all pixels of a word, as their potentials lie in memory.
    void fill_word(Task& task, int64_t word, uint64_t touched) const {
        const int64_t C = step.C, period = reach.period, whole = word_pixels * C;
        for (int64_t i = 0; i < whole; i += period)
            for (int64_t first = 0; first < period; first += Vec::width)
                store(task.word + i + first, load(reach.pattern + first));
        for (uint64_t left = touched; left; left &= left - 1) {
            const int64_t i = __builtin_ctzll(left), place = task.place[word * word_pixels + i - task.first];
            memcpy(task.word + i * C, task.currents + place * reach.width, C * sizeof(float));
        }
    }

    // All pixels of a word, as they lie in memory: no lane is idle. `current`: theirs, or null where nothing reaches them. Returns
    // which of them fire again if nothing arrives.
    OUT_OF_LINE uint64_t step_word(Task& task, int64_t word, const float* current) const {
        Parameters<Vec> p = shared_parameters<Model, Vec>(step.neuron);
        float* const v = session.states[k].v + (task.image * Model::states * step.P() + word * word_pixels) * step.C;
        const int64_t C = step.C, next = step.P() * C, period = reach.period, all = word_pixels * C;
        const bool waits = reach.waits;
        uint64_t again = 0;
        for (int64_t first = 0; first < period; first += Vec::width) {
            set_parameters(p, reach.pattern + period + first, period);
            const Vec bias = load(reach.pattern + first);
            for (int64_t i = first; i < all; i += period) {
                Vec state[Model::states];
                for (int s = 0; s < Model::states; s++) state[s] = load(v + i + s * next);
                uint32_t fired = bits(Model::step(state, current ? load(current + i) : bias, p).fires);
                for (int s = 0; s < Model::states; s++) store(v + i + s * next, state[s]);
                if (!fired && !waits) continue;
                for (; fired; fired &= fired - 1) {
                    const int64_t place = i + __builtin_ctz(fired), pixel = place / C;
                    task.out.fires(word * word_pixels + pixel, place - pixel * C);
                }
                for (uint32_t over = bits(state[0] >= p.theta); over; over &= over - 1)
                    again |= uint64_t(1) << (i + __builtin_ctz(over)) / C;
            }
        }
        return again;
    }

    static inline void set_parameters(Parameters<Vec>& p, const float* from, int64_t stride) {
        p.theta = load(from);
        if constexpr (channelwise<Model> > 1) p.decay = load(from + stride);
        if constexpr (channelwise<Model> > 2) p.third = load(from + 2 * stride);
        if constexpr (channelwise<Model> > 3) p.fourth = load(from + 3 * stride);
    }
};

static void run_scattered(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh) {
    const Step& step = session.plan.steps[k];
    State& state = session.states[k];
    FiredList& list = session.lists[k + 1];
    session.ways[k] = engine::ByScattering;
    if (fresh) begin_at_rest(session, k, N);
    else begin_marks(session, k);
    const bool by_words = !step.reach->waits || !state.is_settled, ascends = !by_words || step.reach->period <= Vec::width;
    if (state.is_looked_at) memset(state.alike, 0, N * step.P()), state.is_looked_at = false;
    const PixelBands bands(step.P(), N, session.threads);
    with_model(step.neuron, [&](auto model) {
        Scattered<decltype(model)> scattered(session, k, N, steps);
        using Work = decltype(scattered);
        share(session, N * bands.count, &scattered,
              [](void* given, int64_t task, int64_t thread) { ((const Work*)given)->run(task, thread); });
    });
    if (session.watch.over.load()) return;
    if (state.done) state.done[N * step.P()] += (uint32_t)steps, state.is_behind = true;
    state.is_settled = true;
    finish_list(list, bits_of(session, k + 1), bands, ascends);
}

}  // namespace PK_TARGET
