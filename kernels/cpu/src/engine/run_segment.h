// Runs the operations of a plan one after another, for a segment of steps of some samples.
#pragma once
#include "tasks.h"
#include "memory.h"

namespace PK_TARGET {

constexpr int64_t most_steps = 64;    // per segment: more read weights less often, fewer stay in the cache

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
    const bool behind_tiles = way == engine::ByPixelTiles && takes_tile_currents(session, op, steps);
    if (way != engine::ByPatterns && way != engine::ByValues && !behind_tiles)
        return run_kernel(session, way, k, N, steps, fresh, goes_on);
    const bool alike = !op.is_layer || !session.neurons->start_pixel;  // whether all pixels start from the same states
    if (fresh) memset(session.states[k].alike, alike, N * op.P());
    if (behind_tiles) return fire_tile_currents(session, k, N, steps, fresh, goes_on);
    for (int64_t start = 0; start < steps; start += most_pattern_steps) {
        const int64_t some = least(most_pattern_steps, steps - start);
        fire_steps(session, k, N, start, some, steps, fresh && !start, goes_on || start + some < steps);
    }
}

static bool keeps_currents(const Run& run, int64_t conv) { return run.goes_on || (run.kept && run.kept[conv].v); }

// Whether the neurons behind a convolution and a pooling take the largest currents without writing them: if nobody asks for what
// the two give, and if the input is not held.
static bool is_within(const Session& session, const Run& run, int64_t conv, int64_t N, int64_t steps) {
    const Op& op = session.plan.ops[session.plan.ops[conv].maxima_of];
    const View& x = session.views[session.plan.ops[conv].windows[0].slot];
    for (const int64_t k : {conv, op.maxima->pool})
        if (run.shown && (run.shown[k].values || run.shown[k].spikes)) return false;
    if (x.held() || x.periodic || steps > most_steps) return false;
    return !keeps_currents(run, conv) || scatters_maxima(session, op, N, steps);
}

// Runs neurons with the convolution and the pooling before them.
static void run_maxima(Session& session, const Run& run, int64_t k, int64_t N, int64_t steps, bool fresh, bool goes_on) {
    const Op& op = session.plan.ops[k];
    const int64_t conv = op.maxima->conv;
    memset(session.states[k].alike, 0, N * op.P());
    session.ways[conv] = engine::ByPixelTiles;
    if (!keeps_currents(run, conv) && tiles_maxima(session, op, N, steps))
        return fire_tile_maxima(session, k, N, steps, fresh, goes_on);
    session.ways[conv] = engine::ByScattering;
    if (scatters_maxima(session, op, N, steps)) return scatter_maxima(session, k, N, steps, fresh, keeps_currents(run, conv));
    session.ways[conv] = engine::BySlices;
    if (run_maxima_by_slices(session, k, N, steps, fresh)) return;
    session.ways[conv] = reads_values(session, session.plan.ops[conv]) ? engine::ByValues : engine::ByPatterns;
    for (int64_t start = 0; start < steps; start += most_pattern_steps) {
        const int64_t some = least(most_pattern_steps, steps - start);
        fire_maxima(session, k, N, start, some, steps, fresh && !start, goes_on || start + some < steps);
    }
}

static void run_op(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh, bool goes_on) {
    switch (session.plan.ops[k].kind) {
        case engine::Fire: return run_neurons(session, k, N, steps, fresh, goes_on);
        case engine::Recur: return run_recurrent(session, k, N, steps, fresh);
        default: return run_between(session, k, N, steps, fresh, goes_on);
    }
}

// Runs all operations, unless the run is to end. `fresh`: starts from rest. `goes_on`: the
// states of all operations are needed, whatever `run.kept` asks for. Calls show(k) right after operation k, since another operation
// may reuse its slot later.
template <class Show>
static void run_segment(Session& session, const Run& run, int64_t N, int64_t steps, bool fresh, bool goes_on, Show show) {
    const bool is_sigma_delta = session.plan.is_sigma_delta();
    if (!is_sigma_delta) look_at_slots(session, steps, fresh);
    for (int64_t i = 0; i < session.threads; i++) session.scratch[i].key = -1;
    for (int64_t k = 0; k < session.plan.count && !session.watch.over.load(); k++) {
        const Op& op = session.plan.ops[k];
        if (op.maxima_of >= 0) make_bits(session, op.windows[0].slot);
        if (op.maxima_of >= 0)
            session.within[k] = session.within[session.plan.ops[op.maxima_of].maxima->pool] =
                is_within(session, run, k, N, steps);
        if (session.within[k]) continue;
        const bool of_maxima = op.maxima && session.within[op.maxima->conv];
        for (int64_t i = 0; i < session.threads; i++) memset(session.scratch[i].tally, 0, sizeof session.scratch[i].tally);
        const auto run_it = is_sigma_delta ? run_sigma_delta : run_op;
        const int64_t began = run.took ? nanoseconds() : 0;
        const bool states = goes_on || (run.kept && run.kept[k].v);
        if (of_maxima) run_maxima(session, run, k, N, steps, fresh, states);
        else if (is_sigma_delta || !run_listed(session, k, N, steps, fresh)) run_it(session, k, N, steps, fresh, states);
        // The time, and the additions, are those of the convolution.
        const int64_t adds = of_maxima ? op.maxima->conv : k;
        for (int64_t i = 0; i < session.threads && session.counts; i++)
            for (int64_t j = 0; j < engine::tallies; j++)
                run.tally[(j ? adds : k) * engine::tallies + j] += session.scratch[i].tally[j];
        if (run.took) run.took[adds] += nanoseconds() - began;
        show(k);
    }
}

// Copies the results of a run to the caller: the output of the last operation, requested outputs of other operations, and
// states; and logits, and the rule of early exit that reads them.

// The samples of a group that have not stopped.
struct Running {
    int64_t first, n;  // first sample of the group; how many still run
    int64_t* sample;   // [n], ascending; null without a stopping rule: all of the group
    int32_t* counts;   // [n, C, P]
    uint8_t* decided;  // [n]
    char* x;           // a copy of their input in a segment

    int64_t at(int64_t i) const { return sample ? sample[i] : first + i; }
};

// Copies the output of the last operation in a segment to the caller. A task is a part of one sample's pixels.
struct HandOver {
    const Session& session;
    const Run& run;
    const Running& running;
    const int64_t start, steps, parts;

    void hand_over(int64_t task) const {
        const Op& last = session.plan.ops[session.plan.count - 1];
        const int64_t frame = slot_bytes(last), pixel = frame / last.P(), i = task / parts, n = running.at(i);
        const int64_t p0 = last.P() * (task % parts) / parts, p1 = last.P() * (task % parts + 1) / parts;
        const char* const from = session.slots[session.plan.count - 1] + i * steps * frame;
        for (int64_t t = 0; t < steps; t++) {
            const char* const at = from + t * frame + p0 * pixel;
            if (run.spikes) memcpy(run.spikes + (n * run.T + start + t) * frame + p0 * pixel, at, (p1 - p0) * pixel);
            if (run.values) memcpy((char*)run.values + ((start + t) * run.N + n) * frame + p0 * pixel, at, (p1 - p0) * pixel);
        }
        const FiredList& list = session.lists[session.plan.count];
        if (list.is_listed && run.counts && task % parts == 0) return count(last, list, i, n);
        for (int64_t p = p0; p < p1 && run.counts && !list.is_listed; p++)
            for (int64_t c = 0; c < last.C; c += 64) count(last, n, p, c, (const uint8_t*)from + p * pixel + c / 8);
    }
    void count(const Op& last, const FiredList& list, int64_t i, int64_t n) const {
        for (int64_t t = 0; t < steps; t++)
            list.each(i, t, [&](int64_t pixel, int64_t channel) { run.counts[(n * last.C + channel) * last.P() + pixel]++; });
    }
    // Adds the spikes of up to 64 channels of a pixel, from `channel` on.
    void count(const Op& last, int64_t n, int64_t p, int64_t channel, const uint8_t* x) const {
        const int64_t frame = slot_bytes(last), bytes = least(8, last.bytes() - channel / 8);
        uint32_t patterns[64];
        for (int64_t t = 0; t < steps; t += 32) {
            const auto word = [&](int64_t i) { return load_bits(x + (t + i) * frame, bytes); };
            for (uint64_t any = patterns_of(least(32, steps - t), word, patterns); any; any &= any - 1) {
                const int c = __builtin_ctzll(any);
                run.counts[(n * last.C + channel + c) * last.P() + p] += __builtin_popcount(patterns[c]);
            }
        }
    }
};

static void hand_over(Session& session, const Run& run, const Running& running, int64_t start, int64_t steps) {
    if (run.changes || (run.neurons && session.slots[0] == (char*)run.spikes)) return;  // it was written there
    make_bits(session, session.plan.count);
    const Op& last = session.plan.ops[session.plan.count - 1];
    const int64_t bytes = running.n * steps * slot_bytes(last);
    const int64_t parts = bytes > worth_threads / 8 ? least(last.P(), ceil_div(2 * session.threads, running.n)) : 1;
    HandOver over{session, run, running, start, steps, parts};
    const auto work = [](void* given, int64_t task, int64_t) { ((const HandOver*)given)->hand_over(task); };
    if (bytes > worth_threads / 8) share(session, running.n * parts, &over, work);
    else
        for (int64_t task = 0; task < running.n; task++) work(&over, task, 0);
}

// Copies the states of the i-th running sample, which has finished, to the caller.
static void hand_over_states(const Session& session, const Run& run, const Running& running, int64_t i) {
    for (int64_t k = 0; k < session.plan.count && run.kept; k++) {
        const Op& op = session.plan.ops[k];
        const LayerState& state = session.states[k];
        float *const v = run.kept[k].v, *const sent = v + run.N * op.state_size;
        const int64_t n = running.at(i), size = op.state_size, rest = op.sent_size;
        if (v) catch_up(session, k);
        if (v) memcpy(v + n * size, state.v + i * size, size * sizeof(float));
        if (v && rest) memcpy(sent + n * rest, state.sent + i * rest, rest * sizeof(float));
    }
}

// The output of operation k for the i-th running sample at step t of the segment; null if it is all zeros.
static const char* frame_of(const Session& session, int64_t k, int64_t i, int64_t t, int64_t steps) {
    const int64_t bytes = slot_bytes(session.plan.ops[k], session.real[k]);
    if (session.plan.is_sigma_delta()) {
        const Change& y = session.changes[k + 1];
        const bool sums = session.plan.ops[k].kind == engine::Sum;
        if (!sums && (y.silent || t >= y.steps)) return nullptr;
        return session.slots[k] + (i * (sums ? steps : y.steps) + t) * bytes;
    }
    const View& y = session.views[k + 1];
    return session.real[k] ? (const char*)y.values_at(i, t, 0) : (const char*)y.spikes_at(i, t, 0);
}

// Copies the output of operation k in a segment to the caller, if requested.
static void show(Session& session, const Run& run, const Running& running, int64_t k, int64_t start, int64_t steps) {
    const engine::Shown* const shown = run.shown ? run.shown + k : nullptr;
    if (!shown || (session.real[k] ? !shown->values : !shown->spikes)) return;
    if (!session.real[k]) make_bits(session, k + 1);
    const int64_t bytes = slot_bytes(session.plan.ops[k], session.real[k]);
    for (int64_t i = 0; i < running.n; i++)
        for (int64_t t = 0; t < steps; t++) {
            const int64_t n = running.at(i), step = start + t;
            char* const to = session.real[k] ? (char*)shown->values + (step * run.N + n) * bytes
                                             : (char*)shown->spikes + (n * run.T + step) * bytes;
            const char* const from = frame_of(session, k, i, t, steps);
            if (from) memcpy(to, from, bytes);
            else memset(to, 0, bytes);
        }
}

// Calls visit(c * P + p, logit) for the logits of a sample.
template <class Visit>
static inline void each_logit(const engine::Readout& of, const int32_t* counts, const float* v, int64_t t, Visit visit) {
    for (int64_t p = 0; p < of.P; p++)
        for (int64_t c = 0; c < of.C; c++, v++) {
            const int64_t at = c * of.P + p;
            const float charge = of.theta[c] * (float)counts[at] + (*v - of.start[c]);
            visit(at, fminf(fmaxf(of.scale[c] * charge / (float)t, of.lowest), of.highest));
        }
}

static void leads(void* context, const int32_t* counts, const float* v, const int64_t*, int64_t n, int64_t t,
                  uint8_t* decided) {
    const engine::Lead& rule = *(const engine::Lead*)context;
    const int64_t size = rule.of.C * rule.of.P;
    for (int64_t i = 0; i < n; i++, counts += size, v += size) {
        float first = -INFINITY, second = -INFINITY;
        each_logit(rule.of, counts, v, t, [&](int64_t, float logit) {
            second = logit > first ? first : fmaxf(second, logit);
            first = fmaxf(first, logit);
        });
        decided[i] = (first - second) * (float)t >= rule.least;
    }
}

// Writes the logits of all samples of a finished run.
static void write_logits(const Run& run) {
    const engine::Readout& of = *run.readout;
    const int64_t size = of.C * of.P;
    for (int64_t i = 0; i < run.N; i++) {
        const float* const v = run.kept[run.logits_of].v + i * size;
        const auto write = [&](int64_t at, float logit) { run.logits[i * size + at] = logit; };
        each_logit(of, run.counts + i * size, v, run.steps ? run.steps[i] : run.T, write);
    }
}

}  // namespace PK_TARGET
