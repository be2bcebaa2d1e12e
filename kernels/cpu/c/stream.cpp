// A stream: it is opened, watched, brought to rest and closed; and the states of its layers, and of the whole stream, are read
// and written.
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

// States of layers and of whole streams, out of a stream and into it.

namespace proxykernels {

static bool has_state(const pk_stream& s, int64_t layer, size_t size, Failure& failure) {
    if (!check_layer(s, layer, failure)) return false;
    const int64_t wanted = s.plan().state_size(s.plan().operations[layer]);
    if (!wanted) return failure.set(PK_BAD_ARGUMENT, "layer %lld has no state", (long long)layer);
    return check_size("state", size, (__int128)s.N * wanted, failure);
}

static bool write(const pk_stream& s, int64_t layer, const float* state, Failure& failure) {
    if (s.network->functions->states(s.session, layer, nullptr, state, s.N) == engine::Ran) return true;
    return failure.set(PK_NO_MEMORY, "there is no memory for the states of N = %lld samples", (long long)s.N);
}

static bool read(const pk_stream& s, int64_t layer, float* state, Failure& failure) {
    if (s.is_fresh) return put_rest(s, layer, state), true;
    if (s.network->functions->states(s.session, layer, state, nullptr, s.N) == engine::Ran) return true;
    return failure.set(PK_NO_MEMORY, "there is no memory for the states of N = %lld samples", (long long)s.N);
}

// The states of all layers, as they are at rest.
static bool write_rest(const pk_stream& s, Failure& failure) {
    std::vector<float> state;
    for (int64_t k = 0; k < s.plan().count(); k++) {
        const int64_t size = s.plan().state_size(s.plan().operations[k]);
        if (!size) continue;
        state.resize((size_t)(s.N * size));
        put_rest(s, k, state.data());
        if (!write(s, k, state.data(), failure)) return false;
    }
    return true;
}

// Recurrent neurons keep the spikes of the step before, behind their other states.
static bool ends_in_spikes(const pk_stream& s, const Operation& op, const float* state) {
    const int64_t states = s.plan().states(op), C = op.C;
    for (int64_t n = 0; n < s.N; n++) {
        const float* const spikes = state + ((n + 1) * states - 1) * C;
        if (std::any_of(spikes, spikes + C, [](float value) { return value != 0 && value != 1; })) return false;
    }
    return true;
}

// How the memory begins that a whole state is saved to. Behind it lie `began`, tallies, products, counts, what logits are read
// from and count from, and the states of the layers.
struct Saved {
    static constexpr uint64_t as_saved = 0x3165746174736b70;
    uint64_t mark;
    int64_t N, steps, is_fresh, layers, counts, read, states;  // counts, and those that follow: numbers of values

    bool fits(const Saved& o) const {
        return mark == o.mark && N == o.N && layers == o.layers && counts == o.counts && read == o.read && states == o.states;
    }
};

static Saved saved_of(const pk_stream& s) {
    Saved saved{Saved::as_saved,         s.N, s.steps, s.is_fresh, s.plan().count(), (int64_t)s.counts.size(),
                (int64_t)s.start.size(), 0};
    for (const Operation& op : s.plan().operations) saved.states += s.N * s.plan().state_size(op);
    return saved;
}

static size_t saved_bytes(const pk_stream& s) {
    const Saved saved = saved_of(s);
    return sizeof saved + (s.began.size() + s.tally.size() + s.products.size()) * sizeof(int64_t) +
           (size_t)(saved.counts + 2 * saved.read + saved.states) * sizeof(float);
}

// Calls part(values) for each part of a stream but the states of its layers, in the order in which they are saved.
template <class Part>
static void each_part(pk_stream& s, Part part) {
    part(s.began), part(s.tally), part(s.products), part(s.counts), part(s.potentials), part(s.start);
}

static bool save(pk_stream& s, char* to, Failure& failure) {
    const Saved saved = saved_of(s);
    memcpy(to, &saved, sizeof saved), to += sizeof saved;
    each_part(s, [&](const auto& values) {
        const size_t bytes = values.size() * sizeof values[0];
        if (bytes) memcpy(to, values.data(), bytes);
        to += bytes;
    });
    std::vector<float> state;
    for (int64_t k = 0; k < saved.layers; k++) {
        state.resize((size_t)(s.N * s.plan().state_size(s.plan().operations[k])));
        if (state.empty()) continue;
        if (!read(s, k, state.data(), failure)) return false;
        memcpy(to, state.data(), state.size() * sizeof(float)), to += state.size() * sizeof(float);
    }
    return true;
}

// Whether a saved state can be set: it may come from anywhere.
static bool check_saved(pk_stream& s, const char* from, Failure& failure) {
    Saved saved;
    memcpy(&saved, from, sizeof saved), from += sizeof saved;
    if (!saved.fits(saved_of(s)))
        return failure.set(PK_BAD_ARGUMENT,
                           "state is not one that pk_state_save wrote of a stream of this network with N = %lld",
                           (long long)s.N);
    for (int64_t n = 0; n < s.N; n++) {
        int64_t began;
        memcpy(&began, from + n * (int64_t)sizeof began, sizeof began);
        if (began < 0 || began > saved.steps)
            return failure.set(PK_BAD_ARGUMENT, "state is damaged: the steps of sample %lld are wrong", (long long)n);
    }
    from += (s.began.size() + s.tally.size() + s.products.size()) * sizeof(int64_t) + s.counts.size() * sizeof(int32_t);
    std::vector<float> values((size_t)(2 * saved.read + saved.states));
    if (!values.empty()) memcpy(values.data(), from, values.size() * sizeof(float));
    if (!is_finite(values.data(), (int64_t)values.size()))
        return failure.set(PK_NOT_FINITE, "state holds NaN or infinite values");
    const float* state = values.data() + 2 * saved.read;
    for (const Operation& op : s.plan().operations) {
        if (op.kind == engine::Recur && !saved.is_fresh && !ends_in_spikes(s, op, state))
            return failure.set(PK_BAD_ARGUMENT, "state must end in the spikes of the step before, 0 or 1");
        state += s.N * s.plan().state_size(op);
    }
    return true;
}

static bool restore(pk_stream& s, const char* from, Failure& failure) {
    Saved saved;
    memcpy(&saved, from, sizeof saved), from += sizeof saved;
    if (saved.is_fresh) return s.rest(), true;
    const char* states = from;
    each_part(s, [&](const auto& values) { states += values.size() * sizeof values[0]; });
    std::vector<float> state;
    for (int64_t k = 0; k < saved.layers; k++) {
        state.resize((size_t)(s.N * s.plan().state_size(s.plan().operations[k])));
        if (state.empty()) continue;
        memcpy(state.data(), states, state.size() * sizeof(float)), states += state.size() * sizeof(float);
        if (!write(s, k, state.data(), failure)) return false;  // before all else: the first one takes the memory of all
    }
    each_part(s, [&](auto& values) {
        const size_t bytes = values.size() * sizeof values[0];
        if (bytes) memcpy((void*)values.data(), from, bytes);
        from += bytes;
    });
    s.steps = saved.steps, s.is_fresh = false;
    return true;
}

static bool reset_sample(pk_stream& s, int64_t sample, Failure& failure) {
    if (sample < 0 || sample >= s.N)
        return failure.set(PK_BAD_ARGUMENT, "sample must be 0 to %lld, got %lld", (long long)s.N - 1, (long long)sample);
    if (s.plan().is_sigma_delta() && !s.is_fresh)
        return failure.set(
            PK_NOT_HERE,
            "samples of sigma-delta neurons start from rest together, with their biases: call pk_reset, or open a "
            "stream for each");
    std::vector<float> state, at_rest;
    for (int64_t k = 0; k < s.plan().count(); k++) {
        const int64_t size = s.plan().state_size(s.plan().operations[k]);
        if (!size) continue;
        state.resize((size_t)(s.N * size)), at_rest.resize(state.size());
        put_rest(s, k, at_rest.data());
        if (!s.is_fresh) {
            if (!read(s, k, state.data(), failure)) return false;
            std::copy_n(at_rest.begin() + sample * size, size, state.begin() + sample * size);
            if (!write(s, k, state.data(), failure)) return false;
        }
        if (k != s.plan().with_logits()) continue;
        for (std::vector<float>* of : {&s.potentials, &s.start})
            std::copy_n(at_rest.begin() + sample * size, size, of->begin() + sample * size);
    }
    const int64_t size = (int64_t)s.counts.size() / s.N;
    std::fill_n(s.counts.begin() + sample * size, size, 0);
    s.began[sample] = s.steps;
    return true;
}

}  // namespace proxykernels

extern "C" {

pk_status pk_state_read(pk_stream* stream, int64_t layer, float* state, size_t size, pk_error* error) {
    return use(stream, state, error, [&](pk_stream& s, Failure& failure) {
        return has_state(s, layer, size, failure) && read(s, layer, state, failure);
    });
}

pk_status pk_state_write(pk_stream* stream, int64_t layer, const float* state, size_t size, pk_error* error) {
    return use(stream, state, error, [&](pk_stream& s, Failure& failure) {
        if (!has_state(s, layer, size, failure)) return false;
        const Operation& op = s.plan().operations[layer];
        if (!is_finite(state, (int64_t)size)) return failure.set(PK_NOT_FINITE, "state holds NaN or infinite values");
        if (op.kind == engine::Recur && !ends_in_spikes(s, op, state))
            return failure.set(PK_BAD_ARGUMENT, "state must end in the spikes of the step before, 0 or 1");
        if (s.is_fresh) s.rest();
        if (layer == s.plan().with_logits()) {  // what is added to the potentials here no input did
            std::vector<float> before(size);
            if (!read(s, layer, before.data(), failure)) return false;
            for (size_t i = 0; i < size; i++) s.start[i] = s.is_fresh ? state[i] : s.start[i] + (state[i] - before[i]);
            std::copy_n(state, size, s.potentials.begin());
        }
        if (s.is_fresh && !write_rest(s, failure)) return false;
        s.is_fresh = false;
        return write(s, layer, state, failure);
    });
}

pk_status pk_state_size(pk_stream* stream, size_t* bytes, pk_error* error) {
    return use(stream, bytes, error, [&](pk_stream& s, Failure&) {
        *bytes = saved_bytes(s);
        return true;
    });
}

pk_status pk_state_save(pk_stream* stream, void* state, size_t bytes, pk_error* error) {
    return use(stream, state, error, [&](pk_stream& s, Failure& failure) {
        return check_size("state", bytes, (__int128)saved_bytes(s), failure) && save(s, (char*)state, failure);
    });
}

pk_status pk_state_restore(pk_stream* stream, const void* state, size_t bytes, pk_error* error) {
    return use(stream, state, error, [&](pk_stream& s, Failure& failure) {
        if (!check_size("state", bytes, (__int128)saved_bytes(s), failure)) return false;
        return check_saved(s, (const char*)state, failure) && restore(s, (const char*)state, failure);
    });
}

pk_status pk_reset_sample(pk_stream* stream, int64_t sample, pk_error* error) {
    return use(stream, stream, error, [&](pk_stream& s, Failure& failure) { return reset_sample(s, sample, failure); });
}

}  // extern "C"
