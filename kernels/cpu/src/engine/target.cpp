// The engine, compiled once for each instruction set, like ../target.cpp, and without OpenMP.
#include "fire.h"
#include "pools.h"

namespace PK_TARGET {

constexpr int64_t most_steps = 32;  // of a segment: more read weights less often, fewer stay in the cache

// What a slot holds, and whether at each step: the network's input is what the caller gives.
static void look_at_input(Session& session, const Run& run) {
    const Input& in = session.plan.input;
    const int64_t P = in.H * in.W, bytes = (in.C + 7) / 8;
    View& x = session.views[0] = View{};
    if (run.kind == engine::PackedSpikes) {
        x.spikes = (const uint8_t*)run.x;
        x.image = run.T * P * bytes, x.step = P * bytes, x.pixel = bytes;
    } else {
        x.values = (const float*)run.x;
        x.image = in.C * P, x.step = run.kind == engine::HeldValues ? 0 : run.N * in.C * P, x.pixel = 1, x.channel = P;
    }
}

static bool all_held(const Session& session, const Step& step) {
    for (int64_t i = 0; i < step.count; i++)
        if (!session.views[step.windows[i].slot].held()) return false;
    return true;
}

// Whether what an operation gives is the same at each step. Maxima of sums grow evenly from rest on.
static bool gives_held(const Session& session, const Step& step, bool fresh) {
    if (step.kind == engine::Fire || step.kind == engine::MaxRatePool) return false;
    return all_held(session, step) && (fresh || step.kind != engine::RunningMaxPool);
}

static void look_at_slots(Session& session, int64_t steps, bool fresh) {
    for (int64_t k = 0; k < session.plan.count; k++) {
        const Step& step = session.plan.steps[k];
        const int64_t frame = slot_bytes(step);
        View& x = session.views[k + 1] = View{};
        if (step.real) {
            x.values = (const float*)session.slots[k];
            x.step = step.P() * step.C, x.pixel = step.C;
        } else {
            x.spikes = (const uint8_t*)session.slots[k];
            x.step = frame, x.pixel = step.bytes();
        }
        x.image = steps * x.step;
        if (gives_held(session, step, fresh)) x.image = x.step, x.step = 0;
    }
}

static void cut_states(Session& session, int64_t N) {
    if (N == session.state_N) return;
    const auto cut = [&](char* memory) {
        Carver carver{memory};
        for (int64_t k = 0; k < session.plan.count; k++) {
            const Step& step = session.plan.steps[k];
            session.states[k].v = carver.take<float>(N * step.states * step.state_P * step.C);
            if (step.kind == engine::Fire) session.states[k].alike = carver.take<uint8_t>(N * step.P());
        }
        return carver.bytes;
    };
    const int64_t bytes = cut(nullptr);
    if (bytes > session.state_bytes) {
        free(session.state_arena);
        session.state_arena = allocate_zeros<char>(bytes);
        session.state_bytes = bytes;
    }
    cut(session.state_arena);
    session.state_N = N;
}

// Memory for so many images, steps and threads.
static void cut_arena(Session& session, int64_t N, int64_t steps, int64_t threads) {
    const Plan& plan = session.plan;
    if (N == session.N && steps == session.steps && threads == session.threads) return;
    if (!session.team || !session.team->fits(threads)) {
        delete session.team;
        session.team = new Team(threads);
    }
    Room room;
    for (int64_t k = 0; k < plan.count; k++) {
        const Step& step = plan.steps[k];
        if (step.kind != engine::Fire && step.states) room.window = most(room.window, step.windows[0].taps());
        if (step.kind != engine::Fire) continue;
        room.include(Tasks(step, N, steps, threads, false).room(step));
        room.include(Tasks(step, N, steps, threads, true).room(step));
    }
    if (threads > session.threads) {
        delete[] session.scratch;
        session.scratch = new Scratch[threads];
    }
    const auto cut = [&](char* memory) {
        Carver carver{memory};
        char* const slots = carver.take<char>(cut_slots(session, N, steps, nullptr));
        if (memory) cut_slots(session, N, steps, slots);
        for (int64_t i = 0; i < threads; i++) cut_scratch(session.scratch[i], room, carver);
        return carver.bytes;
    };
    const int64_t bytes = cut(nullptr);
    if (bytes > session.arena_bytes) {
        free(session.arena);
        session.arena = allocate<char>(bytes);
        session.arena_bytes = bytes;
    }
    cut(session.arena);
    session.N = N, session.steps = steps, session.threads = threads;
}

static void run_neurons(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh, bool goes_on) {
    const Step& step = session.plan.steps[k];
    const Tasks cut(step, N, steps, session.threads, all_held(session, step));
    if (fresh) memset(session.states[k].alike, 1, N * step.P());
    session.serial++;
    with_model(step.neuron, [&](auto model) {
        struct Context {
            Session& session;
            const Step& step;
            const Tasks& cut;
            int64_t k;
            bool fresh, goes_on;
        } context{session, step, cut, k, fresh, goes_on};
        session.team->share(cut.count(), &context, [](void* given, int64_t task, int64_t thread) {
            const Context& c = *(const Context*)given;
            Firing<decltype(model)>{c.session, c.step, c.cut, c.k, c.fresh, c.goes_on}.run(task, thread);
        });
    });
}

// An operation without neurons: what it reads, and where it writes. A task is a part of an image: of its steps, or of its
// rows where sums are states.
struct Between {
    const Step& step;
    const Session& session;
    int64_t k, steps, parts;

    void run(int64_t task, int64_t thread) const {
        const int64_t along = step.states ? step.H : steps, image = task / parts, part = task % parts;
        const int64_t first = along * part / parts, last = along * (part + 1) / parts;
        const View* const views = session.views;
        const View& from = views[step.windows[0].slot];
        char* const slot = session.slots[k];
        const Steps all{image, 0, steps, steps}, some{image, first, last, steps};
        switch (step.kind) {
            case engine::MaxPool: return max_pool(step, from, slot, some);
            case engine::AveragePool: return average_pool(step, from, slot, some);
            case engine::Flatten: return flatten_image(step, from, slot, some);
            case engine::Unflatten: return unflatten_image(step, from, slot, some);
            case engine::Move: return step.real ? move_values(step, views, slot, some) : move_spikes(step, views, slot, some);
            default: max_sum_pool(step, from, session.states[k].v, slot, all, first, last, session.scratch[thread].window_sums);
        }
    }
};

// What stands between neurons: each step of each image by itself, or with states each image, in bands of rows.
static void run_step(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh, bool goes_on) {
    const Step& step = session.plan.steps[k];
    if (step.kind == engine::Fire) return run_neurons(session, k, N, steps, fresh, goes_on);
    if (step.states && fresh) memset(session.states[k].v, 0, N * step.state_P * step.C * sizeof(float));
    Between between{step, session, k, session.views[k + 1].held() ? 1 : steps, 1};
    if (session.threads > 1)
        between.parts = least(step.states ? step.H : between.steps, ceil_div(4 * session.threads, most(N, 1)));
    session.team->share(N * between.parts, &between,
                        [](void* given, int64_t task, int64_t thread) { ((const Between*)given)->run(task, thread); });
    between.steps = steps;  // of the sums, also where what is given is held
    if (step.states && goes_on)
        session.team->share(N, &between, [](void* given, int64_t image, int64_t) {
            const Between& b = *(const Between*)given;
            add_up(b.step, b.session.views[b.step.windows[0].slot], b.session.states[b.k].v, image, b.steps);
        });
    if (step.kind == engine::MaxRatePool)
        session.scratch[0].tally[0] += count_bits((const uint8_t*)session.slots[k], N * steps * slot_bytes(step));
}

// What the last operation gave in a segment goes to the caller.
static void hand_over(const Session& session, const Run& run, int64_t start, int64_t steps) {
    const Step& last = session.plan.steps[session.plan.count - 1];
    const char* const slot = session.slots[session.plan.count - 1];
    const int64_t frame = slot_bytes(last);
    for (int64_t n = 0; n < run.N; n++) {
        const char* const from = slot + n * steps * frame;
        if (run.spikes) memcpy(run.spikes + (n * run.T + start) * frame, from, steps * frame);
        for (int64_t t = 0; t < steps && run.counts; t++)
            for (int64_t p = 0; p < last.P(); p++)
                each_spike((const uint8_t*)from + t * frame + p * last.bytes(), last.C,
                           [&](int64_t c) { run.counts[(n * last.C + c) * last.P() + p]++; });
        for (int64_t t = 0; t < steps && run.values; t++)
            memcpy((char*)run.values + ((start + t) * run.N + n) * frame, from + t * frame, frame);
    }
}

static bool is_finite(const Input& in, const Run& run) {
    const float* const values = (const float*)run.x;
    const int64_t n = run.N * in.C * in.H * in.W * (run.kind == engine::HeldValues ? 1 : run.T);
    int fits = 1;
    for (int64_t i = 0; i < n; i++) fits &= fabsf(values[i]) <= 0x1p100f;
    return fits;
}

static int64_t run(Session* given, const Run* asked) {
    Session& session = *given;
    const Run& run = *asked;
    const Plan& plan = session.plan;
    if (run.kind != engine::PackedSpikes && !is_finite(plan.input, run)) return 0;
    const int64_t most_here = least(run.T, most_steps);
    cut_states(session, run.N);
    if (session.team && !session.team->fits(run.threads)) session.N = -1;
    look_at_input(session, run);
    const View input = session.views[0];
    for (int64_t start = 0; start < run.T; start += most_here) {
        const int64_t steps = least(most_here, run.T - start);
        cut_arena(session, run.N, steps, run.threads);
        look_at_slots(session, steps, run.fresh && !start);
        View& x = session.views[0] = input;
        if (x.spikes) x.spikes += start * x.step;
        else x.values += start * x.step;
        for (int64_t i = 0; i < session.threads; i++) session.scratch[i].key = -1;
        for (int64_t k = 0; k < plan.count; k++) {
            for (int64_t i = 0; i < session.threads; i++) session.scratch[i].tally[0] = session.scratch[i].tally[1] = 0;
            const bool goes_on = run.goes_on || start + steps < run.T || (run.last && k + 1 == plan.count);
            run_step(session, k, run.N, steps, run.fresh && !start, goes_on);
            for (int64_t i = 0; i < session.threads; i++)
                for (int64_t j = 0; j < 2; j++) run.tally[2 * k + j] += session.scratch[i].tally[j];
        }
        hand_over(session, run, start, steps);
    }
    const Step& last = plan.steps[plan.count - 1];
    if (run.last)
        memcpy(run.last, session.states[plan.count - 1].v, run.N * last.states * last.state_P * last.C * sizeof(float));
    return 1;
}

static Session* make_session(const Plan* plan) { return new Session(*plan); }
static void free_session(Session* session) { delete session; }

static void states(Session* session, int64_t k, float* to, const float* from, int64_t N) {
    cut_states(*session, N);
    const Step& step = session->plan.steps[k];
    const State& state = session->states[k];
    const int64_t n = N * step.states * step.state_P * step.C;
    if (to) memcpy(to, state.v, n * sizeof(float));
    if (from) {
        memcpy(state.v, from, n * sizeof(float));
        if (state.alike) memset(state.alike, 0, N * step.P());
    }
}

static void keep(Session* session, const int64_t* samples, int64_t count) {
    State* const old = new State[session->plan.count];
    memcpy((void*)old, (void*)session->states, session->plan.count * sizeof(State));
    session->state_N = -1;
    cut_states(*session, count);  // fewer samples: the same memory, and each value moves down or stays
    for (int64_t k = 0; k < session->plan.count; k++) {
        const Step& step = session->plan.steps[k];
        const int64_t size = step.states * step.state_P * step.C;
        for (int64_t i = 0; i < count; i++)
            memmove(session->states[k].v + i * size, old[k].v + samples[i] * size, size * sizeof(float));
        for (int64_t i = 0; i < count && session->states[k].alike; i++)
            memmove(session->states[k].alike + i * step.P(), old[k].alike + samples[i] * step.P(), step.P());
    }
    delete[] old;
}

static void sizes(const Session* session, Sizes* sizes) {
    *sizes = {session->plan.bytes, session->arena_bytes + session->state_bytes};
}

extern const engine::Functions functions;
const engine::Functions functions = {
    [](const Input* input, const Operation* operations, int64_t count) {
        return (engine::Plan*)make_plan(input, operations, count);
    },
    [](engine::Plan* plan) { free_plan((Plan*)plan); },
    [](const engine::Plan* plan) { return (engine::Session*)make_session((const Plan*)plan); },
    [](engine::Session* session) { free_session((Session*)session); },
    [](engine::Session* session, const Run* asked) { return run((Session*)session, asked); },
    [](engine::Session* session, int64_t k, float* to, const float* from, int64_t N) {
        states((Session*)session, k, to, from, N);
    },
    [](engine::Session* session, const int64_t* samples, int64_t count) { keep((Session*)session, samples, count); },
    [](const engine::Session* session, Sizes* out) { sizes((const Session*)session, out); },
};

}  // namespace PK_TARGET
