// A run: groups of samples go through the network in segments of steps. When a rule stops samples, the remaining ones move
// together and go on.
#include <algorithm>

#include "../units.h"
#include "run_segment.h"
#include "../fingerprint.h"

namespace PK_TARGET {

constexpr int64_t most_periodic_steps = 256;  // of a layer whose inputs are periodic in the first segment alone
constexpr int64_t most_samples = 64;  // per group, if no states are kept
// Limit of the bytes that a segment writes between operations, unless one step of one sample needs more. Small in the checked
// build, so that tests have segments of few steps.
constexpr int64_t most_slot_bytes = PK_IS_CHECKED ? 1 << 14 : 1 << 28;
constexpr int64_t near_slot_bytes = PK_IS_CHECKED ? 1 << 14 : 1 << 23;  // that a third-level cache holds

// Bytes of the input of one sample at one step.
static int64_t input_bytes(const Input& in, bool spikes) {
    return in.H * in.W * (spikes ? (in.C + 7) / 8 : in.C * (int64_t)sizeof(float));
}

// The number of samples, and of steps, that go through the network at a time.
struct Portion {
    int64_t samples, steps;
};

static Portion portion_of(Session& session, const Run& run) {
    if (run.changes) return {run.N, run.T};
    const bool kept = run.goes_on || !run.fresh;  // the session holds states of all samples
    const int64_t longest = session.plan.input.is_periodic ? most_periodic_steps : most_steps;
    Portion p{kept ? run.N : least(run.N, most_samples),
              least(longest, least(run.T, run.stop && !run.stops ? run.stop_every : longest))};
    if (!session.frame_bytes) session.frame_bytes = cut_slots(session, 1, 1, nullptr);
    const int64_t input = run.stop ? input_bytes(session.plan.input, run.kind == engine::PackedSpikes) : 0;  // which is copied
    const bool is_near = session.plan.ops[0].grid < INFINITY;  // graded neurons of 8 bits are faster than memory
    const int64_t frames = most(1, (is_near ? near_slot_bytes : most_slot_bytes) / (session.frame_bytes + input));
    if (p.samples * p.steps <= frames) return p;
    p.steps = least(p.steps, most_pattern_steps);
    if (!kept) p.samples = most(1, least(p.samples, frames / p.steps));
    while (p.steps > 1 && p.samples * p.steps > frames) p.steps = ceil_div(p.steps, 2);
    return p;
}

// False if there is no memory.
template <class T>
static bool grow(Session& session, Grown<T>& memory, int64_t n) {
    if (memory.try_reserve(n)) return true;
    session.refused = n * (int64_t)sizeof(T);
    return false;
}

// Rounds the input values to 24 bits of the largest value of their sample, as proxykernels/plan/quantize.py defines it. Null if
// there is no memory.
static const void* rounded(Session& session, const Run& run) {
    const int64_t size = input_bytes(session.plan.input, false) / (int64_t)sizeof(float);
    const int64_t steps = run.kind == engine::HeldValues ? 1 : run.T;
    if (!grow(session, session.rounded, steps * run.N * size)) return nullptr;
    float* const to = session.rounded.data;
    const float* const from = (const float*)run.x;
    for (int64_t i = 0; i < run.N; i++) {
        float largest = 0;
        for (int64_t t = 0; t < steps; t++) {
            const float here = largest_of(from + (t * run.N + i) * size, size);
            largest = here > largest ? here : largest;
        }
        const double unit = power_of_two(largest) * 0x1p-23;
        for (int64_t t = 0; t < steps; t++)
            round_values(from + (t * run.N + i) * size, to + (t * run.N + i) * size, size, unit);
    }
    return to;
}

// A view of N samples of T steps at x, in the layout that Run describes.
static View view_of(const Input& in, int64_t kind, const void* x, int64_t N, int64_t T) {
    View view;
    const int64_t P = in.H * in.W;
    if (kind == engine::PackedSpikes) {
        view.spikes = (const uint8_t*)x;
        view.pixel = (in.C + 7) / 8, view.step = P * view.pixel, view.image = T * view.step;
    } else {
        view.values = (const float*)x;
        view.image = in.C * P, view.step = kind == engine::HeldValues ? 0 : N * in.C * P;
        view.pixel = in.is_layer ? in.C : 1, view.channel = in.is_layer ? 1 : P;
    }
    return view;
}

// Lays out the memory of a group of n samples; returns its bytes.
static int64_t cut_running(const Session& session, const Run& run, Running& running, int64_t n, int64_t steps, char* memory) {
    const Op& last = session.plan.ops[session.plan.count - 1];
    Carver carver{memory};
    running.sample = carver.take<int64_t>(n);
    running.counts = carver.take<int32_t>(n * last.C * last.P());
    running.decided = carver.take<uint8_t>(n);
    running.x = carver.take<char>(n * steps * input_bytes(session.plan.input, run.kind == engine::PackedSpikes));
    return carver.bytes;
}

static Running begin_group(Session& session, const Run& run, int64_t first, int64_t n, int64_t steps) {
    Running running{first, n, nullptr, nullptr, nullptr, nullptr};
    if (!run.stop) return running;
    cut_running(session, run, running, n, steps, session.running.data);
    for (int64_t i = 0; i < n; i++) running.sample[i] = first + i;
    return running;
}

// Gets all memory that a run needs before its first step; false if there is none. Does nothing if the last run had the same
// sizes.
static bool make_room(Session& session, const Run& run, const Portion& p, int64_t crew) {
    const Run& before = session.room;
    if (before.N == run.N && before.T == run.T && before.threads == run.threads && before.kind == run.kind &&
        !before.stop == !run.stop && before.stop_every == run.stop_every && !before.stops == !run.stops &&
        before.fresh == run.fresh && before.goes_on == run.goes_on)
        return true;
    session.room = Run{};
    if (run.stop) {
        Running none{};
        if (!grow(session, session.running, cut_running(session, run, none, p.samples, p.steps, nullptr))) return false;
    }
    if (!cut_states(session, p.samples)) return false;
    for (const int64_t n : {run.N % p.samples, p.samples})
        for (const int64_t steps : {run.T % p.steps, p.steps})
            if (n && steps && !cut_arena(session, n, steps, crew, run.threads)) return false;
    session.room = run;
    return true;
}

// The input of a segment; a copy if the running samples are not consecutive.
static View input_of(const Session& session, const Run& run, const Running& running, int64_t start, int64_t steps) {
    const Input& in = session.plan.input;
    View all = view_of(in, run.kind, run.x, run.N, run.T);
    if (all.spikes) all.spikes += start * all.step;
    else all.values += start * all.step;
    if (running.at(running.n - 1) - running.at(0) == running.n - 1) {
        if (all.spikes) all.spikes += running.at(0) * all.image;
        else all.values += running.at(0) * all.image;
        return all;
    }
    const View some = view_of(in, run.kind, running.x, running.n, steps);
    const int64_t bytes = input_bytes(in, all.spikes);
    for (int64_t i = 0; i < running.n; i++)
        for (int64_t t = 0; t < (all.held() ? 1 : steps); t++) {
            if (all.spikes) memcpy((void*)some.spikes_at(i, t, 0), all.spikes_at(running.at(i), t, 0), bytes);
            else memcpy((void*)some.values_at(i, t, 0), all.values_at(running.at(i), t, 0), bytes);
        }
    return some;
}

constexpr uint8_t no_answer = 2;  // the value of `decided` until the rule writes there

// Repeats the last values of a sample that stopped after step t in all later steps.
static void hold_values(const Session& session, const Run& run, int64_t sample, int64_t t) {
    const int64_t frame = slot_bytes(session.plan.ops[session.plan.count - 1]);
    const auto at = [&](int64_t step) { return (char*)run.values + (step * run.N + sample) * frame; };
    for (int64_t later = t; later < run.T; later++) memcpy(at(later), at(t - 1), frame);
}

// Asks the rule after step t and removes the samples that it stops; false if it gives no answer. If it stops all samples, the
// states stay as they are.
static bool ask(Session& session, const Run& run, Running& running, int64_t t) {
    const Op& last = session.plan.ops[session.plan.count - 1];
    const int64_t size = last.C * last.P();
    for (int64_t i = 0; i < running.n; i++) {
        if (run.counts) memcpy(running.counts + i * size, run.counts + running.at(i) * size, size * sizeof *run.counts);
        running.decided[i] = no_answer;
    }
    if (run.stop_reads) catch_up(session, run.stop_reads - 1);
    const float* const v = run.stop_reads ? session.states[run.stop_reads - 1].v : nullptr;
    run.stop(run.context, run.counts ? running.counts : nullptr, v, running.sample, running.n, t, running.decided);
    if (running.decided[0] == no_answer) return false;
    int64_t n = 0;
    for (int64_t i = 0; i < running.n; i++) n += !running.decided[i];
    if (n == running.n || t == run.T) return true;
    for (int64_t i = 0; i < running.n; i++) {
        if (!running.decided[i]) continue;
        run.steps[running.at(i)] = t;
        hand_over_states(session, run, running, i);
        if (run.values) hold_values(session, run, running.at(i), t);
    }
    if (n && !run.stop_reads) keep_states(session, running.decided, running.n, n);
    for (int64_t i = 0, to = 0; i < running.n; i++)
        if (!running.decided[i]) running.sample[to++] = running.sample[i];
    running.n = n;
    return true;
}

// The step after `start` at which the rule is asked next.
static int64_t next_question(const Run& run, int64_t start) {
    if (!run.stop) return run.T;
    if (!run.stops) return start - start % run.stop_every + run.stop_every;
    return *std::upper_bound(run.stop_at, run.stop_at + run.stops, start);
}

// Sets the view of a layer's shortcut in a segment. The kernels read it without gaps between samples. False if there is no
// memory.
static bool take_shortcut(Session& session, const Run& run, int64_t start, int64_t steps) {
    const Op& op = session.plan.ops[0];
    const int64_t frame = op.P() * op.bytes(), size = steps * frame;
    View& view = session.views[2];
    view.spikes = run.shortcut, view.pixel = op.bytes(), view.step = frame, view.image = size;
    if (steps == run.T) return true;
    uint8_t* const to = session.shortcut.try_reserve(run.N * size);
    for (int64_t i = 0; i < run.N && to; i++) memcpy(to + i * size, run.shortcut + (i * run.T + start) * frame, size);
    view.spikes = to;
    return to;
}

// Runs `steps` of T steps from `start` on, and returns the outcome.
static int64_t run_steps(Session& session, const Run& run, const Running& running, int64_t start, int64_t steps, int64_t T) {
    if (!cut_arena(session, running.n, steps, session.team->crew(), run.threads)) return engine::NoMemory;
    session.views[0] = input_of(session, run, running, start, steps);
    session.views[0].scaled = run.scaled;
    session.views[0].periodic = session.plan.input.is_periodic && !start;
    // A layer's single segment is written where its spikes go; cut_arena keeps that place if the next call has as many steps.
    if (run.neurons) session.slots[0] = steps == run.T ? (char*)run.spikes : session.arena->memory;
    if (run.shortcut && !take_shortcut(session, run, start, steps)) return engine::NoMemory;
    if (run.neurons && run.neurons->currents)
        session.currents = run.neurons->currents + start * run.N * session.plan.ops[0].P() * session.plan.ops[0].C;
    run_segment(session, run, running.n, steps, run.fresh && !start, run.goes_on || start + steps < T,
                [&](int64_t k) { show(session, run, running, k, start, steps); });
    if (!session.watch.over.load()) hand_over(session, run, running, start, steps);
    return session.watch.over.load() ? engine::Interrupted : engine::Ran;
}

static int64_t ask_or_end(Session& session, const Run& run, Running& running, int64_t t) {
    if (session.watch.asks && ask_whether_over(session)) return engine::Interrupted;
    return ask(session, run, running, t) ? engine::Ran : engine::NoAnswer;
}

// Runs with a rule that reads potentials: for each time of `stop_at`, the undecided samples start again from rest.
static int64_t run_again(Session& session, const Run& run, Running& running, int64_t most_here) {
    const Op& last = session.plan.ops[session.plan.count - 1];
    int64_t outcome = engine::Ran;
    for (int64_t k = 0; k < run.stops && running.n && outcome == engine::Ran; k++) {
        const int64_t T = run.stop_at[k];
        if (!cut_states(session, running.n)) return engine::NoMemory;  // step counters (marks.h) are laid out by sample
        for (int64_t i = 0; i < running.n && run.counts; i++)
            memset(run.counts + running.at(i) * last.C * last.P(), 0, last.C * last.P() * sizeof *run.counts);
        for (int64_t start = 0; start < T && outcome == engine::Ran; start += most_here)
            outcome = run_steps(session, run, running, start, least(most_here, T - start), T);
        if (outcome == engine::Ran && T < run.T) outcome = ask_or_end(session, run, running, T);
    }
    return outcome;
}

static int64_t run_on(Session& session, const Run& run, Running& running, int64_t most_here) {
    int64_t outcome = engine::Ran;
    for (int64_t start = 0, end; start < run.T && running.n && outcome == engine::Ran; start = end) {
        const int64_t question = next_question(run, start);
        const int64_t here = start ? least(most_here, most_steps) : most_here;  // only the first segment may be periodic
        const int64_t steps = least(least(here, question - start), run.T - start);
        end = start + steps;
        outcome = run_steps(session, run, running, start, steps, run.T);
        const bool asks = end == run.T ? !session.plan.is_sigma_delta() : end == question;
        if (outcome == engine::Ran && run.stop && asks) outcome = ask_or_end(session, run, running, end);
    }
    return outcome;
}

static int64_t run_group(Session& session, const Run& run, int64_t first, int64_t n, int64_t most_here) {
    Running running = begin_group(session, run, first, n, most_here);
    if (!cut_states(session, n)) return engine::NoMemory;
    if (run.neurons) session.states[0].v = run.neurons->v;
    const int64_t outcome = (run.stop && run.stop_reads ? run_again : run_on)(session, run, running, most_here);
    if (outcome != engine::Ran) return outcome;
    for (int64_t i = 0; i < running.n; i++) hand_over_states(session, run, running, i);
    return engine::Ran;
}

static bool is_finite(const Input& in, const Run& run) {
    const float* const values = (const float*)run.x;
    const int64_t n = run.N * in.C * in.H * in.W * (run.kind == engine::HeldValues ? 1 : run.T);
    int fits = 1;
    for (int64_t i = 0; i < n; i++) fits &= fabsf(values[i]) <= 0x1p100f;
    return fits;
}

// The time of a layer's first call on one thread, in nanoseconds: if a tenth of its inputs fire.
static int64_t guessed_time(const Op& op, int64_t work) {
    constexpr int64_t additions_a_nanosecond = 10;
    const int64_t inputs =
        op.kind == engine::Recur ? op.back.rows : op.windows[0].C / op.windows[0].groups * op.windows[0].taps();
    return work * op.P() * op.C * inputs / 10 / additions_a_nanosecond;
}

// Calls work, whose tasks the team's threads share; returns the run's time on one thread (Team::end). The threads of layers
// are OpenMP's, as those of torch's operations between them: others would share the cores with them while they spin.
template <class Work>
static int64_t with_team(Team& team, int64_t expected, Work work) {
    team.begin(expected);
    if (!team.is_lent() || team.crew() == 1) {
        work();
        return team.end();
    }
    int64_t time = 0;
#pragma omp parallel num_threads((int)team.crew())
    if (const int64_t thread = thread_number()) {
        team.help(thread);
    } else {
        work();
        time = team.end();
        team.dismiss();
    }
    return time;
}

static int64_t run(Session* session, const Run* asked) {
    Run run = *asked;
    if (run.neurons) run.fresh = run.goes_on = 1, run.spikes = run.neurons->spikes;
    session->neurons = run.neurons, session->currents = nullptr, session->given = run.changes, session->counts = run.tally;
    if (!run.neurons && run.kind != engine::PackedSpikes && !is_finite(session->plan.input, run)) return engine::NotFinite;
    if (!run.N) return engine::Ran;
    if (run.rounds && !(run.x = rounded(*session, run))) return engine::NoMemory;
    look_at_kinds(*session, run.kind != engine::PackedSpikes);
    Team& team = team_of(*session, run.threads);
    const int64_t work = run.N * run.T;
    const int64_t expected = session->last_work           ? (int64_t)((double)session->last_time * work / session->last_work)
                             : run.neurons || run.changes ? guessed_time(session->plan.ops[0], work)
                                                          : 0;
    int64_t outcome = engine::Ran;
    const int64_t time = with_team(team, expected, [&] {
        const Portion p = portion_of(*session, run);
        outcome = make_room(*session, run, p, team.crew()) ? engine::Ran : engine::NoMemory;
        if (outcome == engine::Ran) watch_run(*session, run, expected);
        for (int64_t first = 0; outcome == engine::Ran && first < run.N; first += p.samples)
            outcome = run_group(*session, run, first, least(p.samples, run.N - first), p.steps);
    });
    if (outcome == engine::Ran && run.logits) write_logits(run);
    if (outcome == engine::Ran) session->last_time = time, session->last_work = work;
    if (outcome == engine::Ran && run.steps_so_far) *run.steps_so_far += run.T;
    if (outcome == engine::Interrupted) put_back(*session, run);
    if (outcome == engine::NoMemory) session->room = Run{};
    return outcome;
}

// The engine, compiled once for each instruction set, like ../target.cpp. With AMX its functions are those of AVX-512: what
// kernels take decides whether tiles are taken (Op::costs).

static int64_t states(Session* session, int64_t k, float* to, const float* from, int64_t N) {
    if (!cut_states(*session, N)) return engine::NoMemory;
    const Op& op = session->plan.ops[k];
    const LayerState& state = session->states[k];
    const int64_t n = N * op.state_size, sent = N * op.sent_size;
    if (to) catch_up(*session, k);
    if (to) memcpy(to, state.v, n * sizeof(float));
    if (to && sent) memcpy(to + n, state.sent, sent * sizeof(float));
    if (from) {
        forget(session->states[k]);
        memcpy(state.v, from, n * sizeof(float));
        if (sent) memcpy(state.sent, from + n, sent * sizeof(float));
        if (state.alike) memset(state.alike, 0, N * op.P());
        if (state.restless) memset(state.restless, 1, N * op.P());
    }
    return engine::Ran;
}

static void sizes(const Session* session, Sizes* sizes) {
    const Session& s = *session;
    const int64_t arena = bytes_present(s.own.memory, s.own.bytes) + bytes_present(s.state_arena, s.state_bytes);
    *sizes = {s.plan.bytes, arena + s.kept.size + s.running.size + s.rounded.size * (int64_t)sizeof(float), s.refused};
}

struct HashOfPieces {
    const engine::Piece* pieces;
    std::atomic<uint64_t> sum{0};
    void add(int64_t i) {
        const uint64_t seed = (uint64_t)(i + 1) << 32;  // apart by more than a piece has lines: no two lines have the same key
        sum.fetch_add(hash_piece(pieces[i].bytes, pieces[i].size, seed), std::memory_order_relaxed);
    }
};

constexpr int64_t hashed_bytes_a_nanosecond = 10;  // which memory gives a thread

static uint64_t hash(Session* session, const engine::Piece* pieces, int64_t count, int64_t threads) {
    constexpr int64_t worth_others = 1 << 20;
    HashOfPieces hash{pieces};
    int64_t bytes = 0;
    for (int64_t i = 0; i < count; i++) bytes += pieces[i].size;
    if (!session || threads < 2 || bytes < worth_others) {
        for (int64_t i = 0; i < count; i++) hash.add(i);
        return hash.sum;
    }
    Team& team = team_of(*session, threads);
    with_team(team, bytes / hashed_bytes_a_nanosecond,
              [&] { team.share(count, &hash, [](void* hash, int64_t i, int64_t) { ((HashOfPieces*)hash)->add(i); }); });
    return hash.sum;
}

uint64_t fingerprint_by_team(const uint8_t* bytes, int64_t n, int64_t threads) {
    if (threads < 2) return fingerprint_alone(bytes, n);
    struct Shared {
        const uint8_t* bytes;
        int64_t n;
        std::atomic<uint64_t> sum;
    } shared{bytes, n, {(uint64_t)n}};
    Team& team = *shared_by_layers(threads).team;
    with_team(team, n / hashed_bytes_a_nanosecond, [&] {
        team.share(ceil_div(n, fingerprint_piece), &shared, [](void* given, int64_t i, int64_t) {
            Shared& s = *(Shared*)given;
            s.sum.fetch_add(fingerprint_at(s.bytes, s.n, i * fingerprint_piece), std::memory_order_relaxed);
        });
    });
    return shared.sum;
}

static constexpr engine::Functions its_functions = {
    [](const Description* described, int64_t has_tiles) { return (engine::Plan*)make_plan(described, has_tiles); },
    [](engine::Plan* plan) { free_plan((Plan*)plan); },
    [](const engine::Plan* plan) { return (engine::Session*)new Session(*(const Plan*)plan); },
    [](engine::Session* session) { delete (Session*)session; },
    [](engine::Session* session, const Run* asked) { return run((Session*)session, asked); },
    [](engine::Session* session, int64_t k, float* to, const float* from, int64_t N) {
        return states((Session*)session, k, to, from, N);
    },
    [](const engine::Session* session, Sizes* out) { sizes((const Session*)session, out); },
    fingerprint_alone,
    [](engine::Session* session, const engine::Piece* pieces, int64_t count, int64_t threads) {
        return hash((Session*)session, pieces, count, threads);
    },
    [](const engine::Session* session, int64_t k) { return ((const Session*)session)->ways[k]; },
    leads,
};
extern const engine::Functions functions;
const engine::Functions functions = its_functions;

}  // namespace PK_TARGET

#if defined(__AMX_INT8__)
namespace amx {
extern const engine::Functions functions;
const engine::Functions functions = PK_TARGET::its_functions;
}  // namespace amx
#endif
