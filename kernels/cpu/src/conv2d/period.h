// Convolution of spikes that are periodic, with the IF neuron in the same pass. A neuron that starts at rest, is reset to 0
// and receives the same current at every step repeats itself exactly, so its spikes are one number: its period p, and it
// fires at the steps t where p divides t + 1. Each input is then added once, not once a spike:
//
//     A[p] = sum of the weight rows of all inputs of period p,      I[t] = bias + sum of A[p] over all p that divide t + 1
//
// Few numbers divide t + 1 (4.4 on average up to 64), so most of the work is one addition an input that fires at all.
//
// Time goes in segments of up to 256 steps. In a segment that is not the first, inputs whose period is longer than the
// segment fire at most once, and have buckets of their own: one a step. The stages are those of event.h, with buckets in
// the place of steps:
//
// 1. list_periods: for each input pixel, the channels that fire in this segment with their buckets, and how many each has.
// 2. list_slice: for one output pixel and slice of its inputs, the lists of the pixels in its window, sorted by bucket.
// 3. add_slice (slices.h): for a block of output channels of a group of pixels, slice by slice, the sums of all buckets.
// 4. sum_divisors: the sums of the buckets that meet at each step; then fire (fire_sums.h).
#pragma once
#include "row_sums.h"

namespace PK_TARGET {

constexpr int64_t period_steps = 256, most_buckets = 2 * period_steps;
constexpr uint16_t no_bucket = most_buckets;

// Which periods meet which steps of a segment.
struct Divisors {
    Memory<uint16_t> bucket;   // of each period: p - 1 within a segment, steps + t beyond, or no_bucket
    Memory<uint16_t> divisor;  // in a later segment: buckets of the periods that divide t + 1, step after step
    int64_t first[period_steps + 1], buckets = 0, steps = 0;
    struct Addition {
        uint16_t from, to;
    };
    Memory<Addition> additions;  // in the first segment, see below
    int64_t addition_count = 0;
    explicit Divisors(int64_t longest) : bucket(longest + 1), divisor(period_steps * 64), additions(period_steps * 8) {}

    void prepare(int64_t start, int64_t new_steps, int64_t longest) {
        steps = new_steps;
        buckets = start ? 2 * steps : steps;
        bucket.data[0] = no_bucket;  // never fires
        for (int64_t p = 1; p <= longest; p++) {
            const int64_t next = ceil_div(start + 1, p) * p - start - 1;
            bucket.data[p] = (uint16_t)(next >= steps ? no_bucket : p <= steps ? p - 1 : steps + next);
        }
        if (start) list_divisors(start);
        else list_additions();
    }

    // A sum over all divisors of every number from 1 to n takes few additions, like the sieve of Eratosthenes: for each
    // prime q, and k from 1 up to n / q, add the sum of k to that of k * q. Then those of k * q hold all divisors with one
    // factor q more. (Dirichlet's convolution with ones.)
    void list_additions() {
        Addition* end = additions.data;
        for (int64_t q = 2; q <= steps; q++) {
            bool prime = true;
            for (int64_t d = 2; d * d <= q; d++) prime &= q % d != 0;
            for (int64_t k = 1; prime && k * q <= steps; k++) *end++ = {(uint16_t)(k - 1), (uint16_t)(k * q - 1)};
        }
        addition_count = end - additions.data;
        PK_ASSERT(addition_count <= additions.size);
    }

    void list_divisors(int64_t start) {
        int64_t next[period_steps] = {};
        each_multiple(start, [&](int64_t, int64_t t) { next[t]++; });
        first[0] = 0;
        for (int64_t t = 0; t < steps; t++) first[t + 1] = first[t] + next[t], next[t] = first[t];
        PK_ASSERT(first[steps] <= divisor.size);
        each_multiple(start, [&](int64_t p, int64_t t) { divisor.data[next[t]++] = (uint16_t)(p - 1); });
    }
    // Visits the periods within a segment and the steps t that each meets.
    template <class Visit>
    void each_multiple(int64_t start, Visit visit) {
        for (int64_t p = 1; p <= steps; p++)
            for (int64_t t = ceil_div(start + 1, p) * p - start - 1; t < steps; t += p) visit(p, t);
    }

    // The sums of the buckets [bucket][channel] become those of the steps [step][channel].
    template <class Rows>
    void sum_divisors(typename Rows::Number* sums) const {
        constexpr int channels = Rows::channels;
        typename Rows::Sums sum, other;
        const auto add_from = [&](int64_t from) {
            load_sums(sums + from * channels, other);
            add(sum, other);
        };
        if (buckets == steps) {
            for (const Addition *a = additions.data, *end = a + addition_count; a < end; a++) {
                load_sums(sums + a->to * channels, sum);
                add_from(a->from);
                store_sums(sums + a->to * channels, sum);
            }
            return;
        }
        for (int64_t t = 0; t < steps; t++) {
            load_sums(sums + (steps + t) * channels, sum);
            for (int64_t i = first[t]; i < first[t + 1]; i++) add_from(divisor.data[i]);
            store_sums(sums + (steps + t) * channels, sum);
        }
        memcpy(sums, sums + steps * channels, steps * channels * sizeof *sums);
    }
};

struct Periodic {
    uint16_t entry, bucket;
};

// Memory of one thread, and stages 1 and 2.
struct PeriodSource {
    static constexpr int group = 2;  // buckets have few rows
    static constexpr int64_t span = 0;  // no sums that steps share
    static constexpr int64_t longest_segment = period_steps, uses = 1024, band_lists = 1 << 18;  // Segment (work.h)
    static int64_t most_sums(int64_t steps) { return steps; }  // about: twice as many in a later segment

    const PeriodConv2d& p;
    Divisors divisors;
    int64_t sums = 0;   // of an output pixel: the buckets
    int64_t chunk = 0;  // of slices.h
    Part part{};        // of the input
    int64_t repeats = 0;  // input pixels that fire like the one before
    Grown<Periodic> input;         // [image][pixel][chunk][channel of the chunk]
    Grown<uint16_t> input_count;   // [image][pixel][chunk][bucket]
    Grown<uint16_t> input_length;  // [image][pixel][chunk]
    Memory<uint32_t> length;       // [bucket]: inputs in the window
    Memory<uint16_t*> next;        // [bucket]: where its next entry goes
    explicit PeriodSource(const PeriodConv2d& p) : p(p), divisors(p.longest), length(most_buckets), next(most_buckets) {}

    void list_inputs(const Conv2d& c, const Slices& slices, const Part& in) {
        divisors.prepare(p.start + in.t, in.steps, p.longest);
        sums = divisors.buckets;
        chunk = slices.chunk;
        part = in;
        const int64_t pixels = in.rows * c.W, buckets = divisors.buckets, all = in.images * pixels * slices.chunks;
        Periodic* list = input.reserve(all * slices.chunk + overrun);
        uint16_t* count = input_count.reserve(all * buckets);
        uint16_t* own_length = input_length.reserve(all);
        repeats = 0;
        for (int64_t pixel = 0; pixel < in.images * pixels; pixel++) {
            if (pixel && are_alike(pixel, pixel - 1)) {
                repeats++;
                memcpy((void*)list, list - slices.chunks * chunk, slices.chunks * chunk * sizeof *list);
                memcpy(count, count - slices.chunks * buckets, slices.chunks * buckets * sizeof *count);
                memcpy(own_length, own_length - slices.chunks, slices.chunks * sizeof *own_length);
                list += slices.chunks * chunk, count += slices.chunks * buckets, own_length += slices.chunks;
                continue;
            }
            for (int64_t first = 0; first < c.C_in; first += chunk, list += chunk, count += buckets) {
                const uint16_t* const period = periods_of(pixel) + first;
                uint16_t counts[most_buckets + 1] = {};
                int64_t n = 0;
                for (int64_t i = 0; i < least(chunk, c.C_in - first); i++) {  // no branch: nobody could predict it
                    const uint16_t bucket = divisors.bucket.data[period[i] > p.longest ? 0 : period[i]];
                    list[n] = {(uint16_t)((i + 1) * entry_scale), bucket};
                    counts[bucket]++;
                    n += bucket != no_bucket;
                }
                memcpy(count, counts, buckets * sizeof *count);
                *own_length++ = (uint16_t)n;
            }
        }
        PK_ASSERT(own_length == input_length.data + input_length.size);
    }

    // The periods of a pixel of the part, by its number there.
    const uint16_t* periods_of(int64_t pixel) const {
        const Conv2d& c = p.conv;
        const int64_t pixels = part.rows * c.W, image = part.image + pixel / pixels;
        return p.periods + (image * c.H * c.W + part.row * c.W + pixel % pixels) * c.C_in;
    }
    // Whether two pixels of the input fire alike, for equal_windows.h.
    uint64_t hash_of(int64_t pixel) const {
        return hash_piece((const uint8_t*)periods_of(pixel), p.conv.C_in * sizeof(uint16_t), 0);
    }
    bool are_alike(int64_t a, int64_t b) const { return !memcmp(periods_of(a), periods_of(b), p.conv.C_in * sizeof(uint16_t)); }

    OUT_OF_LINE uint16_t* list_slice(const Tap* taps, int64_t count, Choice& choice, Visit* visits, uint16_t* end) {
        const int64_t buckets = divisors.buckets;
        uint32_t* const lengths = length.data;
        uint16_t** const ends = next.data;
        memset(lengths, 0, buckets * sizeof *lengths);
        for (const Tap* tap = taps; tap < taps + count; tap++) {
            const uint16_t* const own = input_count.data + tap->list * buckets;
            for (int64_t b = 0; b < buckets; b++) lengths[b] += own[b];
        }
        choice = sort_sums<group>(lengths, buckets, visits, end);
        for (int64_t i = choice.empty; i < buckets; i++) {
            ends[visits[i].sum] = end;
            end += visits[i].groups * group;
            for (int k = 1; k < group; k++) end[-k] = 0;  // the last group may not be full
        }
        for (const Tap* tap = taps; tap < taps + count; tap++) {
            const Periodic* own = input.data + tap->list * chunk;
            const uint16_t base = tap->base;
            for (const Periodic* last = own + input_length.data[tap->list]; own < last; own++)
                *ends[own->bucket]++ = own->entry + base;
        }
        return end;
    }

    // Entries of all lists of some pixels and chunks.
    int64_t length_of(int64_t first, int64_t last) const {
        int64_t sum = 0;
        for (int64_t list = first; list < last; list++) sum += input_length.data[list];
        return sum;
    }

    // Entries that the lists of one window's slice may have, filled up.
    int64_t most_entries(const Slices& slices) const { return slices.inputs + sums * group; }

    template <class Rows>
    void finish(typename Rows::Number* all) const {
        divisors.sum_divisors<Rows>(all);
    }
};

void period_conv2d(const PeriodConv2d* p) { rows_conv2d<PeriodSource>(p->conv, *p); }

}  // namespace PK_TARGET
