// Convolution of spikes that are periodic, with the IF neuron in the same pass. A neuron that starts at rest, is reset to 0
// and receives the same current at every step repeats itself exactly, so its spikes are one number: its period p, and it
// fires at the steps t where p divides t + 1. Each input is then added once, not once a spike:
//
//     A[p] = sum of the weight rows of all inputs of period p,      I[t] = bias + sum of A[p] over all p that divide t + 1
//
// Few numbers divide t + 1 (4.4 on average up to 64), so most of the work is one addition an input that fires at all.
//
// Time goes in tiles of up to 256 steps. In a tile that is not the first, inputs whose period is longer than the tile fire
// at most once, and have buckets of their own: one a step. The stages are those of event_conv2d.h, with buckets in the place
// of steps:
//
// 1. list_periods: for each input pixel, the channels that fire in this tile with their buckets, and how many each has.
// 2. sort_window: for one output pixel and slice of its inputs, the lists of the pixels in its window, sorted by bucket.
// 3. add_slice (slices.h): for 16 output channels of a group of pixels, slice by slice, the sums of all buckets.
// 4. sum_divisors: the sums of the buckets that meet at each step; then fire (event_conv2d.h).
#pragma once
#include "event_conv2d.h"

namespace PK_TARGET {

constexpr int64_t period_steps = 256, most_buckets = 2 * period_steps;
constexpr uint16_t no_bucket = most_buckets;
constexpr int period_group = 2;  // buckets have few rows
constexpr int64_t period_uses = 1024;  // pixels times buckets that a slice is used for at a time
constexpr int64_t period_lists = 1 << 18;  // of a band: channels and buckets of pixels

// Which periods meet which steps of a tile.
struct Divisors {
    Memory<uint16_t> bucket;   // of each period: p - 1 within a tile, steps + t beyond, or no_bucket
    Memory<uint16_t> divisor;  // in a later tile: buckets of the periods that divide t + 1, step after step
    int64_t first[period_steps + 1], buckets = 0, steps = 0;
    struct Addition {
        uint16_t from, to;
    };
    Memory<Addition> additions;  // in the first tile, see below
    int64_t addition_count = 0;
    explicit Divisors(int64_t longest)
        : bucket(longest + 1), divisor(period_steps * 64), additions(period_steps * 8) {}

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
    }

    void list_divisors(int64_t start) {
        int64_t next[period_steps] = {};
        each_multiple(start, [&](int64_t, int64_t t) { next[t]++; });
        first[0] = 0;
        for (int64_t t = 0; t < steps; t++) first[t + 1] = first[t] + next[t], next[t] = first[t];
        each_multiple(start, [&](int64_t p, int64_t t) { divisor.data[next[t]++] = (uint16_t)(p - 1); });
    }
    // Visits the periods within a tile and the steps t that each meets.
    template <class Visit>
    void each_multiple(int64_t start, Visit visit) {
        for (int64_t p = 1; p <= steps; p++)
            for (int64_t t = ceil_div(start + 1, p) * p - start - 1; t < steps; t += p) visit(p, t);
    }

    // The sums of the buckets [bucket][16] become those of the steps [step][16].
    void sum_divisors(float* sums) const {
        if (buckets == steps) {
            for (const Addition *a = additions.data, *end = a + addition_count; a < end; a++) {
                Row sum = load_block<row>(sums + a->to * row);
                add(sum, load_block<row>(sums + a->from * row));
                store_block(sums + a->to * row, sum);
            }
            return;
        }
        for (int64_t t = 0; t < steps; t++) {
            Row sum = load_block<row>(sums + (steps + t) * row);
            for (int64_t i = first[t]; i < first[t + 1]; i++) add(sum, load_block<row>(sums + divisor.data[i] * row));
            store_block(sums + (steps + t) * row, sum);
        }
        memcpy(sums, sums + steps * row, steps * row * sizeof *sums);
    }
};

struct Periodic {
    uint16_t entry, bucket;
};

// Memory of one thread.
struct PeriodLists {
    Divisors divisors;
    Grown<Periodic> input;        // [image][pixel][chunk][channel of the chunk]
    Grown<uint16_t> input_count;  // [image][pixel][chunk][bucket]
    Grown<uint16_t> input_length;  // [image][pixel][chunk]
    Grown<uint16_t> window;        // entries of what fires in the windows of a group of output pixels
    Grown<Choice> choices;         // [output pixel of the group][slice]
    Grown<Visit> visits;           // [output pixel of the group][slice][bucket]
    Grown<int64_t> tap_list;       // [tap of a slice]: its pixel and chunk
    Grown<uint16_t> tap_base;      // [tap of a slice]: its first entry
    Memory<uint32_t> length;       // [bucket]: inputs in the window
    Memory<uint16_t*> next;        // [bucket]: where its next entry goes
    Grown<float> sums;             // [output pixel of the group][bucket][16 channels]
    explicit PeriodLists(int64_t longest) : divisors(longest), length(most_buckets), next(most_buckets) {}
};

static void list_periods(const PeriodConv2d& p, const Slices& slices, const Part& in, PeriodLists& lists) {
    const Conv2d& c = p.conv;
    const int64_t pixels = in.rows * c.W, buckets = lists.divisors.buckets, all = in.images * pixels * slices.chunks;
    Periodic* list = lists.input.reserve(all * slices.chunk + overrun);
    uint16_t* count = lists.input_count.reserve(all * buckets);
    uint16_t* length = lists.input_length.reserve(all);
    memset(count, 0, all * buckets * sizeof *count);
    for (int64_t image = 0; image < in.images; image++)
        for (int64_t pixel = 0; pixel < pixels; pixel++)
            for (int64_t chunk = 0; chunk < slices.chunks; chunk++, list += slices.chunk, count += buckets) {
                const int64_t first = chunk * slices.chunk, channels = least(slices.chunk, c.C_in - first);
                const uint16_t* period =
                    p.periods + (((in.image + image) * c.H + in.row) * c.W + pixel) * c.C_in + first;
                int64_t n = 0;
                for (int64_t i = 0; i < channels; i++) {
                    const uint16_t bucket = period[i] > p.longest ? no_bucket : lists.divisors.bucket.data[period[i]];
                    list[n] = {(uint16_t)((i + 1) * entry_scale), bucket};
                    if (bucket == no_bucket) continue;
                    count[bucket]++;
                    n++;
                }
                *length++ = (uint16_t)n;
            }
}

OUT_OF_LINE static uint16_t* sort_window(const Conv2d& c, const Slices& slices, const Part& in, const Place& place,
                                         PeriodLists& lists, Choice* choices, Visit* visits, uint16_t* end) {
    int64_t* const tap_list = lists.tap_list.reserve(slices.taps);
    uint16_t* const tap_base = lists.tap_base.reserve(slices.taps);
    const int64_t buckets = lists.divisors.buckets;
    uint32_t* const length = lists.length.data;
    uint16_t** const next = lists.next.data;
    for (int64_t slice = 0; slice < slices.count; slice++, visits += buckets) {
        const int64_t taps = slices.each_tap(c, in, place, slice, [&](int64_t i, int64_t pixel, uint16_t base) {
            tap_list[i] = pixel * slices.chunks + slice % slices.chunks;
            tap_base[i] = base;
        });
        memset(length, 0, buckets * sizeof *length);
        for (int64_t tap = 0; tap < taps; tap++) {
            const uint16_t* const own = lists.input_count.data + tap_list[tap] * buckets;
            for (int64_t b = 0; b < buckets; b++) length[b] += own[b];
        }
        choices[slice] = sort_sums<period_group>(length, buckets, visits, end);
        for (int64_t i = choices[slice].empty; i < buckets; i++) {
            next[visits[i].sum] = end;
            end += visits[i].groups * period_group;
            for (int k = 1; k < period_group; k++) end[-k] = 0;  // the last group may not be full
        }
        for (int64_t tap = 0; tap < taps; tap++) {
            const Periodic* input = lists.input.data + tap_list[tap] * slices.chunk;
            const uint16_t base = tap_base[tap];
            for (const Periodic* last = input + lists.input_length.data[tap_list[tap]]; input < last; input++)
                *next[input->bucket]++ = input->entry + base;
        }
    }
    return end;
}

template <class Reset>
static void run_period_group(const Conv2d& c, const Slices& slices, const Reset& neuron, const Part& out, const Part& in,
                             int64_t first, int64_t last, int64_t first_channel, int64_t last_channel,
                             PeriodLists& lists) {
    const int64_t places = last - first, buckets = lists.divisors.buckets;
    Visit* const visits = lists.visits.reserve(places * slices.count * buckets);
    Choice* const choices = lists.choices.reserve(places * slices.count);
    uint16_t* end = lists.window.reserve(places * slices.count * (slices.rows + buckets * period_group));
    for (int64_t i = 0; i < places; i++)
        end = sort_window(c, slices, in, Place(c, out, first + i), lists, choices + i * slices.count,
                          visits + i * slices.count * buckets, end);
    float* const sums = lists.sums.reserve(places * buckets * row);
    const float* weights = (const float*)c.weight + first_channel / row * rows_size(&c);
    for (int64_t channel = first_channel; channel < last_channel; channel += row) {
        const Row bias = load_block<row>(c.bias + channel);
        for (int64_t slice = 0; slice < slices.count; slice++, weights += slices.rows * row)
            for (int64_t i = 0; i < places; i++)
                add_slice<period_group>(weights, choices[i * slices.count + slice], slice == 0, sums + i * buckets * row);
        for (int64_t i = 0; i < places; i++) {
            lists.divisors.sum_divisors(sums + i * buckets * row);
            fire(c, neuron, in, Place(c, out, first + i), channel, bias, sums + i * buckets * row);
        }
    }
}

static void run_periods(const PeriodConv2d& p, const Slices& slices, const Cut& cut, int64_t task, PeriodLists& lists) {
    const Conv2d& c = p.conv;
    const Neurons& n = c.neurons;
    const int64_t first_channel = cut.first_channel(task), last_channel = least(n.C, first_channel + cut.channels);
    Part out = cut.part(c, task);
    const int64_t places = out.images * out.rows * c.W_out;
    for (; out.t < n.T; out.t += cut.steps) {
        out.steps = least(cut.steps, n.T - out.t);
        const Part in = input_of(c, out);
        lists.divisors.prepare(p.start + out.t, out.steps, p.longest);
        list_periods(p, slices, in, lists);
        with_reset(n, [&](const auto& neuron) {
            for (int64_t first = 0; first < places; first += cut.places)
                run_period_group(c, slices, neuron, out, in, first, least(places, first + cut.places), first_channel,
                                 last_channel, lists);
        });
    }
}

static void period_conv2d(const PeriodConv2d* p) {
    const Slices slices(p->conv);
    const int64_t steps = most(1, least(p->conv.neurons.T, period_steps));
    const Cut cut(p->conv, slices, steps, steps, period_group, period_lists, period_uses, max_threads());
#pragma omp parallel
    {
        PeriodLists lists(p->longest);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < cut.tasks; task++) run_periods(*p, slices, cut, task, lists);
    }
}

}  // namespace PK_TARGET
