// What a stream gives: counts, logits, spikes and values of layers, and work.
#include "../src/sigma_delta/codes.h"
#include "stream.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace PK_TARGET {
void unpack(const DenseSpikes* spikes);  // dense_spikes.h, in packing.cpp
}

namespace proxykernels {

// Values [frames][P][C] to [frames][C][P].
template <class From, class To, class Made>
static void transpose(const From* from, int64_t frames, int64_t P, int64_t C, To* to, Made made) {
    for (int64_t f = 0; f < frames; f++, from += P * C, to += P * C)
        for (int64_t p = 0; p < P; p++)
            for (int64_t c = 0; c < C; c++) to[c * P + p] = made(from[p * C + c]);
}

// Codes [N][T][P][C] to [T][N][C][P].
template <class To, class Made>
static void spread_codes(const pk_stream& s, const Given& given, Image out, To* to, Made made) {
    const int64_t frame = out.size();
    for (int64_t n = 0; n < s.N; n++)
        for (int64_t t = 0; t < s.last_T; t++)
            transpose((const int8_t*)given.spikes.data + (n * s.last_T + t) * frame, 1, out.P(), out.C,
                      to + (t * s.N + n) * frame, made);
}

// Unpacks spikes to elements of `bytes` bytes: 0 and `one`.
static void unpack_spikes(const pk_stream& s, const Given& given, Image out, void* to, int64_t bytes, uint64_t one) {
    DenseSpikes dense{};
    dense.dense = to, dense.spikes = given.spikes.data, dense.size = bytes, dense.one = one, dense.is_float = bytes > 1;
    dense.T = s.last_T, dense.N = s.N, dense.C = out.C, dense.H = out.H, dense.W = out.W;
    PK_TARGET::unpack(&dense);
}

// Finds a layer's output of the last call, and checks that it has `size` values.
static bool find_given(const pk_stream& s, int64_t layer, size_t size, const Given*& to, Failure& failure) {
    if (!check_layer(s, layer, failure)) return false;
    to = &s.given[layer];
    if (!to->is_there)
        return failure.set(PK_NOT_HERE, "layer %lld was not kept: call pk_watch before pk_run or pk_advance", (long long)layer);
    const Image out = s.plan().operations[layer].image();
    return check_size("the output", size, (__int128)s.last_T * s.N * out.size(), failure);
}

// running/result.py: logit = scale (threshold count + v - v at the start) / steps.
static void put_logits(const pk_stream& s, float* logits) {
    const Operation& op = s.plan().operations[s.plan().with_logits()];
    const Population& neurons = op.neurons;
    const int64_t P = op.image().P(), C = op.C;
    const float *const scale = neurons.scale, *const theta = neurons.channels;
    for (int64_t n = 0; n < s.N; n++)
        for (int64_t c = 0; c < C; c++)
            for (int64_t p = 0; p < P; p++) {
                const int64_t at = (n * P + p) * C + c, to = (n * C + c) * P + p;
                const float charge = theta[c] * (float)s.counts[to] + (s.potentials[at] - s.start[at]);
                const float output =
                    scale[neurons.scale_by_channel ? c : 0] * charge / (float)std::max<int64_t>(s.steps_of(n), 1);
                logits[to] = neurons.rectifies ? std::fmin(std::fmax(output, 0.0f), neurons.limit) : output;
            }
}

// Logits of sigma-delta networks: the sums of the output's changes.
static bool put_sums(const pk_stream& s, float* logits, Failure& failure) {
    const int64_t last = s.plan().count() - 1, frame = s.N * s.plan().last().image().size();
    const Image out = s.plan().last().image();
    std::vector<float> sums((size_t)frame);
    if (s.is_fresh && !s.given[last].is_there)
        return failure.set(PK_NOT_HERE, "the outputs are gone, for a later call failed: run the network again");
    if (s.is_fresh) std::copy_n(s.given[last].values.data + (s.last_T - 1) * frame, frame, sums.data());
    else {
        if (s.network->functions->states(s.session, last, sums.data(), nullptr, s.N) != engine::Ran)
            return failure.set(PK_NO_MEMORY, "there is no memory for the outputs");
        for (int64_t i = 0; i < frame; i++) sums[i] *= s.plan().last().scale[i % out.C];
    }
    transpose(sums.data(), s.N, out.P(), out.C, logits, [](float value) { return value; });
    return true;
}

}  // namespace proxykernels

using namespace proxykernels;

extern "C" {

pk_status pk_counts(pk_stream* stream, int32_t* counts, size_t size, pk_error* error) {
    return use(stream, counts, error, [&](pk_stream& s, Failure& failure) {
        if (s.counts.empty())
            return failure.set(PK_NOT_HERE, "the network ends in values, and has no counts: take pk_layer_values or pk_logits");
        if (!check_size("counts", size, (__int128)s.counts.size(), failure)) return false;
        std::copy(s.counts.begin(), s.counts.end(), counts);
        return true;
    });
}

pk_status pk_logits(pk_stream* stream, float* logits, size_t size, pk_error* error) {
    return use(stream, logits, error, [&](pk_stream& s, Failure& failure) {
        const Plan& plan = s.plan();
        if (!plan.is_sigma_delta() && plan.with_logits() < 0)
            return failure.set(PK_NOT_HERE,
                               "logits are those of a network that was converted, with a soft reset; take pk_counts");
        if (!check_size("logits", size, (__int128)s.N * plan.last().image().size(), failure)) return false;
        if (!s.steps) return failure.set(PK_NOT_HERE, "logits need at least one step");
        if (plan.is_sigma_delta()) return put_sums(s, logits, failure);
        put_logits(s, logits);
        return true;
    });
}

pk_status pk_layer_spikes(pk_stream* stream, int64_t layer, int8_t* spikes, size_t size, pk_error* error) {
    return use(stream, spikes, error, [&](pk_stream& s, Failure& failure) {
        const Given* given = nullptr;
        if (!find_given(s, layer, size, given, failure)) return false;
        if (given->real)
            return failure.set(PK_NOT_HERE, "layer %lld gave values, and not spikes: take pk_layer_values", (long long)layer);
        const Image out = s.plan().operations[layer].image();
        if (s.plan().is_sigma_delta()) spread_codes(s, *given, out, spikes, [](int8_t code) { return code; });
        else unpack_spikes(s, *given, out, spikes, 1, 1);
        return true;
    });
}

pk_status pk_layer_values(pk_stream* stream, int64_t layer, float* values, size_t size, pk_error* error) {
    return use(stream, values, error, [&](pk_stream& s, Failure& failure) {
        const Given* given = nullptr;
        if (!find_given(s, layer, size, given, failure)) return false;
        const Image out = s.plan().operations[layer].image();
        constexpr uint64_t one = 0x3f800000;  // the bits of 1.0f
        if (given->real)
            transpose(given->values.data, s.last_T * s.N, out.P(), out.C, values, [](float value) { return value; });
        else if (s.plan().is_sigma_delta())
            spread_codes(s, *given, out, values, [](int8_t code) { return PK_TARGET::value_of(code); });
        else unpack_spikes(s, *given, out, values, sizeof(float), one);
        return true;
    });
}

pk_status pk_layer_work(pk_stream* stream, int64_t layer, pk_work* work, pk_error* error) {
    return use(stream, work, error, [&](pk_stream& s, Failure& failure) {
        if (layer != -1 && !check_layer(s, layer, failure)) return false;
        *work = pk_work{};
        for (int64_t k = layer < 0 ? 0 : layer; k < (layer < 0 ? s.plan().count() : layer + 1); k++) {
            const int64_t* const tally = s.tally.data() + k * engine::tallies;
            work->spikes += s.plan().operations[k].real ? 0 : tally[0];
            work->additions += s.plan().additions(k, tally[1]);
            work->multiplications += s.products[k] + tally[2];
        }
        return true;
    });
}

}  // extern "C"

namespace proxykernels {

// Runs a stream: checks what it is given, and makes room for what it gives.

// An input as it was given, and as the engine takes it.
struct Asked {
    int32_t input;
    const void* data;
    size_t size;
    int64_t T;
    const int64_t* lengths = nullptr;  // [N]: steps of each sample; null: T

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

// Room for what a layer gives in T steps, which are 0 if samples end before; false if there is none.
static bool make_room(const pk_stream& s, int64_t layer, bool real, int64_t T, bool zeros, engine::Shown& to) {
    Given& given = s.given[layer];
    const Image out = s.plan().operations[layer].image();
    const __int128 frames = (__int128)T * s.N, pixel = s.plan().is_sigma_delta() ? out.C : (out.C + 7) / 8;
    given.real = real;
    if (frames * out.size() > INT64_MAX / 8) return false;
    const int64_t values = (int64_t)frames * out.size(), bytes = (int64_t)(frames * out.P() * pixel);
    if (real) to.values = given.values.try_reserve(values);
    else to.spikes = given.spikes.try_reserve(bytes);
    if (zeros && to.values) memset(to.values, 0, (size_t)values * sizeof(float));
    if (zeros && to.spikes) memset(to.spikes, 0, (size_t)bytes);
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

// Ends each sample of a run after its own number of steps.
class Ends {
public:
    Ends(const pk_stream& s, const Asked& asked, engine::Run& run)
        : lengths(asked.lengths), at(lengths, lengths + s.N), steps((size_t)s.N) {
        at.push_back(asked.T);
        std::sort(at.begin(), at.end());
        at.erase(std::unique(at.begin(), at.end()), at.end());
        run.stop = decide, run.context = this, run.stop_at = at.data(), run.stops = (int64_t)at.size(),
        run.steps = steps.data();
    }
    Ends(const Ends&) = delete;

    // Neurons that fire several times in a step are silent after the end, where the engine repeats what a sample gave last.
    void silence(const pk_stream& s, float* values, int64_t T) const {
        const int64_t frame = s.plan().last().image().size();
        for (int64_t n = 0; n < s.N; n++)
            for (int64_t t = lengths[n]; t < T; t++) memset(values + (t * s.N + n) * frame, 0, (size_t)frame * sizeof(float));
    }

private:
    const int64_t* const lengths;
    std::vector<int64_t> at, steps;

    static void decide(void* ends, const int32_t*, const float*, const int64_t* samples, int64_t n, int64_t t,
                       uint8_t* decided) {
        for (int64_t i = 0; i < n; i++) decided[i] = ((const Ends*)ends)->lengths[samples[i]] <= t;
    }
};

static bool check_lengths(const pk_stream& s, const int64_t* lengths, size_t count, int64_t T, Failure& failure) {
    if (!check_size("lengths", count, s.N, failure)) return false;
    for (int64_t n = 0; n < s.N; n++)
        if (lengths[n] < 1 || lengths[n] > T)
            return failure.set(PK_BAD_ARGUMENT, "lengths must lie from 1 to T = %lld, got %lld for sample %lld", (long long)T,
                               (long long)lengths[n], (long long)n);
    return true;
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
        if (!make_room(s, k, slots[k + 1].real, T, asked.lengths, shown[k])) return no_memory(s, T, failure);
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
    const std::unique_ptr<Ends> ends(asked.lengths ? new Ends(s, asked, run) : nullptr);
    if (!went(s.network->functions->run(s.session, &run), s, T, failure)) return false;
    s.is_fresh = !goes_on, s.last_T = T;
    int64_t steps = s.N * T;  // of all samples
    for (int64_t n = 0; n < s.N && ends; n++) s.began[n] = T - asked.lengths[n], steps -= s.began[n];
    if (ends && run.values && plan.last().neurons.model == models::IntegerSoftReset) ends->silence(s, run.values, T);
    for (int64_t k = 0; k < count; k++) s.given[k].is_there = s.given[k].wanted;
    const std::vector<int64_t> products = plan.products(slot, s.N, steps);
    for (int64_t k = 0; k < count && !plan.is_sigma_delta(); k++) s.products[k] += products[k];
    return true;
}

}  // namespace proxykernels

using namespace proxykernels;

extern "C" {

pk_status pk_run(pk_stream* stream, int32_t input, const void* data, size_t size, int64_t T, pk_error* error) {
    return use(stream, data, error, [&](pk_stream& s, Failure& f) { return run(s, {input, data, size, T}, false, f); });
}

pk_status pk_run_lengths(pk_stream* stream, int32_t input, const void* data, size_t size, int64_t T, const int64_t* lengths,
                         size_t count, pk_error* error) {
    return use(stream, data && lengths ? data : nullptr, error, [&](pk_stream& s, Failure& f) {
        return check_lengths(s, lengths, count, T, f) && run(s, {input, data, size, T, lengths}, false, f);
    });
}

pk_status pk_advance(pk_stream* stream, int32_t input, const void* data, size_t size, int64_t T, pk_error* error) {
    return use(stream, data, error, [&](pk_stream& s, Failure& f) { return run(s, {input, data, size, T}, true, f); });
}

}  // extern "C"
