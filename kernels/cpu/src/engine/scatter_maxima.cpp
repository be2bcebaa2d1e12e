// Neurons on the largest currents of a convolution, under the windows of a pooling (Op.maxima). Step by step, what is not 0 in
// the input adds its rows of weights to the currents of the pixels that it reaches, which stay in a cache; then each neuron takes
// the largest one of its window. A task is a band of rows of one image.
#include "../sigma_delta/codes.h"
#include "convolution.h"
#include "tasks.h"

namespace PK_TARGET {

struct MaximaBands {
    const int64_t rows, count;  // output rows of a band; bands of an image
    MaximaBands(const Op& pool, int64_t N, int64_t threads)
        : rows(ceil_div(pool.H, threads > 1 ? least(pool.H, ceil_div(2 * threads, N)) : 1)), count(ceil_div(pool.H, rows)) {}

    // Floats of the currents of a band.
    int64_t room(const Op& conv, const Op& pool) const {
        const Pooling windows = pooling_of(pool);
        return least(conv.H, rows * windows.stride_h + windows.kernel_h) * conv.W * conv.C;
    }
};

struct ScatteredMaxima {
    Session& session;
    const Op &op, &conv, &pool;
    const Reach& reach;
    const Pooling windows;
    const MaximaBands bands;
    const View x;
    const Neurons n;
    const int64_t steps;
    float* const last_currents;  // [N, P of the convolution, C], written; or null
    void (*const fire)(const ScatteredMaxima&, const float* currents, int64_t image, int64_t t, int64_t first, int64_t last,
                       int64_t* tally);

    void run(int64_t task, int64_t thread) const {
        Scratch& s = session.scratch[thread];
        const int64_t image = task / bands.count, first = task % bands.count * bands.rows;
        const int64_t last = least(first + bands.rows, pool.H), C = conv.C, W = conv.W;
        const int64_t row0 = first ? windows.row_of(first, pool.H) : 0, row1 = windows.row_of(last, pool.H);
        const int64_t size = (row1 - row0) * W * C;
        float* const currents = (float*)s.kernel;
        PK_ASSERT(size <= bands.room(conv, pool));
        for (int64_t t = 0; t < steps; t++) {
            memset(currents, 0, size * sizeof(float));
            int64_t added = 0;
            if (C % Vec::width == 0) added = add_input<Vec::width>(image, t, row0, row1, currents);
            else if (C % 8 == 0) added = add_input<8>(image, t, row0, row1, currents);
            else if (C % 4 == 0) added = add_input<4>(image, t, row0, row1, currents);
            else added = add_input<1>(image, t, row0, row1, currents);
            if (x.spikes || x.scaled) s.tally[1] += added * C;
            fire(*this, currents - row0 * W * C, image, t, first, last, s.tally);
        }
        float* const kept = last_currents ? last_currents + (image * conv.H + row0) * W * C : nullptr;
        for (int64_t i = 0; i < size && kept; i++) kept[i] = currents[i] + conv.neurons.bias[i % C];
    }

private:
    // Adds the input of step t to the rows [row0, row1) of the currents; returns how many pixels were reached.
    template <int lanes>
    OUT_OF_LINE int64_t add_input(int64_t image, int64_t t, int64_t row0, int64_t row1, float* currents) const {
        const Window& w = conv.windows[0];
        const int64_t C = conv.C, W = conv.W, channel_weights = w.kernel_w * C;
        const int64_t top = row0 * w.stride_h - w.padding_h;
        const int64_t bottom = (row1 - 1) * w.stride_h - w.padding_h + (w.kernel_h - 1) * w.dilation_h + 1;
        int64_t added = 0;
        for (int64_t y = most(top, 0); y < least(bottom, w.H); y++) {
            const Reached *first = reach.rows.reached + reach.rows.first[y],
                          *last = reach.rows.reached + reach.rows.first[y + 1];
            while (first < last && first->at < row0) first++;
            while (first < last && last[-1].at >= row1) last--;
            if (first == last) continue;
            each_input(image, t, y, [&](int64_t column, int64_t channel, auto value) {
                const Reached* const begin = reach.columns.reached + reach.columns.first[column];
                const Reached* const end = reach.columns.reached + reach.columns.first[column + 1];
                const float* const weights = reach.weights + channel * channel_weights;
                for (const Reached* row = first; row < last; row++)
                    for (const Reached* run = begin; run < end; run++) {
                        float* const to = currents + ((row->at - row0) * W + run->at) * C;
                        add_row<lanes>(weights + row->weights + run->weights, value, to, run->n * C);
                        added += run->n;
                    }
            });
        }
        return added;
    }

    struct One {};
    template <class V>
    static inline V times(V weights, One) {
        return weights;
    }
    template <class V>
    static inline V times(V weights, float value) {
        return weights * value;
    }

    template <int lanes, class Value>
    static inline void add_row(const float* from, Value value, float* to, int64_t n) {
        typedef float Lanes __attribute__((vector_size(4 * lanes)));
        for (int64_t i = 0; i < n; i += lanes) {
            Lanes sum, row;
            memcpy(&sum, to + i, sizeof sum), memcpy(&row, from + i, sizeof row);
            sum += times(row, value);
            memcpy(to + i, &sum, sizeof sum);
        }
    }

    // Calls visit(column, channel, value) for what is not 0 in a row of the input.
    template <class Visit>
    inline void each_input(int64_t image, int64_t t, int64_t y, Visit visit) const {
        const Window& w = conv.windows[0];
        if (x.spikes) {
            const uint8_t* const row = x.spikes_at(image, t, y * w.W);
            const uint32_t bytes = (uint32_t)x.pixel;
            for (int64_t i = 0; i < w.W * x.pixel; i += 8)
                for (uint64_t word = load_bits(row + i, least(8, w.W * x.pixel - i)); word; word &= word - 1) {
                    const uint32_t bit = (uint32_t)__builtin_ctzll(word), byte = (uint32_t)i + bit / 8;
                    const uint32_t column = bytes == 1 ? byte : byte / bytes;
                    visit((int64_t)column, (int64_t)((byte - column * bytes) * 8 + bit % 8), One{});
                }
            return;
        }
        const bool planes = x.channel != 1;  // each channel is an image of its own
        for (int64_t i = 0; i < (planes ? w.C : w.W); i++) {
            const float* const values = x.values_at(image, t, y * w.W) + i * (planes ? x.channel : x.pixel);
            const int64_t n = planes ? w.W : w.C;
            for (int64_t from = 0; from < n; from += 64)
                for (uint64_t found = not_zero(values + from, least(64, n - from)); found; found &= found - 1) {
                    const int64_t at = from + __builtin_ctzll(found);
                    visit(planes ? at : i, planes ? i : at, values[at]);
                }
        }
    }
};

// Runs the neurons of the output rows [first, last) for one step. `currents`: of the convolution, from its first row on.
template <class Model>
static void fire_maxima_as(const ScatteredMaxima& s, const float* currents, int64_t image, int64_t t, int64_t first,
                           int64_t last, int64_t* tally) {
    const Neurons n = s.n;  // copies: the compiler cannot rule out that storing spikes changes the originals
    const Pooling windows = s.windows;
    const int64_t bytes = (n.C + 7) / 8, W = s.pool.W, W_in = s.conv.W;
    int64_t spikes = 0;
    for (int64_t channel = 0; channel < n.C; channel += row) {
        const int count = (int)least(row, n.C - channel);
        const NeuronBlock<Model, row> neurons(n.neuron, channel);
        const Row bias = load_block<row>(s.conv.neurons.bias + channel);
        for (int64_t y = first; y < last; y++)
            for (int64_t x = 0; x < W; x++) {
                const int64_t pixel = y * W + x;
                Row largest = broadcast_block<row>(-INFINITY);
                windows.each_under(y, x, [&](int64_t i, int64_t k) {
                    const Row current = load_block<row>(currents + (i * W_in + k) * n.C + channel, count);
                    for (int v = 0; v < Row::vecs; v++) largest.v[v] = greater(current.v[v], largest.v[v]);
                });
                add(largest, bias);
                NeuronStates<Model::states, row> state;
                load_states<Model>(state, n, t, image, pixel, channel, count);
                const uint32_t fired = step_block(neurons, state, largest) & ((1u << count) - 1);
                store_spikes<row>(n.spikes + ((image * n.T + t) * n.P + pixel) * bytes + channel / 8, fired, count);
                store_states(states_of<Model>(n, image, pixel, channel), n, state, count);
                spikes += __builtin_popcount(fired);
            }
    }
    tally[0] += spikes;
}

int64_t scattered_maxima_room(const Op& op, const Plan& plan, int64_t N, int64_t threads) {
    const Op &conv = plan.ops[op.maxima->conv], &pool = plan.ops[op.maxima->pool];
    return op.maxima->op.reach ? MaximaBands(pool, N, threads).room(conv, pool) * (int64_t)sizeof(float) : 0;
}

void scatter_maxima(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh, bool keeps_currents) {
    const Op& op = session.plan.ops[k];
    const Op &conv = session.plan.ops[op.maxima->conv], &pool = session.plan.ops[op.maxima->pool];
    Neurons neurons = neurons_of(session, k, N, steps, fresh);
    neurons.spikes = (uint8_t*)session.slots[k];
    with_model(op.neuron, [&](auto model) {
        const ScatteredMaxima work{session,
                                   op,
                                   conv,
                                   pool,
                                   *op.maxima->op.reach,
                                   pooling_of(pool),
                                   MaximaBands(pool, N, session.threads),
                                   session.views[conv.windows[0].slot],
                                   neurons,
                                   steps,
                                   keeps_currents ? session.states[op.maxima->conv].v : nullptr,
                                   fire_maxima_as<decltype(model)>};
        share(session, N * work.bands.count, (void*)&work,
              [](void* given, int64_t task, int64_t thread) { ((const ScatteredMaxima*)given)->run(task, thread); });
    });
}

}  // namespace PK_TARGET
