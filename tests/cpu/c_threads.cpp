// Threads against processes: threads NET COUNT T RUNS. COUNT threads with a stream each of one network, and as many processes
// with a network each, do the same RUNS calls of T steps, by turns. Says the fewest milliseconds of each, by the clock and of
// processor time; fails if a stream counts other spikes than it does alone.
#include <proxykernels.h>

#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

static constexpr int rounds = 7;

static void must(pk_status status, const pk_error& error) {
    if (status == PK_OK) return;
    fprintf(stderr, "threads: %s\n", error.sentence);
    exit(1);
}

static double now() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Milliseconds that this thread has computed.
static double computed() {
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return 1e3 * (double)now.tv_sec + 1e-6 * (double)now.tv_nsec;
}

struct Taken {
    double clock = 1e300, processor = 1e300;  // milliseconds
    void least(const Taken& other) { clock = std::min(clock, other.clock), processor = std::min(processor, other.processor); }
};

static pk_network* open_network(const char* path) {
    pk_error error;
    pk_network* network = nullptr;
    must(pk_network_open(path, nullptr, &network, &error), error);
    return network;
}

// A stream, and what it does: runs of images of its own, and steps that go on.
class Worker {
public:
    Worker(const pk_network* network, unsigned seed, int64_t T) : T(T) {
        must(pk_network_info(network, &info, &error), error);
        must(pk_stream_open(network, 1, 1, &stream, &error), error);
        image.resize((size_t)(info.C * info.H * info.W));
        for (float& value : image) value = (float)((seed = seed * 1664525 + 1013904223) >> 24) / 256;
    }
    ~Worker() { pk_stream_close(&stream); }
    std::vector<int32_t> work(int runs) {
        std::vector<int32_t> counts((size_t)(info.out_C * info.out_H * info.out_W)), all;
        for (int i = 0; i < runs; i++) {
            must(pk_run(stream, PK_IMAGE, image.data(), image.size(), T, &error), error);
            must(pk_counts(stream, counts.data(), counts.size(), &error), error);
            if (i == 0) all = counts;
            if (counts != all) must(PK_BAD_ARGUMENT, error);
            for (int64_t t = 0; t < T; t++) must(pk_advance(stream, PK_IMAGE, image.data(), image.size(), 1, &error), error);
            must(pk_counts(stream, counts.data(), counts.size(), &error), error);
            if (counts != all) must(PK_BAD_ARGUMENT, error);
            must(pk_reset(stream, &error), error);
        }
        return all;
    }

private:
    pk_error error{PK_BAD_ARGUMENT, "a stream counts other spikes than before"};
    pk_info info;
    pk_stream* stream = nullptr;
    std::vector<float> image;
    const int64_t T;
};

using Counts = std::vector<std::vector<int32_t>>;

static Taken by_threads(const char* path, const Counts& expected, int64_t T, int runs) {
    pk_network* network = open_network(path);
    std::mutex mutex;
    std::condition_variable begins;
    bool may_begin = false, right = true;
    size_t ready = 0;
    double processor = 0;
    std::vector<std::thread> threads;
    for (size_t k = 0; k < expected.size(); k++)
        threads.emplace_back([&, k] {
            Worker worker(network, (unsigned)k, T);
            worker.work(1);
            std::unique_lock<std::mutex> lock(mutex);
            ready++;
            begins.notify_all();
            begins.wait(lock, [&] { return may_begin; });
            lock.unlock();
            const double begun = computed();
            const bool same = worker.work(runs) == expected[k];
            const double took = computed() - begun;
            lock.lock();
            right &= same, processor += took;
        });
    std::unique_lock<std::mutex> lock(mutex);
    begins.wait(lock, [&] { return ready == threads.size(); });
    const double start = now();
    may_begin = true;
    begins.notify_all();
    lock.unlock();
    for (std::thread& thread : threads) thread.join();
    const double took = now() - start;
    pk_network_close(&network);
    if (!right) exit(2);
    return {took, processor};
}

static Taken by_processes(const char* path, const Counts& expected, int64_t T, int runs) {
    int ready[2], begin[2];
    if (pipe(ready) || pipe(begin)) exit(3);
    std::vector<pid_t> children;
    for (size_t k = 0; k < expected.size(); k++) {
        children.push_back(fork());
        if (children.back() < 0) exit(3);
        if (children.back()) continue;
        char byte = 0;
        Worker worker(open_network(path), (unsigned)k, T);
        worker.work(1);
        if (write(ready[1], &byte, 1) != 1 || read(begin[0], &byte, 1) != 1) _exit(3);
        const double begun = computed();
        const bool same = worker.work(runs) == expected[k];
        const double took = computed() - begun;
        _exit(write(ready[1], &took, sizeof took) != sizeof took ? 3 : same ? 0 : 2);
    }
    std::vector<char> bytes(expected.size());
    for (char& byte : bytes)
        if (read(ready[0], &byte, 1) != 1) exit(3);
    const double start = now();
    if (write(begin[1], bytes.data(), bytes.size()) != (ssize_t)bytes.size()) exit(3);
    for (pid_t child : children) {
        int status = 0;
        if (waitpid(child, &status, 0) < 0 || status) exit(2);
    }
    Taken all{now() - start, 0};
    double took = 0;
    for (size_t k = 0; k < expected.size() && read(ready[0], &took, sizeof took) == sizeof took; k++) all.processor += took;
    for (int end : {ready[0], ready[1], begin[0], begin[1]}) close(end);
    return all;
}

int main(int argc, char** argv) {
    if (argc != 5) return 4;
    const int64_t T = atoi(argv[3]);
    const int runs = atoi(argv[4]);
    Counts expected;
    pk_network* network = open_network(argv[1]);
    for (int k = 0; k < atoi(argv[2]); k++) expected.push_back(Worker(network, (unsigned)k, T).work(1));
    pk_network_close(&network);
    Taken threads, processes;
    for (int i = 0; i < rounds; i++) {
        threads.least(by_threads(argv[1], expected, T, runs));
        processes.least(by_processes(argv[1], expected, T, runs));
    }
    int64_t spikes = 0;
    for (const auto& counts : expected)
        for (const int32_t count : counts) spikes += count;
    printf("%zu threads %.3f ms, %.3f ms of processors; processes %.3f ms, %.3f ms of processors; %lld spikes\n",
           expected.size(), threads.clock, threads.processor, processes.clock, processes.processor, (long long)spikes);
    return 0;
}
