// The engine, compiled once for each instruction set, like ../target.cpp, and without OpenMP. With AMX its functions are those
// of AVX-512: what plans tell of costs decides whether tiles are taken (Operation.lines).
#include "run.h"

#include "../fingerprint.h"

namespace PK_TARGET {

static int64_t states(Session* session, int64_t k, float* to, const float* from, int64_t N) {
    if (!cut_states(*session, N)) return engine::NoMemory;
    const Step& step = session->plan.steps[k];
    const State& state = session->states[k];
    const int64_t n = N * step.state_size, sent = N * step.sent_size;
    if (to) catch_up(*session, k);
    if (to) memcpy(to, state.v, n * sizeof(float));
    if (to && sent) memcpy(to + n, state.sent, sent * sizeof(float));
    if (from) {
        forget(session->states[k]);
        memcpy(state.v, from, n * sizeof(float));
        if (sent) memcpy(state.sent, from + n, sent * sizeof(float));
        if (state.alike) memset(state.alike, 0, N * step.P());
        if (state.restless) memset(state.restless, 1, N * step.P());
    }
    return engine::Ran;
}

static void sizes(const Session* session, Sizes* sizes) {
    const Session& s = *session;
    const int64_t arena = bytes_present(s.arena, s.arena_bytes) + bytes_present(s.state_arena, s.state_bytes);
    *sizes = {s.plan.bytes, arena + s.kept.size + s.running.size + s.rounded.size * (int64_t)sizeof(float), s.refused};
}

// Calls visit(c P + p, logit) for those of a sample.
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

static void logits(const engine::Readout* of, const int32_t* counts, const float* v, float* to, int64_t n, const int64_t* steps,
                   int64_t t) {
    const int64_t size = of->C * of->P;
    for (int64_t i = 0; i < n; i++, counts += size, v += size, to += size)
        each_logit(*of, counts, v, steps ? steps[i] : t, [&](int64_t at, float logit) { to[at] = logit; });
}

static constexpr engine::Functions its_functions = {
    [](const Input* input, const Operation* operations, int64_t count) {
        return (engine::Plan*)make_plan(input, operations, count);
    },
    [](engine::Plan* plan) { free_plan((Plan*)plan); },
    [](const engine::Plan* plan) { return (engine::Session*)new Session(*(const Plan*)plan); },
    [](engine::Session* session) { delete (Session*)session; },
    [](engine::Session* session, const Run* asked) { return run((Session*)session, asked); },
    [](engine::Session* session, int64_t k, float* to, const float* from, int64_t N) {
        return states((Session*)session, k, to, from, N);
    },
    [](const engine::Session* session, Sizes* out) { sizes((const Session*)session, out); },
    fingerprint,
    [](const engine::Piece* pieces, int64_t count, int64_t lines) {
        uint64_t sum = 0;
        for (int64_t i = 0; i < count; i++) sum = mix(sum, sample_fingerprint(pieces[i].bytes, pieces[i].size, lines));
        return sum;
    },
    [](const engine::Session* session, int64_t k) { return ((const Session*)session)->ways[k]; },
    leads,
    logits,
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
