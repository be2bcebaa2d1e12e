// What a scattered layer knows of its pixels besides their states (scatter.h): which fire again if nothing arrives, and how many
// steps each has done, where potentials decay, or biases move them, and are caught up with when somebody looks at them.
#pragma once
#include "slot_lists.h"

namespace PK_TARGET {

static int64_t pixel_words(const Step& step) { return ceil_div(step.P(), word_pixels); }

// Of an image, what is left behind by itself: pixels whose potentials decay, or words of pixels that biases move.
static int64_t counted_places(const Step& step) {
    if (!step.reach) return 0;
    if (step.reach->drifts) return pixel_words(step);
    return step.reach->waits && step.reach->leaks ? step.P() : 0;
}

// Catches a pixel's potentials up with so many steps in which nothing arrived: multiplied once for each.
static inline void decay_pixel(const Step& step, float* v, uint32_t steps) {
    const float* const decay = step.neuron.channels + step.neuron.stride;
    for (int64_t c = 0; c < step.C && steps; c += Vec::width) {
        const int n = (int)least(Vec::width, step.C - c);
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

// Catches the potentials of a whole word of pixels up with so many steps in which nothing arrived but biases, and nothing fired.
static inline void drift_word(const Step& step, float* v, uint32_t steps) {
    constexpr int together = 4;  // registers; word_pixels is a multiple of so many of them
    const Reach& reach = *step.reach;
    for (int64_t first = 0; first < reach.period && steps; first += Vec::width) {
        const Vec bias = load(reach.pattern + first);
        for (int64_t i = first; i < word_pixels * step.C;
             i += together * reach.period) {  // each addition waits for the one before
            float* const at = v + i;
            Vec now[together];
            each<together>([&](auto k) { now[k] = load(at + k * reach.period); });
            for (uint32_t t = 0; t < steps; t++) each<together>([&](auto k) { now[k] = now[k] + bias; });
            each<together>([&](auto k) { store(at + k * reach.period, now[k]); });
        }
    }
}

// Of a layer whose pixels were left behind: all of its states are as they are after the steps so far.
static void catch_up(const Session& session, int64_t k) {
    State& state = session.states[k];
    if (!state.is_behind) return;
    const Step& step = session.plan.steps[k];
    const int64_t places = counted_places(step), all = session.state_N * places;
    const uint32_t now = state.done[all];
    for (int64_t i = 0; i < all; i++) {
        if (step.reach->drifts)
            drift_word(step, state.v + (i / places * step.P() + i % places * word_pixels) * step.C, now - state.done[i]);
        else decay_pixel(step, state.v + i * step.C, now - state.done[i]);
        state.done[i] = now;
    }
    state.is_behind = false;
}
static void catch_up(const Session& session) {
    for (int64_t k = 0; k < session.plan.count; k++) catch_up(session, k);
}

// What is known of neurons besides their states is no longer so: states were written, or put back. They are not behind.
static void forget(State& state) { state.is_behind = state.is_marked = state.is_settled = false; }

// Makes ready what marks the pixels of a layer.
static void begin_marks(const Session& session, int64_t k) {
    State& state = session.states[k];
    const Step& step = session.plan.steps[k];
    const int64_t N = session.state_N;
    constexpr uint32_t far = 1u << 31;  // long before numbers of steps begin again
    const int64_t counted = N * counted_places(step);
    if (state.is_marked && state.done && state.done[counted] > far) catch_up(session, k), forget(state);
    if (state.is_marked) return;
    memset(state.again, 0, N * pixel_words(step) * sizeof *state.again);
    if (state.done) memset(state.done, 0, (counted + 1) * sizeof *state.done);
    if (state.due) memset(state.due, 0, counted * sizeof *state.due);
    forget(state);
    state.is_marked = true;
}

// Puts all neurons of a layer at rest.
static void begin_at_rest(const Session& session, int64_t k, int64_t N) {
    State& state = session.states[k];
    const Step& step = session.plan.steps[k];
    bool zeros = true, waits = true;
    for (int64_t i = 0; i < step.states * step.C; i++) zeros &= step.start[i] == 0;
    for (int64_t c = 0; c < step.C; c++) waits &= step.start[c] < step.neuron.channels[c];
    if (zeros) memset(state.v, 0, N * step.state_size * sizeof(float));
    for (int64_t i = 0; i < N * step.states * step.P() && !zeros; i++)
        memcpy(state.v + i * step.C, step.start + i / step.P() % step.states * step.C, step.C * sizeof(float));
    forget(state);
    begin_marks(session, k);
    state.is_settled = waits;
}

}  // namespace PK_TARGET
