// Threads that share each step of a simulation. The work of a step is cut into parts, one per thread. A step begins when all
// parts of the step before are done, and each step costs one message from core to core. No thread waits for another to wake
// up: a part that no thread has taken is free, and is done by a thread that has finished its own. A thread that is late, since
// its core does something else, loses its part after the step.
#pragma once
#include <atomic>
#if __has_include(<sched.h>) && !defined(__wasm__)
#include <sched.h>
#endif

#include "team.h"

namespace PK_TARGET {

static inline void yield_core() {
#if __has_include(<sched.h>) && !defined(__wasm__)
    sched_yield();
#endif
}

constexpr int64_t most_parts = 32;

class SharedSteps {
public:
    const int64_t count, steps;

    SharedSteps(int64_t count, int64_t steps) : count(count), steps(steps) { PK_ASSERT(count <= most_parts); }
    SharedSteps(const SharedSteps&) = delete;

    // Takes part in the steps that are left, beginning with part `own`; calls work(step, part). When the threads of all parts
    // have returned, all steps are done.
    template <class Work>
    void run(int64_t own, Work work) {
        int64_t step = 0;
        if (!claim(own, step)) return;
        for (bool stays = true; stays;) {
            for (int64_t other = 0; other < count; other++)
                if (other != own) reach(other, step, work);
            work(step, own);
            step++;
            stays = step < steps && !part[own].is_late.load(std::memory_order_relaxed);
            part[own].at.store(2 * step + stays, std::memory_order_release);
        }
        for (int64_t other = 0; other < count && step == steps; other++)
            if (take(other, step)) finish(other, step, work);
    }

private:
    static constexpr int64_t patience = 50000;  // nanoseconds; a step takes some microseconds

    // `at`: twice the number of steps that are done, plus 1 while a thread has the part.
    struct alignas(64) Part {
        std::atomic<int64_t> at{0};
        std::atomic<bool> is_late{false};
    };
    Part part[most_parts];

    // Takes a part and its next step; false if there are no more. Another thread has a part for one step at most.
    bool claim(int64_t own, int64_t& step) {
        for (int64_t tries = 1;; tries++) {
            int64_t at = part[own].at.load(std::memory_order_relaxed);
            if (at >= 2 * steps) return false;
            if (at % 2 == 0 && part[own].at.compare_exchange_weak(at, at + 1, std::memory_order_acquire)) {
                step = at / 2;
                return true;
            }
            if (tries % 1024) pause_thread();
            else yield_core();
        }
    }
    // Takes the last of `done` steps of a part, if it is free.
    bool take(int64_t other, int64_t done) {
        int64_t free = 2 * (done - 1);
        return part[other].at.load(std::memory_order_relaxed) == free &&
               part[other].at.compare_exchange_strong(free, free + 1, std::memory_order_acquire);
    }
    template <class Work>
    void finish(int64_t other, int64_t done, Work& work) {
        work(done - 1, other);
        part[other].at.store(2 * done, std::memory_order_release);
    }
    // Returns when a part has done that many steps.
    template <class Work>
    void reach(int64_t other, int64_t done, Work& work) {
        bool took = false;
        const auto there = [&] {
            return part[other].at.load(std::memory_order_acquire) >= 2 * done || (took = take(other, done));
        };
        while (!spin(patience, there)) {
            part[other].is_late.store(true, std::memory_order_relaxed);
            yield_core();
        }
        if (took) finish(other, done, work);
    }
};

}  // namespace PK_TARGET
