// Runs the operations between neurons: pooling, reshaping, moves, delays and products.
#include "pools_and_moves.h"
#include "products.h"
#include "tasks.h"

namespace PK_TARGET {

// Delays give each channel a number of steps of its own; their output before the start is zero. The state holds the most recent
// inputs, [N, steps, P, C], oldest first.

// Whether the channels [first, last), which share a byte, all have the same delay.
static inline bool delayed_as_one(const Op& op, int64_t first, int64_t last) {
    for (int64_t c = first; c < last; c++)
        if (op.delays[c] != op.delays[first]) return false;
    return true;
}

static void delay_spikes(const Op& op, const View& from, const float* past, char* slot, const StepSpan& s) {
    const int64_t P = op.P(), bytes = op.bytes();
    for (int64_t byte = 0; byte < bytes; byte++) {
        const int64_t first = 8 * byte, last = least(first + 8, op.C);
        const bool as_one = delayed_as_one(op, first, last);
        for (int64_t t = s.t0; t < s.t1; t++) {
            uint8_t* const to = (uint8_t*)s.of(slot, t) + byte;
            for (int64_t p = 0; p < P; p++) {
                uint8_t fired = 0;
                if (as_one && t >= op.delays[first]) fired = from.spikes_at(s.image, t - op.delays[first], p)[byte];
                else
                    for (int64_t c = first; c < last; c++) {
                        const int64_t then = t - op.delays[c];
                        const bool fires = then >= 0 ? from.spikes_at(s.image, then, p)[byte] >> c % 8 & 1
                                                     : past[((op.states + then) * P + p) * op.C + c] != 0;
                        fired |= (uint8_t)(fires << c % 8);
                    }
                to[p * bytes] = fired;
            }
        }
    }
}

static void delay_values(const Op& op, const View& from, const float* past, char* slot, const StepSpan& s) {
    const int64_t P = op.P();
    for (int64_t t = s.t0; t < s.t1; t++)
        for (int64_t p = 0; p < P; p++)
            for (int64_t c = 0; c < op.C; c++) {
                const int64_t then = t - op.delays[c];
                ((float*)s.of(slot, t))[p * op.C + c] = then >= 0 ? from.values_at(s.image, then, p)[c * from.channel]
                                                                  : past[((op.states + then) * P + p) * op.C + c];
            }
}

// Updates the state of an image after a segment of `steps` steps.
static void keep_past(const Op& op, const View& from, float* past, int64_t image, int64_t steps) {
    const int64_t P = op.P(), frame = P * op.C;
    for (int64_t i = 0; i < op.states; i++) {
        const int64_t then = i + steps - op.states;
        float* const to = past + i * frame;
        if (then < 0) {
            memcpy(to, past + (i + steps) * frame, frame * sizeof(float));
            continue;
        }
        for (int64_t p = 0; p < P; p++)
            for (int64_t c = 0; c < op.C; c++)
                to[p * op.C + c] = from.spikes ? (float)(from.spikes_at(image, then, p)[c / 8] >> c % 8 & 1)
                                               : from.values_at(image, then, p)[c * from.channel];
    }
}

// An operation without neurons. A task is a part of one image: some of its steps, or some of its rows if sums over time are
// states.
struct Between {
    const Op& op;
    const Session& session;
    int64_t k, steps, parts;
    bool few_from_rest;  // few steps from rest, for which sums need not be kept

    bool adds_up() const { return op.states && op.kind != engine::Delay; }
    void run(int64_t task, int64_t thread) const {
        const int64_t along = adds_up() ? op.H : steps, image = task / parts, part = task % parts;
        const int64_t first = along * part / parts, last = along * (part + 1) / parts;
        const View* const views = session.views;
        const View& from = views[op.windows[0].slot];
        char* const slot = session.slots[k];
        const int64_t frame = slot_bytes(op, session.real[k]);
        const StepSpan all{image, 0, steps, steps, frame}, some{image, first, last, steps, frame};
        switch (op.kind) {
            case engine::MaxPool: return max_pool(op, from, slot, some);
            case engine::AveragePool: return average_pool(op, from, slot, some);
            case engine::Flatten: return flatten_image(op, from, slot, some);
            case engine::Unflatten: return unflatten_image(op, from, slot, some);
            case engine::Move: return session.real[k] ? move_values(op, views, slot, some) : move_spikes(op, views, slot, some);
            case engine::Attention: return attend(op, from, slot, some, (float*)session.scratch[thread].window_sums);
            case engine::Multiply: return multiply_slots(op, views, slot, session.real[k], some);
            case engine::Delay: {
                const float* const past = session.states[k].v + image * op.state_size;
                return session.real[k] ? delay_values(op, from, past, slot, some) : delay_spikes(op, from, past, slot, some);
            }
            case engine::MaxRatePool:
                if (few_from_rest)
                    return (steps > 4   ? grow_from_rest<most_levels>
                            : steps > 2 ? grow_from_rest<4>
                                        : grow_from_rest<2>)(op, from, slot, all, first, last);
                [[fallthrough]];
            default: max_sum_pool(op, from, session.states[k].v, slot, all, first, last, session.scratch[thread].window_sums);
        }
    }
};

// Steps of an image run independently; with sums as states, bands of rows do.
void run_between(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh, bool goes_on) {
    const Op& op = session.plan.ops[k];
    const bool few_from_rest = op.kind == engine::MaxRatePool && fresh && steps <= most_levels && !session.real[k] &&
                               session.views[op.windows[0].slot].spikes;
    if (op.states && fresh && (goes_on || !few_from_rest)) memset(session.states[k].v, 0, N * op.state_size * sizeof(float));
    Between between{op, session, k, session.views[k + 1].held() ? 1 : steps, 1, few_from_rest};
    if (session.threads > 1)
        between.parts = least(between.adds_up() ? op.H : between.steps, ceil_div(4 * session.threads, most(N, 1)));
    share(session, N * between.parts, &between,
          [](void* given, int64_t task, int64_t thread) { ((const Between*)given)->run(task, thread); });
    between.steps = steps;  // sums take all steps, even if the output is held
    if (op.states && goes_on)
        share(session, N, &between, [](void* given, int64_t image, int64_t) {
            const Between& b = *(const Between*)given;
            const View& from = b.session.views[b.op.windows[0].slot];
            float* const v = b.session.states[b.k].v;
            if (b.adds_up()) add_up(b.op, from, v, image, b.steps);
            else keep_past(b.op, from, v + image * b.op.state_size, image, b.steps);
        });
    if (op.kind != engine::MaxRatePool && op.kind != engine::Delay) return;
    const int64_t bytes = N * steps * slot_bytes(op, session.real[k]);
    int64_t& spikes = session.scratch[0].tally[0];
    if (!session.real[k]) spikes += count_bits((const uint8_t*)session.slots[k], bytes);
    else  // the values may be spikes times a scale
        for (int64_t i = 0; i < bytes / (int64_t)sizeof(float); i++) spikes += ((const float*)session.slots[k])[i] != 0;
}

}  // namespace PK_TARGET
