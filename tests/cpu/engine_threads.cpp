// Runs of the engine whose threads wake late. First in the midst of a run that was cut for its caller alone; then at random:
// several callers at once, sizes, streams, rules that stop samples, numbers of threads. What each gives is what one thread gives.
//
//     engine_threads SEED SECONDS [changes | recurrent]     changes: of sigma-delta neurons; both at random alone
#include "threaded_network.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <time.h>
#include <unistd.h>

#if defined(__linux__)
#include <sys/resource.h>
#include <sys/syscall.h>
#endif

#undef pthread_cond_wait  // late_wakes.h
#undef clock_gettime

namespace portable { extern const engine::Functions functions; }

namespace {

const engine::Functions& library = portable::functions;
std::atomic<int64_t> runs{0}, fired{0}, stopped{0};

struct Answer {
    std::vector<uint8_t> spikes;
    std::vector<int32_t> counts;
    std::vector<int64_t> steps;
    bool operator==(const Answer& o) const { return spikes == o.spikes && counts == o.counts && steps == o.steps; }
};

void stop(void* context, const int32_t* counts, const float*, const int64_t* samples, int64_t n, int64_t t, uint8_t* decided) {
    (*(const std::function<void()>*)context)();
    for (int64_t i = 0; i < n; i++) {
        if (!counts) {
            decided[i] = (samples[i] + t / 2) % 3 == 0;
            continue;
        }
        int32_t sum = 0;
        for (int64_t c = 0; c < classes; c++) sum += counts[i * classes + c];
        decided[i] = sum >= enough;
    }
}

struct Session {
    engine::Session* const session;
    explicit Session(const engine::Plan* plan) : session(library.make_session(plan)) {}
    ~Session() { library.free_session(session); }
    Session(const Session&) = delete;

    // `meanwhile`: called where the rule is asked.
    Answer run(
        const float* x, int64_t N, int64_t T, int64_t threads, bool stops, const std::vector<int64_t>& chunks,
        std::function<void()> meanwhile = [] {}) {
        const int64_t frame = frame_bytes();
        Answer answer{std::vector<uint8_t>(N * T * frame), std::vector<int32_t>(N * classes), std::vector<int64_t>(N, T)};
        std::vector<int64_t> tally(engine::tallies * 7);
        int64_t start = 0;
        for (const int64_t steps : chunks) {
            std::vector<uint8_t> part(N * steps * frame);
            engine::Run run{};
            run.x = x, run.kind = engine::HeldValues, run.T = steps, run.N = N, run.threads = threads;
            run.fresh = !start, run.goes_on = start + steps < T;
            run.tally = tally.data();
            if (is_sigma_delta) run.values = (float*)part.data();
            else run.spikes = part.data(), run.counts = answer.counts.data();
            if (stops)
                run.stop = stop, run.stop_every = is_sigma_delta ? 2 : 8, run.context = &meanwhile,
                run.steps = answer.steps.data();
            run.may_go_on = [](void*) -> int64_t { return 1; };
            if (library.run(session, &run) != engine::Ran) abort();
            if (is_sigma_delta) memcpy(&answer.spikes[start * N * frame], part.data(), part.size());
            for (int64_t n = 0; n < N && !is_sigma_delta; n++)
                memcpy(&answer.spikes[(n * T + start) * frame], &part[n * steps * frame], steps * frame);
            start += steps;
        }
        return answer;
    }
};

// What one thread gives, each asked once.
struct Expected {
    const engine::Plan* plan;
    const float* x;
    std::mutex mutex;
    std::map<std::vector<int64_t>, Answer> known;

    const Answer& operator()(int64_t N, int64_t T, bool stops) {
        const std::lock_guard<std::mutex> locked(mutex);
        const std::vector<int64_t> key{N, T, stops};
        if (!known.count(key)) known[key] = Session(plan).run(x, N, T, 1, stops, {T});
        return known[key];
    }
};

void wait(int64_t microseconds) { usleep((useconds_t)microseconds); }
// Whether it is there within so many milliseconds.
template <class There>
bool wait_for(There there, int64_t milliseconds) {
    for (int64_t i = 0; i < 10 * milliseconds && !there(); i++) wait(100);
    return there();
}

// What the engine's threads see: the time, and when they come.
struct Stage {
    std::atomic<int64_t> shift{0}, stands_at{0};  // nanoseconds; 0: the clock goes
    std::atomic<bool> in_turns{true}, closed{false};  // the gate where those who wake are held; else they come at random
    std::atomic<int64_t> asleep{0}, held{0}, came{0};
} stage;

[[noreturn]] void wrong(const char* where, int64_t N, int64_t T, int64_t threads, bool stops) {
    printf("WRONG: %s, N = %ld, T = %ld, threads = %ld, stops = %d\n", where, (long)N, (long)T, (long)threads, stops);
    exit(1);
}

constexpr int64_t millisecond = 1000000;

int64_t time_now() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 * millisecond + now.tv_nsec;
}

// A run of so many nanoseconds by the clock that the engine sees, half of them when the rule is asked first, at step 8 of 16.
Answer run_for(int64_t time, Session& session, const float* x, int64_t N, int64_t threads, std::function<void()> meanwhile) {
    stage.stands_at = time_now() + stage.shift;
    const Answer answer = session.run(x, N, 16, threads, true, {16}, [&] {
        stage.stands_at += time / 2;
        meanwhile();
    });
    stage.shift = stage.stands_at - time_now();
    stage.stands_at = 0;
    return answer;
}

// A long run wakes the others, who are held at a gate.
void wake_and_hold(Session& session, const float* x, int64_t threads) {
    const int64_t others = threads - 1;
    do {
        stage.closed = false;
        wait_for([&] { return stage.asleep == others; }, 1000);
        stage.closed = true;
        run_for(3 * millisecond, session, x, most_N, threads, [] {});
        run_for(3 * millisecond, session, x, most_N, threads, [] {});  // is expected to be long, after one that was
    } while (!wait_for([&] { return stage.held == others; }, 50));  // else somebody was awake
}

// The calling thread gets the processor where no other of the program wants it.
void yield_to_others() {
#if defined(__linux__)
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 19);
#endif
}

// A short run, which wakes nobody, is cut for its caller while the others are counted as asleep, but have been woken. They look
// for work in its midst, on a clock that stands, so as long as it lasts.
void wake_in_the_midst(Expected& expected, int64_t threads) {
    Session session(expected.plan);
    const int64_t few = most_N / 2;
    run_for(millisecond, session, expected.x, few, threads, [] {});  // from here on it has its threads
    yield_to_others();
    for (int64_t turn = 0; turn < 3; turn++) {
        wake_and_hold(session, expected.x, threads);
        stage.shift += 10 * millisecond;
        const int64_t before = stage.came;
        const Answer answer = run_for(millisecond, session, expected.x, few, threads, [&] {
            if (!stage.closed) return;
            stage.closed = false;
            if (!wait_for([&] { return stage.came == before + threads - 1; }, 10000)) abort();
            wait(5000);
        });
        if (!(answer == expected(few, 16, true))) wrong("woken in the midst", few, 16, threads, true);
    }
}

void call(Expected& expected, Random random, time_t end) {
    std::unique_ptr<Session> sessions[2];
    for (auto& session : sessions) session = std::make_unique<Session>(expected.plan);
    int64_t threads = 2;
    while (time(nullptr) < end) {
        auto& session = sessions[random.draw(0, 1)];
        const bool is_long = random.draw(0, 2) == 0, stops = random.draw(0, 3) == 0;
        const int64_t N = is_long ? random.draw(most_N / 2, most_N) : random.draw(1, 2),
                      T = is_long ? most_T : random.draw(1, 24);
        const bool streams = !stops && random.draw(0, 2) == 0;
        std::vector<int64_t> chunks;
        for (int64_t t = 0; t < T; t += chunks.back()) chunks.push_back(streams ? std::min(random.draw(1, 20), T - t) : T);
        if (random.draw(0, 19) == 0) threads = random.draw(1, 4);
        if (random.draw(0, 49) == 0) session = std::make_unique<Session>(expected.plan);  // the threads of the last one end
        if (random.draw(0, 3)) wait(random.draw(1000, 3000));  // a short run that comes so late wakes nobody
        const Answer& right = expected(N, T, stops);
        if (!(session->run(expected.x, N, T, threads, stops, chunks) == right)) wrong("at random", N, T, threads, stops);
        for (const int32_t count : right.counts) fired += count;
        for (const uint8_t part : right.spikes) fired += is_sigma_delta && part;
        for (const int64_t steps : right.steps) stopped += steps < T;
        runs++;
    }
}

}  // namespace

int late_cond_wait(pthread_cond_t* condition, pthread_mutex_t* mutex) {
    static thread_local Random random{(uint64_t)(uintptr_t)&random};
    stage.asleep++;
    if (stage.in_turns || random.draw(0, 9)) pthread_cond_wait(condition, mutex);  // else woken for nothing
    stage.asleep--;
    pthread_mutex_unlock(mutex);
    stage.held++;
    while (stage.in_turns && stage.closed) wait(100);
    if (!stage.in_turns) wait(random.draw(0, 8000));
    stage.held--;
    pthread_mutex_lock(mutex);
    stage.came++;
    return 0;
}

int shown_time(clockid_t, timespec* time) {
    const int64_t stands_at = stage.stands_at, now = stands_at ? stands_at : time_now() + stage.shift;
    time->tv_sec = now / (1000 * millisecond), time->tv_nsec = now % (1000 * millisecond);
    return 0;
}

int main(int count, char** arguments) {
    is_sigma_delta = count > 3 && !strcmp(arguments[3], "changes"), is_recurrent = count > 3 && !is_sigma_delta;
    Random random{strtoull(arguments[1], nullptr, 10)};
    engine::Plan* plan;
    {
        const Network network(random);
        const engine::Description described{{C, H, W}, 0, network.operations.data(), (int64_t)network.operations.size()};
        plan = library.make_plan(&described, 0);
    }
    const std::vector<float> x = random.sixteenths(most_N * C * H * W, 0, 16);
    Expected expected{plan, x.data(), {}, {}};
    for (const int64_t threads : {2, 3})
        if (!is_sigma_delta && !is_recurrent) std::thread([&] { wake_in_the_midst(expected, threads); }).join();
    stage.in_turns = false;
    const time_t end = time(nullptr) + atoi(arguments[2]);
    std::vector<std::thread> callers;
    for (int64_t i = 0; i < 2; i++) callers.emplace_back([&, i] { call(expected, {random.state + (uint64_t)i * 977}, end); });
    for (std::thread& caller : callers) caller.join();
    library.free_plan(plan);
    printf("%ld runs, %ld spikes, %ld samples stopped, %ld late wake-ups, 0 wrong\n", (long)runs, (long)fired, (long)stopped,
           (long)stage.came);
    return runs && fired && stopped && stage.came ? 0 : 1;
}
