// The engine, compiled once for each instruction set, like ../target.cpp, and without OpenMP. With AMX its functions are those
// of AVX-512: what kernels take decides whether tiles are taken (Op::costs).
#include "run.h"

#include "../fingerprint.h"

namespace PK_TARGET {

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

static uint64_t hash(Session* session, const engine::Piece* pieces, int64_t count, int64_t threads) {
    constexpr int64_t worth_others = 1 << 20, bytes_a_nanosecond = 10;  // which memory gives a thread
    HashOfPieces hash{pieces};
    int64_t bytes = 0;
    for (int64_t i = 0; i < count; i++) bytes += pieces[i].size;
    if (!session || threads < 2 || bytes < worth_others) {
        for (int64_t i = 0; i < count; i++) hash.add(i);
        return hash.sum;
    }
    Team& team = team_of(*session, threads);
    team.begin(bytes / bytes_a_nanosecond);
    team.share(count, &hash, [](void* hash, int64_t i, int64_t) { ((HashOfPieces*)hash)->add(i); });
    team.end();
    return hash.sum;
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
    fingerprint,
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
