// Interrupting a run: the caller's thread asks now and then, between tasks, whether to go on; if not, no thread begins another
// task. The session is left as it was before the run, so that it can go on from there.
#pragma once
#include "marks.h"

namespace PK_TARGET {

// The time between two questions. Runs that keep their states and should take less than `worth_keeping` are not watched,
// because saving the old states would cost too much compared with the run.
constexpr int64_t ask_again = 50000000, worth_keeping = 20000000;  // nanoseconds

// Asks now; returns whether the run is to end.
static bool ask_whether_over(Session& session) {
    Watch& watch = session.watch;
    if (watch.asks && !watch.over.load() && watch.asks(watch.context) != 1) watch.over.store(true);
    watch.next = nanoseconds() + ask_again;
    return watch.over.load();
}

// Calls work(context, task, thread) for each task below count, unless the run is to end.
static void share(Session& session, int64_t count, void* context, Team::Work work) {
    if (!session.watch.asks) return session.team->share(count, context, work);
    struct Watched {
        Session& session;
        void* context;
        Team::Work work;
    } watched{session, context, work};
    session.team->share(count, &watched, [](void* given, int64_t task, int64_t thread) {
        const Watched& w = *(const Watched*)given;
        Watch& watch = w.session.watch;
        if (watch.over.load(std::memory_order_relaxed)) return;
        w.work(w.context, task, thread);
        if (!thread && nanoseconds() > watch.next) ask_whether_over(w.session);
    });
}

// Calls each(memory, bytes) for all that an interrupted run must restore: states, counts and tallies.
template <class Each>
static void each_kept(const Session& session, const Run& run, Each each) {
    const Op& last = session.plan.ops[session.plan.count - 1];
    if (!run.fresh) each(session.state_arena, session.state_bytes);
    if (run.counts) each((char*)run.counts, run.N * last.C * last.P() * (int64_t)sizeof *run.counts);
    each((char*)run.tally, engine::tallies * session.plan.count * (int64_t)sizeof *run.tally);
}

// Begins to watch a run, whose memory is already allocated. `expected`: nanoseconds, 0 if unknown. If there is no memory to
// save what it changes, the run is not watched.
static void watch_run(Session& session, const Run& run, int64_t expected) {
    Watch& watch = session.watch;
    watch.asks = nullptr, watch.over.store(false);
    if (!run.may_go_on) return;
    if (run.goes_on) {
        if (expected && expected < worth_keeping) return;
        catch_up(session);
        int64_t bytes = 0;
        each_kept(session, run, [&](char*, int64_t size) { bytes += size; });
        char* to = session.kept.try_reserve(bytes);
        if (!to) return;
        each_kept(session, run, [&](char* from, int64_t size) { memcpy(to, from, size), to += size; });
    }
    watch.asks = run.may_go_on, watch.context = run.context, watch.next = nanoseconds() + ask_again;
}

// Restores what an interrupted run has changed.
static void put_back(Session& session, const Run& run) {
    for (int64_t k = 0; k < session.plan.count; k++) forget(session.states[k]);
    if (!run.goes_on) return;
    const char* from = session.kept.data;
    each_kept(session, run, [&](char* to, int64_t size) { memcpy(to, from, size), from += size; });
}

}  // namespace PK_TARGET
