// Runs the operations of a plan one after another, for a segment of steps of some samples.
#pragma once
#include "operations.h"
#include "tasks.h"
#include "watch.h"

namespace PK_TARGET {

// Whether an operation's output is the same at each step. The maximum of sums grows evenly under held input, but only from
// rest.
static bool gives_held(const Session& session, const Op& op, bool fresh) {
    return !engine::changes_in_time(op.kind) && all_held(session, op) && (fresh || op.kind != engine::RunningMaxPool);
}

// Sets the views of all slots, including whether they are held or periodic. The view of the input is already set.
static void look_at_slots(Session& session, int64_t steps, bool fresh) {
    for (int64_t k = 0; k <= session.plan.count; k++) session.lists[k].is_listed = false, session.lists[k].has_bits = true;
    for (int64_t k = 0; k < session.plan.count; k++) {
        const Op& op = session.plan.ops[k];
        const int64_t frame = slot_bytes(op, session.real[k]);
        View& x = session.views[k + 1] = View{};
        if (session.real[k]) {
            x.values = (const float*)session.slots[k];
            x.step = op.P() * op.C, x.pixel = op.C;
        } else {
            x.spikes = (const uint8_t*)session.slots[k];
            x.step = frame, x.pixel = op.bytes();
        }
        x.image = steps * x.step;
        if (gives_held(session, op, fresh)) x.image = x.step, x.step = 0;
        x.scaled = op.passes_on();
        for (int64_t i = 0; i < op.count; i++) x.scaled &= session.views[op.windows[i].slot].scaled;
        x.periodic = fresh && op.kind == engine::Fire && !op.real && op.restarts && all_held(session, op);
    }
}

static void run_neurons(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh, bool goes_on) {
    const Op& op = session.plan.ops[k];
    const int64_t way = session.ways[k] = way_of(session, op, N, steps);
    if (way != engine::ByPatterns) return run_kernel(session, way, k, N, steps, fresh, goes_on);
    const bool alike = !op.is_layer || !session.neurons->start_pixel;  // whether all pixels start from the same states
    if (fresh) memset(session.states[k].alike, alike, N * op.P());
    for (int64_t start = 0; start < steps; start += most_pattern_steps) {
        const int64_t some = least(most_pattern_steps, steps - start);
        fire_steps(session, k, N, start, some, steps, fresh && !start, goes_on || start + some < steps);
    }
}

static void run_op(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh, bool goes_on) {
    switch (session.plan.ops[k].kind) {
        case engine::Fire: return run_neurons(session, k, N, steps, fresh, goes_on);
        case engine::Recur: return run_recurrent(session, k, N, steps, fresh);
        default: return run_between(session, k, N, steps, fresh, goes_on);
    }
}

// Runs all operations, unless the run is to end. `fresh`: starts from rest. `kept` and `tally`: as in Run. `goes_on`: the
// states of all operations are needed, whatever `kept` asks for. Calls show(k) right after operation k, since another operation
// may reuse its slot later.
template <class Show>
static void run_segment(Session& session, int64_t N, int64_t steps, bool fresh, bool goes_on, const engine::Kept* kept,
                        int64_t* tally, int64_t* took, Show show) {
    const bool is_sigma_delta = session.plan.is_sigma_delta();
    if (!is_sigma_delta) look_at_slots(session, steps, fresh);
    for (int64_t i = 0; i < session.threads; i++) session.scratch[i].key = -1;
    for (int64_t k = 0; k < session.plan.count && !session.watch.over.load(); k++, tally += engine::tallies) {
        for (int64_t i = 0; i < session.threads; i++) memset(session.scratch[i].tally, 0, sizeof session.scratch[i].tally);
        const auto run = is_sigma_delta ? run_sigma_delta : run_op;
        const int64_t began = took ? nanoseconds() : 0;
        if (is_sigma_delta || !run_listed(session, k, N, steps, fresh))
            run(session, k, N, steps, fresh, goes_on || (kept && kept[k].v));
        for (int64_t i = 0; i < session.threads && session.counts; i++)
            for (int64_t j = 0; j < engine::tallies; j++) tally[j] += session.scratch[i].tally[j];
        if (took) took[k] += nanoseconds() - began;
        show(k);
    }
}

}  // namespace PK_TARGET
