// Runs a stream: checks what it is given, and makes room for what it gives.
#include <cstring>

#include "stream.h"

namespace proxykernels {

// An input as it was given, and as the engine takes it.
struct Asked {
    int32_t input;
    const void* data;
    size_t size;
    int64_t T;

    bool is_spikes() const { return input == PK_SPIKES; }
    bool is_bytes() const { return input == PK_BYTE_IMAGE || input == PK_BYTE_FRAMES; }
    bool is_held() const { return input == PK_IMAGE || input == PK_BYTE_IMAGE; }
};

// Whether the bits of channels that are not there are 0: the engine would read weights that are not there either.
static bool has_no_other_bits(const uint8_t* spikes, int64_t pixels, int64_t C) {
    if (C % 8 == 0) return true;
    const int64_t bytes = (C + 7) / 8;
    int others = 0;
    for (int64_t i = 0; i < pixels; i++) others |= spikes[i * bytes + bytes - 1] >> C % 8;
    return !others;
}

static bool check(const pk_stream& s, const Asked& asked, Failure& failure) {
    const Image in = s.plan().image;
    if (asked.input < PK_IMAGE || asked.input > PK_BYTE_FRAMES)
        return failure.set(PK_BAD_ARGUMENT, "input must be a pk_input, got %d", (int)asked.input);
    if (asked.T < 1 || asked.T >= most_size)
        return failure.set(PK_BAD_ARGUMENT, "T must be at least 1 and below 2^31, got %lld", (long long)asked.T);
    const __int128 frames = (__int128)s.N * (asked.is_held() ? 1 : asked.T);
    if (!asked.is_spikes()) {
        if (!check_size("data", asked.size, frames * in.size(), failure)) return false;
        if (s.network->takes_values()) return true;
        return failure.set(PK_BAD_ARGUMENT, "input must be PK_SPIKES, as in the sample that the network was compiled with");
    }
    if (s.plan().is_sigma_delta())
        return failure.set(PK_BAD_ARGUMENT,
                           "input must be images or frames for a network of sigma-delta neurons, got PK_SPIKES");
    if (!check_size("data", asked.size, frames * in.P() * ((in.C + 7) / 8), failure)) return false;
    if (has_no_other_bits((const uint8_t*)asked.data, (int64_t)frames * in.P(), in.C)) return true;
    return failure.set(PK_BAD_ARGUMENT, "data has spikes of channels that are not there: bits at or above C = %lld must be 0",
                       (long long)in.C);
}

// Room for what a layer gives in T steps; false if there is none.
static bool make_room(const pk_stream& s, int64_t layer, bool real, int64_t T, engine::Shown& to) {
    Given& given = s.given[layer];
    const Image out = s.plan().operations[layer].image();
    const __int128 frames = (__int128)T * s.N, pixel = s.plan().is_sigma_delta() ? out.C : (out.C + 7) / 8;
    given.real = real;
    if (frames * out.size() > INT64_MAX / 8) return false;
    if (real) to.values = given.values.try_reserve((int64_t)frames * out.size());
    else to.spikes = given.spikes.try_reserve((int64_t)(frames * out.P() * pixel));
    return to.values || to.spikes;
}

static bool no_memory(const pk_stream& s, int64_t T, Failure& failure) {
    return failure.set(PK_NO_MEMORY, "there is no memory for T = %lld steps of N = %lld samples; take fewer at a time",
                       (long long)T, (long long)s.N);
}

// Bytes as values from 0 to 1.
static const float* from_bytes(pk_stream& s, const Asked& asked) {
    float* const to = s.converted.try_reserve((int64_t)asked.size);
    for (size_t i = 0; i < asked.size && to; i++) to[i] = (float)((const uint8_t*)asked.data)[i] / 255.0f;
    return to;
}

static bool went(int64_t outcome, const pk_stream& s, int64_t T, Failure& failure) {
    if (outcome == engine::Ran) return true;
    if (outcome == engine::NotFinite)
        return failure.set(PK_NOT_FINITE, "data must be finite, and holds NaN, infinite values, or values beyond 2^100");
    return no_memory(s, T, failure);
}

static bool run(pk_stream& s, const Asked& asked, bool goes_on, Failure& failure) {
    if (!check(s, asked, failure)) return false;
    const Plan& plan = s.plan();
    const int64_t count = plan.count(), read = plan.with_logits(), T = asked.T;
    if (!goes_on || s.is_fresh) s.rest();
    std::vector<engine::Shown> shown((size_t)count);
    std::vector<engine::Kept> kept((size_t)count);
    const Slot slot{!asked.is_spikes(), asked.is_held()};
    const std::vector<Slot> slots = plan.slots(slot);
    bool shows = false;
    for (int64_t k = 0; k < count; k++) {
        s.given[k].is_there = false;
        if (!s.given[k].wanted) continue;
        shows |= k < count - 1;
        if (!make_room(s, k, slots[k + 1].real, T, shown[k])) return no_memory(s, T, failure);
    }
    engine::Run run{};
    run.x = asked.is_bytes() ? from_bytes(s, asked) : asked.data;
    if (!run.x) return no_memory(s, T, failure);
    run.kind = asked.is_spikes() ? engine::PackedSpikes : asked.is_held() ? engine::HeldValues : engine::Values;
    run.rounds = !plan.precision.empty() && !asked.is_spikes() && !plan.is_sigma_delta();
    run.T = T, run.N = s.N, run.threads = s.threads, run.fresh = s.is_fresh, run.goes_on = goes_on;
    run.spikes = shown[count - 1].spikes, run.values = shown[count - 1].values;
    shown[count - 1] = engine::Shown{};
    run.counts = s.counts.empty() ? nullptr : s.counts.data();
    run.tally = s.tally.data(), run.steps_so_far = &s.steps;
    if (read >= 0) kept[read].v = s.potentials.data(), run.kept = kept.data();
    if (shows) run.shown = shown.data();
    if (!went(s.network->functions->run(s.session, &run), s, T, failure)) return false;
    s.is_fresh = !goes_on, s.last_T = T;
    for (int64_t k = 0; k < count; k++) s.given[k].is_there = s.given[k].wanted;
    const std::vector<int64_t> products = plan.products(slot, s.N, s.N * T);
    for (int64_t k = 0; k < count && !plan.is_sigma_delta(); k++) s.products[k] += products[k];
    return true;
}

}  // namespace proxykernels

using namespace proxykernels;

extern "C" {

pk_status pk_run(pk_stream* stream, int32_t input, const void* data, size_t size, int64_t T, pk_error* error) {
    return use(stream, data, error, [&](pk_stream& s, Failure& f) { return run(s, {input, data, size, T}, false, f); });
}

pk_status pk_advance(pk_stream* stream, int32_t input, const void* data, size_t size, int64_t T, pk_error* error) {
    return use(stream, data, error, [&](pk_stream& s, Failure& f) { return run(s, {input, data, size, T}, true, f); });
}

}  // extern "C"
