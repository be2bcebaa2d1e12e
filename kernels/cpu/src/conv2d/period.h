// Convolution of periodic spikes, with the IF neuron in the same pass. A neuron that starts at rest, is reset to 0 and
// receives the same current at every step repeats itself exactly. One number describes its spikes, the period p: it fires at
// the steps t where p divides t + 1. Each input is then added once instead of once for each spike:
//
//     A[p] = sum of the weight rows of all inputs of period p,      I[t] = bias + sum of A[p] over all p that divide t + 1
//
// Few numbers divide t + 1 (4.4 on average up to 64), so most of the work is one addition for each input that fires at all.
//
// Steps are processed in segments of up to 256. In every segment but the first, inputs whose period is longer than the segment
// fire at most once, and are put into one bucket for each step. The stages are those of event.h, with buckets instead of steps:
//
// 1. list_inputs: lists, for each input pixel, the channels that fire in this segment with their buckets, and the number of
//    channels in each bucket.
// 2. list_slice (bucket_lists.h): joins the lists of the pixels in the window of one output pixel, for one slice of its inputs,
//    sorted by bucket.
// 3. add_slice (slices.h): adds up the weights of each bucket, slice by slice, for a block of output channels of a group of
//    pixels.
// 4. sum_divisors: adds up the buckets that meet at each step; then fire (fire_sums.h).
#pragma once
#include "bucket_lists.h"
#include "row_sums.h"

namespace PK_TARGET {

constexpr int64_t period_steps = 256, most_buckets = 2 * period_steps;
constexpr uint16_t no_bucket = most_buckets;

// Which periods meet which steps of a segment.
struct Divisors {
    Memory<uint16_t> bucket;  // [period p]: p - 1 if p fits the segment, else steps + t where it fires at t, or no_bucket
    Memory<uint16_t> divisor;  // in a later segment: for each step t, the buckets of the periods that divide t + 1
    int64_t first[period_steps + 1], buckets = 0, steps = 0;
    DivisorSums whole;  // for the first segment
    explicit Divisors(int64_t longest) : bucket(longest + 1), divisor(period_steps * 64) {}

    void prepare(int64_t start, int64_t new_steps, int64_t longest) {
        steps = new_steps;
        buckets = start ? 2 * steps : steps;
        bucket.data[0] = no_bucket;  // never fires
        for (int64_t p = 1; p <= longest; p++) {
            const int64_t next = ceil_div(start + 1, p) * p - start - 1;
            bucket.data[p] = (uint16_t)(next >= steps ? no_bucket : p <= steps ? p - 1 : steps + next);
        }
        if (start) list_divisors(start);
        else whole.prepare(steps);
    }

    void list_divisors(int64_t start) {
        int64_t next[period_steps] = {};
        each_multiple(start, [&](int64_t, int64_t t) { next[t]++; });
        first[0] = 0;
        for (int64_t t = 0; t < steps; t++) first[t + 1] = first[t] + next[t], next[t] = first[t];
        PK_ASSERT(first[steps] <= divisor.size);
        each_multiple(start, [&](int64_t p, int64_t t) { divisor.data[next[t]++] = (uint16_t)(p - 1); });
    }
    // Calls visit(p, t) for each period p up to the length of the segment, and each step t at which p fires.
    template <class Visit>
    void each_multiple(int64_t start, Visit visit) {
        for (int64_t p = 1; p <= steps; p++)
            for (int64_t t = ceil_div(start + 1, p) * p - start - 1; t < steps; t += p) visit(p, t);
    }

    // Turns the sums of buckets [bucket][channel] into the sums of steps [step][channel].
    template <class Rows>
    void sum_divisors(typename Rows::Number* sums) const {
        constexpr int channels = Rows::channels;
        if (buckets == steps) return whole.add_up<Rows>(sums);
        for (int64_t t = 0; t < steps; t++) {
            typename Rows::Sums sum, other;
            load_sums(sums + (steps + t) * channels, sum);
            for (int64_t i = first[t]; i < first[t + 1]; i++) {
                load_sums(sums + divisor.data[i] * channels, other);
                add(sum, other);
            }
            store_sums(sums + (steps + t) * channels, sum);
        }
        memcpy(sums, sums + steps * channels, steps * channels * sizeof *sums);
    }
};

// The memory of one thread, and stages 1 and 2.
struct PeriodSource : BucketLists {
    static constexpr int64_t longest_segment = period_steps, uses = 1024, band_lists = 1 << 18;  // Segment (work.h)
    static int64_t most_sums(int64_t steps) { return steps; }  // an estimate: a later segment has twice as many

    const PeriodConv2d& p;
    Divisors divisors;
    Part part{};  // the part of the input that is listed
    explicit PeriodSource(const PeriodConv2d& p) : p(p), divisors(p.longest) {}

    void list_inputs(const Conv2d& c, const Slices& slices, const Part& in) {
        divisors.prepare(p.start + in.t, in.steps, p.longest);
        part = in;
        const int64_t pixels = in.images * in.rows * c.W;
        reserve(divisors.buckets, pixels * slices.chunks, slices);
        for (int64_t pixel = 0; pixel < pixels; pixel++) {
            int64_t list = pixel * slices.chunks;
            if (pixel && are_alike(pixel, pixel - 1)) {
                copy_lists(list, slices.chunks);
                continue;
            }
            for (int64_t first = 0; first < c.C_in; first += chunk, list++) {
                const uint16_t* const period = periods_of(pixel) + first;
                Bucketed* const to = input.data + list * chunk;
                uint16_t counts[most_buckets + 1] = {};
                int64_t n = 0;
                for (int64_t i = 0; i < least(chunk, c.C_in - first); i++) {  // no branch: it would be unpredictable
                    const uint16_t bucket = divisors.bucket.data[period[i] > p.longest ? 0 : period[i]];
                    to[n] = {(uint16_t)((i + 1) * entry_scale), bucket};
                    counts[bucket]++;
                    n += bucket != no_bucket;
                }
                memcpy(input_count.data + list * sums, counts, sums * sizeof *counts);
                input_length.data[list] = (uint16_t)n;
            }
        }
    }

    // The periods of a pixel of the part, by its number there.
    const uint16_t* periods_of(int64_t pixel) const {
        const Conv2d& c = p.conv;
        const int64_t pixels = part.rows * c.W, image = part.image + pixel / pixels;
        return p.periods + (image * c.H * c.W + part.row * c.W + pixel % pixels) * c.C_in;
    }
    // For equal_windows.h: whether two pixels of the input fire alike.
    uint64_t hash_of(int64_t pixel) const {
        return hash_piece((const uint8_t*)periods_of(pixel), p.conv.C_in * sizeof(uint16_t), 0);
    }
    bool are_alike(int64_t a, int64_t b) const { return !memcmp(periods_of(a), periods_of(b), p.conv.C_in * sizeof(uint16_t)); }

    template <class Rows>
    void finish(typename Rows::Number* all) const {
        divisors.sum_divisors<Rows>(all);
    }
};

void period_conv2d(const PeriodConv2d* p) { rows_conv2d<PeriodSource>(p->conv, *p); }

}  // namespace PK_TARGET
