#include "stream.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#if defined(__linux__)
#include <sched.h>
#elif defined(_WIN32)
#include <thread>
#endif

using namespace proxykernels;

pk_stream::pk_stream(const pk_network& network, int64_t N, int64_t threads)
    : network(&network), N(N), threads(threads), given(new Given[network.plan.count()]) {
    const Plan& plan = network.plan;
    if (!plan.last().real) counts.resize((size_t)(N * plan.last().image().size()));
    began.resize((size_t)N), tally.resize((size_t)(plan.count() * engine::tallies)), products.resize((size_t)plan.count());
    const int64_t read = plan.with_logits();
    if (read >= 0) potentials.resize((size_t)(N * plan.operations[read].image().size())), start.resize(potentials.size());
    given[plan.count() - 1].wanted = true;
    rest();
    session = network.functions->make_session(network.packed);
    network.users.fetch_add(1);  // nothing fails from here on
}

pk_stream::~pk_stream() {
    mark = 0;
    network->functions->free_session(session);
    leave(network);
}

void pk_stream::rest() {
    is_fresh = true, steps = 0;
    std::fill(began.begin(), began.end(), 0);
    std::fill(counts.begin(), counts.end(), 0);
    std::fill(tally.begin(), tally.end(), 0);
    std::fill(products.begin(), products.end(), 0);
    if (!start.empty()) put_rest(*this, plan().with_logits(), start.data());
}

namespace proxykernels {

void put_rest(const pk_stream& stream, int64_t layer, float* state) {
    const Operation& op = stream.plan().operations[layer];
    const int64_t size = stream.plan().state_size(op);
    std::fill(state, state + stream.N * size, 0.0f);
    if (!op.has_neurons) return;
    const int64_t states = stream.plan().states(op), P = op.image().P(), C = op.C;
    for (int64_t i = 0; i < stream.N * states * P; i++)
        memcpy(state + i * C, op.neurons.start + i / P % states * C, (size_t)C * sizeof(float));
}

bool check_size(const char* name, size_t size, __int128 wanted, Failure& failure) {
    if ((__int128)size == wanted) return true;
    const double shown = (double)wanted;
    return failure.set(PK_BAD_ARGUMENT, "%s must have %.0f elements, got %zu", name, shown, size);
}

bool check_layer(const pk_stream& stream, int64_t layer, Failure& failure) {
    const int64_t count = stream.plan().count();
    if (0 <= layer && layer < count) return true;
    return failure.set(PK_BAD_ARGUMENT, "layer must be 0 to %lld, got %lld", (long long)count - 1, (long long)layer);
}

// As many as OMP_NUM_THREADS says, or as the process has processors.
static int64_t usual_threads() {
    const char* const said = getenv("OMP_NUM_THREADS");
    long number = 0;  // strtol would ask for glibc 2.38
    if (said) std::from_chars(said, said + strlen(said), number);
    if (number > 0) return std::min(number, 1024L);
#if defined(__linux__)
    cpu_set_t set;
    if (!sched_getaffinity(0, sizeof set, &set)) return CPU_COUNT(&set);
#endif
#if defined(_WIN32)
    return std::max(1u, std::thread::hardware_concurrency());
#elif defined(_SC_NPROCESSORS_ONLN)
    return std::max(1L, sysconf(_SC_NPROCESSORS_ONLN));
#else
    return 1;
#endif
}

// Bytes of a sample: its states, its counts, and the largest output of a step.
static double sample_bytes(const Plan& plan) {
    double states = 0, largest = 0;
    for (const Operation& op : plan.operations) {
        states += 4.0 * (double)plan.state_size(op);
        largest = std::max(largest, (op.real ? 4.0 : 0.125) * (double)op.image().size());
    }
    return states + 4.0 * (double)plan.last().image().size() + largest;
}

}  // namespace proxykernels

extern "C" {

pk_status pk_stream_open(const pk_network* network, int64_t batch, int64_t threads, pk_stream** stream, pk_error* error) {
    return answer(error, [&](Failure& failure) {
        if (!is_network(network)) return failure.set(PK_BAD_ARGUMENT, "network is NULL, was closed, or is something else");
        if (!stream) return failure.set(PK_BAD_ARGUMENT, "stream must not be NULL");
        if (batch < 1 || batch >= most_size)
            return failure.set(PK_BAD_ARGUMENT, "batch must be at least 1 and below 2^31, got %lld", (long long)batch);
        if (threads < 0 || threads > 1024)
            return failure.set(PK_BAD_ARGUMENT, "threads must be 0 to 1024, got %lld", (long long)threads);
        const double needed = (double)batch * sample_bytes(network->plan);
        if (needed > 9e18 || !PK_TARGET::machine_has((int64_t)needed))
            return failure.set(PK_NO_MEMORY,
                               "batch = %lld samples take %.3g GiB for their states and a step, which this machine "
                               "does not have; take a smaller batch",
                               (long long)batch, needed / 0x1p30);
        *stream = new pk_stream(*network, batch, threads ? threads : usual_threads());
        return true;
    });
}

void pk_stream_close(pk_stream** stream) {
    if (!stream || !*stream || (*stream)->mark != pk_stream::alive) return;
    delete *stream;
    *stream = nullptr;
}

pk_status pk_watch(pk_stream* stream, int64_t layer, int32_t keep, pk_error* error) {
    return use(stream, stream, error, [&](pk_stream& s, Failure& failure) {
        if (!check_layer(s, layer, failure)) return false;
        s.given[layer].wanted = keep || layer == s.plan().count() - 1;
        return true;
    });
}

pk_status pk_reset(pk_stream* stream, pk_error* error) {
    return use(stream, stream, error, [&](pk_stream& s, Failure&) {
        s.rest();
        return true;
    });
}

pk_status pk_steps(pk_stream* stream, int64_t* steps, pk_error* error) {
    return use(stream, steps, error, [&](pk_stream& s, Failure&) {
        *steps = s.steps - *std::min_element(s.began.begin(), s.began.end());
        return true;
    });
}

pk_status pk_sample_steps(pk_stream* stream, int64_t* steps, size_t size, pk_error* error) {
    return use(stream, steps, error, [&](pk_stream& s, Failure& failure) {
        if (!check_size("steps", size, (__int128)s.N, failure)) return false;
        for (int64_t n = 0; n < s.N; n++) steps[n] = s.steps_of(n);
        return true;
    });
}

pk_status pk_memory(pk_stream* stream, int64_t* bytes, pk_error* error) {
    return use(stream, bytes, error, [&](pk_stream& s, Failure&) {
        engine::Sizes sizes{};
        s.network->functions->sizes(s.session, &sizes);
        *bytes = sizes.arena;
        return true;
    });
}

}  // extern "C"
