// States of layers and of whole streams, out of a stream and into it.
#include <algorithm>
#include <cstring>

#include "stream.h"

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

using namespace proxykernels;

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
