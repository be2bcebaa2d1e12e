// Threads that share the tasks of runs: the team's own, or lent for a run. Each has a range of the tasks, so that neighbours
// are mostly done by one thread, whose caches have what the layer before wrote there, and so that threads seldom write to one
// cache line; with none left, it takes the tasks of others. The caller is one of the threads and does not wait for another to
// wake up: any thread that is awake takes tasks, and a part ends when all its tasks are done. Idle threads spin for
// a bounded time and then sleep. Waking one costs the caller some microseconds, and the thread most of a millisecond, since
// its core sleeps too. So threads are woken once per run, and only for runs that are long or follow each other closely. Lent
// threads are those of an OpenMP region, whose end does wait for all of them.
#pragma once
#include <atomic>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "../work.h"

// glibc 2.34 gave the thread functions new symbol versions. It still has the old versions, the only ones in manylinux_2_28, so
// those are used. A program linked with the static library cannot choose versions (c/CMakeLists.txt).
#if !defined(PK_ANY_GLIBC) && defined(__GLIBC__) && defined(__x86_64__)
__asm__(".symver pthread_create, pthread_create@GLIBC_2.2.5");
__asm__(".symver pthread_join, pthread_join@GLIBC_2.2.5");
#elif !defined(PK_ANY_GLIBC) && defined(__GLIBC__) && defined(__aarch64__)
__asm__(".symver pthread_create, pthread_create@GLIBC_2.17");
__asm__(".symver pthread_join, pthread_join@GLIBC_2.17");
#endif

namespace PK_TARGET {

static inline void pause_thread() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static inline int64_t nanoseconds() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * (int64_t)1000000000 + now.tv_nsec;
}

// Spins until there() is true, for at most `limit` nanoseconds; returns whether it became true.
template <class There>
static inline bool spin(int64_t limit, There there) {
    constexpr int pauses = 32;  // between two looks at the clock
    int64_t start = 0;
    for (;;) {
        for (int i = 0; i < pauses; i++) {
            if (there()) return true;
            pause_thread();
        }
        const int64_t now = nanoseconds();
        if (!start) start = now;
        if (now - start > limit) return false;
    }
}

class Team {
public:
    using Work = void (*)(void* context, int64_t task, int64_t thread);

    // `lent`: the team has no threads of its own, and those that call help during a run share it.
    explicit Team(int64_t asked, bool lent = false) : asked(asked), lent(lent), size(asked), pid(getpid()) {
        pthread_mutex_init(&mutex, nullptr);
        pthread_cond_init(&work_there, nullptr);
        pthread_cond_init(&all_done, nullptr);
        ranges = new Range[(size_t)asked];
        if (lent) return;
        threads = (pthread_t*)calloc((size_t)size, sizeof *threads);
        seats = (Seat*)calloc((size_t)size, sizeof *seats);
        if (!threads || !seats) size = 1;  // only the caller
        for (int64_t i = 1; i < size; i++) {
            seats[i] = {this, i};
            if (pthread_create(&threads[i], nullptr, live, &seats[i])) {  // as many as the system grants
                size = i;
                break;
            }
        }
    }
    ~Team() {
        if (pid == getpid()) {  // a fork has no copies of the threads
            if (!lent) publish(0, true);
            for (int64_t i = 1; i < size && !lent; i++) pthread_join(threads[i], nullptr);
            pthread_cond_destroy(&work_there);
            pthread_cond_destroy(&all_done);
            pthread_mutex_destroy(&mutex);
        }
        delete[] ranges;
        free(threads);
        free(seats);
    }
    Team(const Team&) = delete;

    // Whether the team has as many threads as wanted, and was not made before a fork.
    bool fits(int64_t wanted) const { return asked == wanted && pid == getpid(); }

    // Call begin and end around each run. `expected`: the time of the run on one thread, in nanoseconds.
    void begin(int64_t expected) {
        began = nanoseconds();
        const int64_t pause = began - ended;
        wakes = pause < spin_time || expected >= (pause < short_pause ? worth_waking / 2 : worth_waking);
        helped.store(false, std::memory_order_relaxed);
        woken = began - wake_again;
        alone = size == 1 || (!wakes && (lent || sleepers.load() == size - 1));
        ends.store(false);
    }
    // Returns an estimate of the run's time on one thread: 1.5 times the measured time if other threads helped, since they join
    // late.
    int64_t end() {
        ended = nanoseconds();
        return helped.load(std::memory_order_relaxed) ? (ended - began) * 3 / 2 : ended - began;
    }

    // The number of threads to cut the work of this run for: 1, or all. It does not change during a run, because a thread that
    // is counted as asleep may have been woken by the last run and join at any time.
    int64_t crew() const { return alone ? 1 : asked; }
    bool is_lent() const { return lent; }

    // A lent thread shares the run that has begun, until its caller calls dismiss.
    void help(int64_t thread) { live_as(thread, no_epoch); }
    void dismiss() { publish(0, true); }

    // Calls work(context, task, thread) for each task below count, cut for the run's crew.
    void share(int64_t count, void* context, Work work) {
        if (count <= 1 || alone) {
            for (int64_t task = 0; task < count; task++) work(context, task, 0);
            return;
        }
        for (int64_t first = 0; first < count; first += most_tasks)
            share_part(first, least(most_tasks, count - first), context, work);
    }

private:
    struct Job {
        void* context;
        Work work;
        int64_t first, count;  // tasks of the part
    };
    // What is left of a thread's tasks: the number of the part (epoch), the end of the tasks, and the next one, in one word, so
    // that a late thread cannot confuse a task of one part with a task of another.
    struct alignas(64) Range {
        std::atomic<uint64_t> left{0};
    };
    struct Seat {
        Team* team;
        int64_t thread;
    };
    // In nanoseconds. Other threads are woken for a run of at least `worth_waking`, or half of that if it follows soon after
    // the last one; and for any run that comes within `spin_time` of the last, since more are likely to follow. A step of a
    // stream that had to wait for its events is faster on one thread.
    static constexpr int64_t spin_time = 150000, worth_waking = 2000000, wake_again = 500000, short_pause = 1000000;
    // Tasks per part: as many as a range has bits for. Few in the checked build, so that tests have several parts.
    static constexpr int64_t task_bits = 20, task_mask = (1 << task_bits) - 1;
    static constexpr int64_t most_tasks = PK_IS_CHECKED ? 50 : task_mask;

    void share_part(int64_t first, int64_t count, void* context, Work work) {
        Job& job = jobs[(epoch + 1) % 2];
        job = {context, work, first, count};
        done.store(0, std::memory_order_relaxed);
        publish(count, false);
        take(epoch, 0);
        if (spin(spin_time, [&] { return done.load(std::memory_order_acquire) >= count; })) return;
        pthread_mutex_lock(&mutex);
        waits.store(true);
        while (done.load() < count) pthread_cond_wait(&all_done, &mutex);
        waits.store(false);
        pthread_mutex_unlock(&mutex);
    }

    const int64_t asked;
    const bool lent;
    int64_t size;
    const pid_t pid;
    pthread_t* threads = nullptr;
    Seat* seats = nullptr;
    Job jobs[2];
    uint64_t epoch = 0;
    int64_t began = 0, ended = 0, woken = 0;
    bool wakes = true, alone = true;
    Range* ranges = nullptr;  // of the current part, for each thread
    alignas(64) std::atomic<int64_t> done{0};
    alignas(64) std::atomic<int64_t> sleepers{0};
    std::atomic<bool> ends{false}, waits{false}, helped{false};
    pthread_mutex_t mutex;
    pthread_cond_t work_there, all_done;

    // What a lent thread has seen. Numbers of parts begin again at 0, so any of them may be the last when it comes.
    static constexpr uint64_t no_epoch = ~(uint64_t)0;

    static uint64_t epoch_of(uint64_t left) { return left >> 2 * task_bits; }

    void publish(int64_t count, bool last) {
        epoch = (epoch + 1) & 0xffffff;
        if (last) ends.store(true);
        for (int64_t k = 0; k < asked; k++) {
            const uint64_t next = (uint64_t)ceil_div(count * k, asked), end = (uint64_t)ceil_div(count * (k + 1), asked);
            ranges[k].left.store(epoch << 2 * task_bits | end << task_bits | next, std::memory_order_release);
        }
        // Not a load, which the stores could follow: a thread looks at its range after it has counted itself as a sleeper.
        if (!sleepers.fetch_add(0) || !(last || may_wake())) return;
        pthread_mutex_lock(&mutex);
        pthread_cond_broadcast(&work_there);
        pthread_mutex_unlock(&mutex);
    }
    // Limits waking to once per `wake_again`; a long run wakes threads repeatedly, as some may have fallen asleep again.
    bool may_wake() {
        if (!wakes) return false;
        const int64_t now = nanoseconds();
        if (now - woken < wake_again) return false;
        woken = now;
        return true;
    }

    // Takes the next task of a range, if that is one of the part.
    static bool take_one(Range& range, uint64_t part, int64_t& task) {
        uint64_t left = range.left.load(std::memory_order_relaxed);
        while (epoch_of(left) == part && (left & task_mask) < (left >> task_bits & task_mask)) {
            if (!range.left.compare_exchange_weak(left, left + 1, std::memory_order_acq_rel, std::memory_order_relaxed))
                continue;
            task = left & task_mask;
            return true;
        }
        return false;
    }

    // Runs tasks of a part until none are left, the thread's own first.
    void take(uint64_t part, int64_t thread) {
        int64_t ran = 0, count = 0, task = 0;
        for (int64_t k = 0; k < asked; k++)
            while (take_one(ranges[(thread + k) % asked], part, task)) {
                const Job job = jobs[part % 2];  // which does not change before the task is done
                job.work(job.context, job.first + task, thread);
                ran++, count = job.count;
            }
        if (!ran) return;
        if (thread) helped.store(true, std::memory_order_relaxed);
        if (done.fetch_add(ran) + ran < count || !waits.load()) return;
        pthread_mutex_lock(&mutex);
        pthread_cond_signal(&all_done);
        pthread_mutex_unlock(&mutex);
    }

    static void* live(void* seat) {
        ((Seat*)seat)->team->live_as(((Seat*)seat)->thread, 0);
        return nullptr;
    }

    // `seen`: the last part that the thread knows of.
    void live_as(int64_t thread, uint64_t seen) {
        for (;;) {
            uint64_t now = seen;
            spin(spin_time, [&] { return (now = epoch_of(ranges[thread].left.load(std::memory_order_acquire))) != seen; });
            if (now == seen) {
                pthread_mutex_lock(&mutex);
                sleepers.fetch_add(1);
                while ((now = epoch_of(ranges[thread].left.load())) == seen) pthread_cond_wait(&work_there, &mutex);
                sleepers.fetch_sub(1);
                pthread_mutex_unlock(&mutex);
            }
            if (ends.load()) return;
            take(now, thread);
            seen = now;
        }
    }
};

}  // namespace PK_TARGET
