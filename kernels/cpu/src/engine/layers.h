// The operations of a plan, one after another, for a segment of steps of some samples.
#pragma once
#include "changes_between.h"
#include "choice.h"
#include "delay.h"
#include "fire.h"
#include "listed.h"
#include "recurrent.h"

namespace PK_TARGET {

static bool all_held(const Session& session, const Step& step) {
    for (int64_t i = 0; i < step.count; i++)
        if (!session.views[step.windows[i].slot].held()) return false;
    return true;
}

// Whether what an operation gives is the same at each step. Maxima of sums grow evenly from rest on.
static bool gives_held(const Session& session, const Step& step, bool fresh) {
    if (step.kind == engine::Fire || step.kind == engine::Recur || step.kind == engine::MaxRatePool ||
        step.kind == engine::Delay)
        return false;
    return all_held(session, step) && (fresh || step.kind != engine::RunningMaxPool);
}

// What the slots hold, and whether at each step; that of the input is set.
static void look_at_slots(Session& session, int64_t steps, bool fresh) {
    for (int64_t k = 0; k <= session.plan.count; k++) session.lists[k].is_listed = false, session.lists[k].has_bits = true;
    for (int64_t k = 0; k < session.plan.count; k++) {
        const Step& step = session.plan.steps[k];
        const int64_t frame = slot_bytes(step, session.real[k]);
        View& x = session.views[k + 1] = View{};
        if (session.real[k]) {
            x.values = (const float*)session.slots[k];
            x.step = step.P() * step.C, x.pixel = step.C;
        } else {
            x.spikes = (const uint8_t*)session.slots[k];
            x.step = frame, x.pixel = step.bytes();
        }
        x.image = steps * x.step;
        if (gives_held(session, step, fresh)) x.image = x.step, x.step = 0;
        x.scaled = step.passes_on();
        for (int64_t i = 0; i < step.count; i++) x.scaled &= session.views[step.windows[i].slot].scaled;
        x.periodic = fresh && step.kind == engine::Fire && !step.real && step.restarts && all_held(session, step);
    }
}

// Neurons by a kernel of ../conv2d, for all steps of a segment. `keeps`: whether it is to write their states.
template <class Kernel>
static void run_kernel(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh, bool keeps = true) {
    const Step& step = session.plan.steps[k];
    const View& x = session.views[step.windows[step.weighted].slot];
    Neurons neurons = neurons_of(session, k, N, steps, fresh);
    neurons.spikes = (uint8_t*)session.slots[k];
    if (!keeps) neurons.v = nullptr;
    const uint8_t* shortcut = step.count > 1 ? session.views[step.windows[1 - step.weighted].slot].spikes : nullptr;
    const Kernel kernel(step, neurons, x, shortcut, session.threads);
    memset(session.states[k].alike, 0, N * step.P());  // nobody has looked
    struct Context {
        const Kernel& kernel;
        const View& x;
        Scratch* scratch;
    } context{kernel, x, session.scratch};
    share(session, kernel.tasks(), &context, [](void* given, int64_t task, int64_t thread) {
        const Context& c = *(const Context*)given;
        c.kernel.run(c.x, task, c.scratch[thread].kernel, c.scratch[thread].tally);
    });
}

// Some steps of a segment that has all_steps, as many as patterns have bits.
static void fire_steps(Session& session, int64_t k, int64_t N, int64_t start, int64_t steps, int64_t all_steps, bool fresh,
                       bool goes_on) {
    const Step& step = session.plan.steps[k];
    const Tasks cut(step, N, steps, session.threads, all_held(session, step));
    session.serial++;
    with_model(step.neuron, [&](auto model) {
        struct Context {
            Session& session;
            const Step& step;
            const Tasks& cut;
            int64_t k;
            int64_t start, all_steps;
            bool fresh, goes_on;
        } context{session, step, cut, k, start, all_steps, fresh, goes_on};
        share(session, cut.count(), &context, [](void* given, int64_t task, int64_t thread) {
            const Context& c = *(const Context*)given;
            Firing<decltype(model)>(c.session, c.step, c.cut, c.k, c.start, c.all_steps, c.fresh, c.goes_on).run(task, thread);
        });
    });
}

static void run_neurons(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh, bool goes_on) {
    const Step& step = session.plan.steps[k];
    switch (session.ways[k] = way_of(session, step, N, steps)) {
        case engine::ByDepthwise: return run_kernel<Depthwise>(session, k, N, steps, fresh);
        case engine::BySlices: return run_kernel<Sliced>(session, k, N, steps, fresh);
        case engine::ByTables: return run_kernel<LookedUp>(session, k, N, steps, fresh);
        case engine::ByTiles: return run_kernel<Tiled>(session, k, N, steps, fresh);
        case engine::ByPixelTiles: return run_kernel<PixelTiled>(session, k, N, steps, fresh, goes_on);
        default: break;
    }
    if (fresh) memset(session.states[k].alike, 1, N * step.P());
    for (int64_t start = 0; start < steps; start += most_pattern_steps) {
        const int64_t some = least(most_pattern_steps, steps - start);
        fire_steps(session, k, N, start, some, steps, fresh && !start, goes_on || start + some < steps);
    }
}

// An operation without neurons: what it reads, and where it writes. A task is a part of an image: of its steps, or of its
// rows where sums are states.
struct Between {
    const Step& step;
    const Session& session;
    int64_t k, steps, parts;

    bool adds_up() const { return step.states && step.kind != engine::Delay; }
    void run(int64_t task, int64_t thread) const {
        const int64_t along = adds_up() ? step.H : steps, image = task / parts, part = task % parts;
        const int64_t first = along * part / parts, last = along * (part + 1) / parts;
        const View* const views = session.views;
        const View& from = views[step.windows[0].slot];
        char* const slot = session.slots[k];
        const int64_t frame = slot_bytes(step, session.real[k]);
        const Steps all{image, 0, steps, steps, frame}, some{image, first, last, steps, frame};
        switch (step.kind) {
            case engine::MaxPool: return max_pool(step, from, slot, some);
            case engine::AveragePool: return average_pool(step, from, slot, some);
            case engine::Flatten: return flatten_image(step, from, slot, some);
            case engine::Unflatten: return unflatten_image(step, from, slot, some);
            case engine::Move:
                return session.real[k] ? move_values(step, views, slot, some) : move_spikes(step, views, slot, some);
            case engine::Delay: {
                const float* const past = session.states[k].v + image * step.state_size;
                return session.real[k] ? delay_values(step, from, past, slot, some)
                                       : delay_spikes(step, from, past, slot, some);
            }
            default: max_sum_pool(step, from, session.states[k].v, slot, all, first, last, session.scratch[thread].window_sums);
        }
    }
};

// What stands between neurons: each step of each image by itself, or with states each image, in bands of rows.
static void run_between(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh, bool goes_on) {
    const Step& step = session.plan.steps[k];
    if (step.states && fresh) memset(session.states[k].v, 0, N * step.state_size * sizeof(float));
    Between between{step, session, k, session.views[k + 1].held() ? 1 : steps, 1};
    if (session.threads > 1)
        between.parts = least(between.adds_up() ? step.H : between.steps, ceil_div(4 * session.threads, most(N, 1)));
    share(session, N * between.parts, &between,
          [](void* given, int64_t task, int64_t thread) { ((const Between*)given)->run(task, thread); });
    between.steps = steps;  // of the sums, also where what is given is held
    if (step.states && goes_on)
        share(session, N, &between, [](void* given, int64_t image, int64_t) {
            const Between& b = *(const Between*)given;
            const View& from = b.session.views[b.step.windows[0].slot];
            float* const v = b.session.states[b.k].v;
            if (b.adds_up()) add_up(b.step, from, v, image, b.steps);
            else keep_past(b.step, from, v + image * b.step.state_size, image, b.steps);
        });
    if (step.kind == engine::MaxRatePool || (step.kind == engine::Delay && !session.real[k]))
        session.scratch[0].tally[0] += count_bits((const uint8_t*)session.slots[k], N * steps * slot_bytes(step));
}

static void run_step(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh, bool goes_on) {
    switch (session.plan.steps[k].kind) {
        case engine::Fire: return run_neurons(session, k, N, steps, fresh, goes_on);
        case engine::Recur: return run_recurrent(session, k, N, steps, fresh);
        default: return run_between(session, k, N, steps, fresh, goes_on);
    }
}

// All operations, unless the run is to end; `fresh`: from rest. `kept` and `tally`: as Run has them. `goes_on`: whether the
// states of all operations are wanted, whatever `kept` asks for.
static void run_segment(Session& session, int64_t N, int64_t steps, bool fresh, bool goes_on, const engine::Kept* kept,
                        int64_t* tally) {
    const bool changes = session.plan.changes();
    if (!changes) look_at_slots(session, steps, fresh);
    for (int64_t i = 0; i < session.threads; i++) session.scratch[i].key = -1;
    for (int64_t k = 0; k < session.plan.count && !session.watch.over.load(); k++, tally += engine::tallies) {
        for (int64_t i = 0; i < session.threads; i++) memset(session.scratch[i].tally, 0, sizeof session.scratch[i].tally);
        const auto run = changes ? run_change : run_step;
        if (changes || !run_listed(session, k, N, steps, fresh))
            run(session, k, N, steps, fresh, goes_on || (kept && kept[k].v));
        for (int64_t i = 0; i < session.threads; i++)
            for (int64_t j = 0; j < engine::tallies; j++) tally[j] += session.scratch[i].tally[j];
    }
}

}  // namespace PK_TARGET
