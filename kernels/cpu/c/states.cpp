// States of layers, out of a stream and into it.
#include <algorithm>

#include "sound.h"
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
    const int64_t states = s.plan().states(op), C = op.image.C;
    for (int64_t n = 0; n < s.N; n++) {
        const float* const spikes = state + ((n + 1) * states - 1) * C;
        if (std::any_of(spikes, spikes + C, [](float value) { return value != 0 && value != 1; })) return false;
    }
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

}  // extern "C"
