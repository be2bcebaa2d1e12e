// Threads that share the tasks of one run. The caller is one of them, and never waits for another to wake: whoever is there
// takes tasks, and a part is over when its tasks are done. Between parts threads spin for a bounded time, then sleep.
#pragma once
#include <atomic>
#include <pthread.h>
#include <unistd.h>

#include "../work.h"

// glibc 2.34 gave threads new versions when it moved them; the old ones are there too, and manylinux_2_28 has no others.
#if defined(__GLIBC__) && defined(__x86_64__)
__asm__(".symver pthread_create, pthread_create@GLIBC_2.2.5");
__asm__(".symver pthread_join, pthread_join@GLIBC_2.2.5");
#endif

namespace PK_TARGET {

static inline void pause_thread() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

class Team {
public:
    using Work = void (*)(void* context, int64_t task, int64_t thread);

    explicit Team(int64_t asked) : asked(asked), size(asked), pid(getpid()) {
        threads = (pthread_t*)calloc((size_t)size, sizeof *threads);
        seats = (Seat*)calloc((size_t)size, sizeof *seats);
        if (!threads || !seats) abort();  // out of memory, like allocate()
        pthread_mutex_init(&mutex, nullptr);
        pthread_cond_init(&work_there, nullptr);
        pthread_cond_init(&all_done, nullptr);
        for (int64_t i = 1; i < size; i++) {
            seats[i] = {this, i};
            if (pthread_create(&threads[i], nullptr, live, &seats[i])) {  // as many as the system grants
                size = i;
                break;
            }
        }
    }
    ~Team() {
        if (pid == getpid()) {  // threads do not live on in a child of a fork
            publish(0, true);
            for (int64_t i = 1; i < size; i++) pthread_join(threads[i], nullptr);
            pthread_cond_destroy(&work_there);
            pthread_cond_destroy(&all_done);
            pthread_mutex_destroy(&mutex);
        }
        free(threads);
        free(seats);
    }
    Team(const Team&) = delete;

    // Whether these are as many threads as are wanted, and alive.
    bool fits(int64_t wanted) const { return asked == wanted && pid == getpid(); }

    // Calls work(context, task, thread) for each task below count.
    void share(int64_t count, void* context, Work work) {
        PK_ASSERT(count < most_tasks);
        if (count <= 1 || size == 1) {
            for (int64_t task = 0; task < count; task++) work(context, task, 0);
            return;
        }
        Job& job = jobs[(epoch + 1) % 2];
        job.context = context, job.work = work;
        done.store(0, std::memory_order_relaxed);
        publish(count, false);
        take(epoch, 0);
        for (int64_t spin = 0; done.load(std::memory_order_acquire) < count; spin++) {
            if (spin < spins) {
                pause_thread();
                continue;
            }
            pthread_mutex_lock(&mutex);
            waits.store(true);
            while (done.load() < count) pthread_cond_wait(&all_done, &mutex);
            waits.store(false);
            pthread_mutex_unlock(&mutex);
        }
    }

    static constexpr int64_t most_tasks = (1 << 20) - 4096;  // with room for each thread's last, vain look

private:
    struct Job {
        void* context;
        Work work;
    };
    struct Seat {
        Team* team;
        int64_t thread;
    };
    static constexpr int64_t spins = 2000;  // about 100 microseconds

    const int64_t asked;
    int64_t size;
    const pid_t pid;
    pthread_t* threads;
    Seat* seats;
    Job jobs[2];
    uint64_t epoch = 0;
    // The part that is shared: its number, how many tasks it has, and the next one; in one word, so that a thread that comes
    // late cannot take the task of one part for that of another.
    alignas(64) std::atomic<uint64_t> ticket{0};
    alignas(64) std::atomic<int64_t> done{0};
    alignas(64) std::atomic<int64_t> sleepers{0};
    std::atomic<bool> ends{false}, waits{false};
    pthread_mutex_t mutex;
    pthread_cond_t work_there, all_done;

    static uint64_t epoch_of(uint64_t ticket) { return ticket >> 40; }

    void publish(int64_t count, bool last) {
        epoch = (epoch + 1) & 0xffffff;
        if (last) ends.store(true);
        ticket.store(epoch << 40 | (uint64_t)count << 20);
        if (sleepers.load()) {
            pthread_mutex_lock(&mutex);
            pthread_cond_broadcast(&work_there);
            pthread_mutex_unlock(&mutex);
        }
    }

    // Takes tasks of a part until there are none left.
    void take(uint64_t part, int64_t thread) {
        for (;;) {
            if (epoch_of(ticket.load(std::memory_order_relaxed)) != part) return;
            const uint64_t mine = ticket.fetch_add(1, std::memory_order_acq_rel);
            const int64_t count = mine >> 20 & 0xfffff, task = mine & 0xfffff;
            if (task >= count) return;
            const uint64_t at = epoch_of(mine);  // a new part may have begun: its task is as good
            const Job job = jobs[at % 2];
            job.work(job.context, task, thread);
            if (done.fetch_add(1) + 1 == count && waits.load()) {
                pthread_mutex_lock(&mutex);
                pthread_cond_signal(&all_done);
                pthread_mutex_unlock(&mutex);
            }
            part = at;
        }
    }

    static void* live(void* seat) {
        Team& team = *((Seat*)seat)->team;
        const int64_t thread = ((Seat*)seat)->thread;
        uint64_t seen = 0;
        for (;;) {
            uint64_t now = epoch_of(team.ticket.load(std::memory_order_acquire));
            for (int64_t spin = 0; now == seen && spin < spins; spin++) {
                pause_thread();
                now = epoch_of(team.ticket.load(std::memory_order_acquire));
            }
            if (now == seen) {
                pthread_mutex_lock(&team.mutex);
                team.sleepers.fetch_add(1);
                while ((now = epoch_of(team.ticket.load())) == seen) pthread_cond_wait(&team.work_there, &team.mutex);
                team.sleepers.fetch_sub(1);
                pthread_mutex_unlock(&team.mutex);
            }
            if (team.ends.load()) return nullptr;
            team.take(now, thread);
            seen = now;
        }
    }
};

}  // namespace PK_TARGET
