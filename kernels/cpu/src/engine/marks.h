// Bookkeeping of a scattered layer (scatter.cpp): which pixels fire again without input, and how many steps each pixel has done.
// If only decay or biases change the potentials, a pixel is not updated at each step but catches up when it is next read.
#pragma once
#include "session.h"

namespace PK_TARGET {

static int64_t pixel_words(const Op& op) { return ceil_div(op.P(), word_pixels); }

// Number of step counters per image: one per pixel if potentials decay, one per word of 64 pixels if biases move them.
static int64_t counted_places(const Op& op) {
    if (!op.reach) return 0;
    if (op.reach->drifts) return pixel_words(op);
    return op.reach->waits && op.reach->leaks ? op.P() : 0;
}

// Updates a pixel's potentials for `steps` steps without input. Multiplies once per step, to round like a step does.
static inline void decay_pixel(const Op& op, float* v, uint32_t steps) {
    const float* const decay = op.neuron.channels + op.neuron.stride;
    for (int64_t c = 0; c < op.C && steps; c += Vec::width) {
        const int n = (int)least(Vec::width, op.C - c);
        const Vec factor = load(decay + c), zero = broadcast(0.0f);
        Vec now = load_first(v + c, n);
        for (uint32_t i = 0; i < steps; i++) {
            const Vec next = zero + factor * now;
            const uint32_t same = bits(next >= now) & bits(now >= next);
            now = next;
            if (same == (1u << (Vec::width - 1) << 1) - 1) break;
        }
        store_first(v + c, now, n);
    }
}

// Updates the potentials of a word of pixels for `steps` steps in which only biases were added and no neuron fired.
static inline void drift_word(const Op& op, float* v, uint32_t steps) {
    constexpr int together = 4;  // registers; word_pixels is a multiple of it
    const Reach& reach = *op.reach;
    for (int64_t first = 0; first < reach.period && steps; first += Vec::width) {
        const Vec bias = load(reach.pattern + first);
        for (int64_t i = first; i < word_pixels * op.C;
             i += together * reach.period) {  // several accumulators hide the latency of the addition
            float* const at = v + i;
            Vec now[together];
            each<together>([&](auto k) { now[k] = load(at + k * reach.period); });
            for (uint32_t t = 0; t < steps; t++) each<together>([&](auto k) { now[k] = now[k] + bias; });
            each<together>([&](auto k) { store(at + k * reach.period, now[k]); });
        }
    }
}

// Updates all states of layer k to the current step.
static void catch_up(const Session& session, int64_t k) {
    LayerState& state = session.states[k];
    if (!state.is_behind) return;
    const Op& op = session.plan.ops[k];
    const int64_t places = counted_places(op), all = session.state_N * places;
    const uint32_t now = state.done[all];
    for (int64_t i = 0; i < all; i++) {
        if (op.reach->drifts)
            drift_word(op, state.v + (i / places * op.P() + i % places * word_pixels) * op.C, now - state.done[i]);
        else decay_pixel(op, state.v + i * op.C, now - state.done[i]);
        state.done[i] = now;
    }
    state.is_behind = false;
}
static void catch_up(const Session& session) {
    for (int64_t k = 0; k < session.plan.count; k++) catch_up(session, k);
}

// Discards the bookkeeping of a layer, because its states were written or restored. The states are up to date.
static void forget(LayerState& state) { state.is_behind = state.is_marked = state.is_settled = false; }

// Clears the marks and counters of a layer, unless they are in use.
static void begin_marks(const Session& session, int64_t k) {
    LayerState& state = session.states[k];
    const Op& op = session.plan.ops[k];
    const int64_t N = session.state_N;
    constexpr uint32_t far = 1u << 31;  // well before step counters wrap around
    const int64_t counted = N * counted_places(op);
    if (state.is_marked && state.done && state.done[counted] > far) catch_up(session, k), forget(state);
    if (state.is_marked) return;
    memset(state.again, 0, N * pixel_words(op) * sizeof *state.again);
    if (state.done) memset(state.done, 0, (counted + 1) * sizeof *state.done);
    if (state.due) memset(state.due, 0, counted * sizeof *state.due);
    forget(state);
    state.is_marked = true;
}

// Sets all neurons of a layer to rest.
static void begin_at_rest(const Session& session, int64_t k, int64_t N) {
    LayerState& state = session.states[k];
    const Op& op = session.plan.ops[k];
    bool zeros = true, waits = true;
    for (int64_t i = 0; i < op.states * op.C; i++) zeros &= op.neurons.start[i] == 0;
    for (int64_t c = 0; c < op.C; c++) waits &= op.neurons.start[c] < op.neuron.channels[c];
    if (zeros) memset(state.v, 0, N * op.state_size * sizeof(float));
    for (int64_t i = 0; i < N * op.states * op.P() && !zeros; i++)
        memcpy(state.v + i * op.C, op.neurons.start + i / op.P() % op.states * op.C, op.C * sizeof(float));
    forget(state);
    begin_marks(session, k);
    state.is_settled = waits;
}

}  // namespace PK_TARGET
