// Lists of first spikes, for inputs that fire periodically from rest: at the steps t where their period divides t + 1, so that
// the step of the first spike gives the period.
#pragma once
#include "../conv2d/slices.h"
#include "../conv2d/input_lists.h"

namespace PK_TARGET {

// Inputs that fire periodically, listed by bucket, one bucket for each period: stage 2 of row_sums.h for FirstSpikes, and the sums
// over all periods that meet at a step. A neuron that starts at rest, is reset to it and receives the same current at every step
// repeats itself exactly: it fires at the steps t where its period p divides t + 1. Each input is then added once instead of
// once for each spike:
//
//     A[p] = sum of the weight rows of all inputs of period p,      I[t] = bias + sum of A[p] over all p that divide t + 1

// Adds to each of the sums 1 to n the sums of all its divisors (Dirichlet's convolution with ones). Few additions are needed,
// as in the sieve of Eratosthenes: for each prime q, and k from 1 to n / q in this order, add the sum of k to that of k * q.
struct DivisorSums {
    struct Addition {
        uint16_t from, to;
    };
    Grown<Addition> additions;
    int64_t count = 0;

    static int64_t most_additions(int64_t n) { return 8 * n; }

    void prepare(int64_t n) {
        Addition *const first = additions.reserve(most_additions(n)), *end = first;
        for (int64_t q = 2; q <= n; q++) {
            bool prime = true;
            for (int64_t d = 2; d * d <= q; d++) prime &= q % d != 0;
            for (int64_t k = 1; prime && k * q <= n; k++) *end++ = {(uint16_t)(k - 1), (uint16_t)(k * q - 1)};
        }
        count = end - first;
        PK_ASSERT(count <= additions.size);
    }

    template <class Rows>
    OUT_OF_LINE void add_up(typename Rows::Number* sums) const {
        for (const Addition *a = additions.data, *end = a + count; a < end; a++) {
            typename Rows::Sums sum, other;
            load_sums(sums + a->to * Rows::channels, sum);
            load_sums(sums + a->from * Rows::channels, other);
            add(sum, other);
            store_sums(sums + a->to * Rows::channels, sum);
        }
    }
};

struct Bucketed {
    uint16_t entry, bucket;
};

// The memory of one thread.
struct BucketLists {
    static constexpr int group = 2;  // rows that are added together; buckets have few rows
    static constexpr int64_t span = 0;  // steps share no sums

    int64_t sums = 0;  // sums of an output pixel: one for each bucket
    int64_t chunk = 0;  // channels of a chunk (slices.h)
    int64_t repeats = 0;  // number of input pixels that fire like the pixel before
    Grown<Bucketed> input;  // [image][pixel][chunk][channel of the chunk]
    Grown<uint16_t> input_count;  // [image][pixel][chunk][bucket]
    Grown<uint16_t> input_length;  // [image][pixel][chunk]
    Grown<uint32_t> length;  // [bucket]: how many inputs of the window it has
    Grown<uint16_t*> next;  // [bucket]: where its next entry goes

    // Makes room for buckets and lists (one list per chunk of an input pixel).
    void reserve(int64_t buckets, int64_t lists, const Slices& slices) {
        sums = buckets, chunk = slices.chunk, repeats = 0;
        input.reserve(lists * chunk + overrun);
        input_count.reserve(lists * buckets);
        input_length.reserve(lists);
        length.reserve(buckets), next.reserve(buckets);
    }

    // Copies the lists of the pixel before to a pixel that fires alike, whose first list is number `list`.
    void copy_lists(int64_t list, int64_t chunks) {
        repeats++;
        memcpy((void*)(input.data + list * chunk), input.data + (list - chunks) * chunk, chunks * chunk * sizeof *input.data);
        memcpy(input_count.data + list * sums, input_count.data + (list - chunks) * sums, chunks * sums * sizeof(uint16_t));
        memcpy(input_length.data + list, input_length.data + list - chunks, chunks * sizeof(uint16_t));
    }

    OUT_OF_LINE uint16_t* list_slice(const Tap* taps, int64_t count, Choice& choice, Visit* visits, uint16_t* end) {
        uint32_t* const lengths = length.data;
        uint16_t** const ends = next.data;
        memset(lengths, 0, sums * sizeof *lengths);
        for (const Tap* tap = taps; tap < taps + count; tap++) {
            const uint16_t* const own = input_count.data + tap->list * sums;
            for (int64_t b = 0; b < sums; b++) lengths[b] += own[b];
        }
        choice = sort_sums<group>(lengths, sums, visits, end);
        for (int64_t i = choice.empty; i < sums; i++) {
            ends[visits[i].sum] = end;
            end += visits[i].groups * group;
            for (int k = 1; k < group; k++) end[-k] = 0;  // the last group may not be full
        }
        for (const Tap* tap = taps; tap < taps + count; tap++) {
            const Bucketed* own = input.data + tap->list * chunk;
            const uint16_t base = tap->base;
            for (const Bucketed* last = own + input_length.data[tap->list]; own < last; own++)
                *ends[own->bucket]++ = own->entry + base;
        }
        return end;
    }

    // The number of entries in lists first .. last - 1.
    int64_t length_of(int64_t first, int64_t last) const {
        int64_t sum = 0;
        for (int64_t list = first; list < last; list++) sum += input_length.data[list];
        return sum;
    }

    // The most entries that the lists of one slice of a window can have, before they are padded to whole groups.
    static int64_t most_listed(const Slices& slices, int64_t) { return slices.inputs; }
};

struct FirstSpikes : BucketLists {
    static constexpr int64_t uses = 1024, band_lists = 1 << 18;  // Segment (work.h)
    DivisorSums divisors;

    static int64_t most_sums(int64_t steps) { return steps; }
    // Takes memory for the lists of `pixels` pixels; returns how many entries they may have.
    int64_t borrow(Carver& carver, const Slices& slices, int64_t pixels, int64_t steps, int64_t) {
        const int64_t lists = pixels * slices.chunks;
        input.borrow(carver, lists * slices.chunk + overrun);
        input_count.borrow(carver, lists * steps);
        input_length.borrow(carver, lists);
        length.borrow(carver, steps), next.borrow(carver, steps);
        divisors.additions.borrow(carver, DivisorSums::most_additions(steps));
        return lists * slices.chunk;
    }

    void list_inputs(const Conv2d& c, const Slices& slices, const Region& in, const SpikeFrames& x, int64_t) {
        const int64_t pixels = in.rows * c.W, bytes = (c.C_in + 7) / 8;
        divisors.prepare(in.steps);
        reserve(in.steps, in.images * pixels * slices.chunks, slices);
        chunks = slices.chunks;
        int64_t list = 0;
        for (int64_t image = 0; image < in.images; image++)
            for (int64_t pixel = 0; pixel < pixels; pixel++, list += chunks) {
                const uint8_t* const at = x.at(in.image + image, 0, in.row * c.W + pixel);
                if (pixel && fires_like_the_last(at, bytes, x, in.steps)) {
                    copy_lists(list, chunks);
                    continue;
                }
                for (int64_t i = 0; i < chunks; i++) {
                    const int64_t byte = i * chunk / 8, left = bytes - byte;
                    list_chunk(list + i, at + byte, x.step, i + 1 < chunks ? chunk / 8 : left);
                }
            }
    }

    // Two pixels of the input fire alike if their lists are equal (../conv2d/row_sums.h).
    uint64_t hash_of(int64_t pixel) const {
        uint64_t hash = 0;
        for (int64_t i = pixel * chunks; i < (pixel + 1) * chunks; i++)
            hash = mix(hash, hash_piece((const uint8_t*)(input.data + i * chunk), bytes_of(i), 0));
        return hash;
    }
    bool are_alike(int64_t a, int64_t b) const {
        for (int64_t i = a * chunks, k = b * chunks; i < (a + 1) * chunks; i++, k++)
            if (input_length.data[i] != input_length.data[k] ||
                memcmp(input.data + i * chunk, input.data + k * chunk, bytes_of(i)))
                return false;
        return true;
    }

    template <class Rows>
    void finish(typename Rows::Number* all) const {
        divisors.add_up<Rows>(all);
    }

private:
    int64_t chunks = 0;  // per pixel

    int64_t bytes_of(int64_t list) const { return input_length.data[list] * (int64_t)sizeof(Bucketed); }

    // Lists the first spikes of one chunk of a pixel's channels.
    OUT_OF_LINE void list_chunk(int64_t list, const uint8_t* x, int64_t frame, int64_t bytes) {
        Bucketed* const first = input.data + list * chunk;
        Bucketed* to = first;
        uint16_t* const counts = input_count.data + list * sums;
        memset(counts, 0, sums * sizeof *counts);
        for (int64_t i = 0; i < bytes; i += 8) {
            uint64_t silent = ~0ull;  // channels that have not fired yet
            for (int64_t t = 0; t < sums && silent; t++) {
                uint64_t fires = load_bits(x + t * frame + i, bytes - i) & silent;
                silent &= ~fires;
                counts[t] += (uint16_t)__builtin_popcountll(fires);
                for (; fires; fires &= fires - 1)
                    *to++ = {(uint16_t)((8 * i + __builtin_ctzll(fires) + 1) * entry_scale), (uint16_t)t};
            }
        }
        input_length.data[list] = (uint16_t)(to - first);
    }
};

// The same for few steps, where many inputs have their first spike at each step: the lists of a step are joined a vector at a
// time.
struct FewFirstSpikes : InputLists {
    static constexpr int64_t most_steps = 24, span = 0;
    DivisorSums divisors;

    static int64_t most_sums(int64_t steps) { return steps; }

    int64_t borrow(Carver& carver, const Slices& slices, int64_t pixels, int64_t steps, int64_t spikes) {
        divisors.additions.borrow(carver, DivisorSums::most_additions(steps));
        return InputLists::borrow(carver, slices, pixels, steps, spikes);
    }

    void list_inputs(const Conv2d& c, const Slices& slices, const Region& in, const SpikeFrames& x, int64_t spikes) {
        divisors.prepare(in.steps);
        list_pixels(c, slices, in, x, spikes, in.steps, [&](const uint8_t* at, int64_t bytes, uint32_t* start, int64_t n) {
            uint64_t fired[most_slice_rows / 64] = {}, first[most_slice_rows / 64];
            for (int64_t t = 0; t < in.steps; t++, at += x.step) {
                for (int64_t i = 0; i < bytes; i += 8) {
                    first[i / 8] = load_bits(at + i, bytes - i) & ~fired[i / 8];
                    fired[i / 8] |= first[i / 8];
                }
                *start++ = (uint32_t)n;
                n += append_set_bits((const uint8_t*)first, bytes, entry_scale, 0, input.data + n);
            }
            return n;
        });
    }

    template <class Rows>
    void finish(typename Rows::Number* all) const {
        divisors.add_up<Rows>(all);
    }
};

}  // namespace PK_TARGET
