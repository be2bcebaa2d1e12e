// What fired under a band of a convolution, in lists of the sums that it goes to: one of each step, as in
// ../conv2d/input_lists.h, and one of each pattern that many inputs share. A pattern is the steps at which an input fires, one
// bit a step. A row of weights is added to the sum of its pattern once, and that sum then to each of its steps. Neurons that
// are alike fire alike, so that few patterns may hold many spikes; where all fire as they like, none is shared.
//
// Neurons with a constant current fire in periods, from rest on at the steps t where their period divides t + 1. Then each
// input is listed at its first spike alone, and the current of a step is the sum of those of all divisors.
#pragma once
#include "../conv2d/input_lists.h"
#include "session.h"

namespace PK_TARGET {

struct SharedPatterns : InputLists<4> {  // few rows of a sum are usual
    using Events = InputLists<4>;
    static constexpr int64_t span = 0, uses = 512, most_shared = 32;
    static constexpr int64_t steady_span = Events::span;
    uint64_t pattern[most_shared];
    int64_t shared = 0;
    // Whether there are sums of steady inputs (../conv2d/steady_inputs.h): behind those of the steps one for each step at which
    // they are silent, which is taken off, and one for each span.
    bool has_steady = false;
    bool periodic = false;

    static int64_t spans(int64_t steps) { return ceil_div(steps, steady_span); }
    static int64_t most_sums(int64_t steps) { return 2 * steps + spans(steps) + most_shared; }
    int64_t first_span() const { return 2 * steps; }
    int64_t first_shared() const { return has_steady ? 2 * steps + spans(steps) : steps; }

    // `spikes`: under the band, at most; `blocks`: for how many blocks of channels lists are made.
    void list_inputs(const View& x, const Conv2d& c, const Slices& slices, const Part& in, int64_t spikes, int64_t blocks) {
        steps = in.steps;
        periodic = x.periodic;
        find_shared(x, c, slices, in, blocks);
        sums = first_shared() + shared;
        pixel_sums = slices.chunks * sums;
        repeats = 0;
        const int64_t bytes = (c.C_in + 7) / 8, pixels = in.rows * c.W;
        input.reserve(spikes + overrun);
        uint32_t* start = input_start.reserve(in.images * pixels * pixel_sums + 1);
        int64_t n = 0;
        for (int64_t image = 0; image < in.images; image++)
            for (int64_t pixel = 0; pixel < pixels; pixel++, start += pixel_sums) {
                const uint8_t* const at = x.spikes_at(in.image + image, 0, in.row * c.W + pixel);
                if (pixel && fires_like_the_last(at, bytes, x.pixel, x.step)) {
                    n = copy_lists(start, n);
                    repeats++;
                    continue;
                }
                for (int64_t chunk = 0; chunk < slices.chunks; chunk++) {
                    const int64_t byte = chunk * slices.chunk / 8, length = least(slices.chunk / 8, bytes - byte);
                    n = list_chunk(at + byte, x.step, slices.chunks == 1 ? bytes : length, start + chunk * sums, n);
                }
            }
        PK_ASSERT(n <= spikes && start + 1 == input_start.data + input_start.size);
        *start = (uint32_t)n;
    }

    // The sums of patterns go to their steps.
    template <class Rows>
    void finish(typename Rows::Number* all) const {
        if (periodic) return add_divisors<Rows>(all);
        for (int64_t k = 0; k < shared; k++) {
            typename Rows::Sums of_pattern, sum;
            load_sums(all + (first_shared() + k) * Rows::channels, of_pattern);
            for (uint64_t left = pattern[k]; left; left &= left - 1) {
                typename Rows::Number* const at = all + __builtin_ctzll(left) * Rows::channels;
                load_sums(at, sum);
                add(sum, of_pattern);
                store_sums(at, sum);
            }
        }
        for (int64_t t = 0; t < steps && has_steady; t++) {
            typename Rows::Sums sum, steady, silent;
            load_sums(all + t * Rows::channels, sum);
            load_sums(all + (steps + t) * Rows::channels, silent);
            load_sums(all + (first_span() + t / steady_span) * Rows::channels, steady);
            add(sum, steady);
            subtract(sum, silent);
            store_sums(all + t * Rows::channels, sum);
        }
    }

private:
    // Like the sieve of Eratosthenes: for each prime q the sum of k goes to that of k q, k ascending. Then those of k q hold all
    // divisors with one factor q more.
    template <class Rows>
    void add_divisors(typename Rows::Number* all) const {
        static constexpr int8_t primes[] = {2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61};
        static_assert(Events::longest_segment <= 64);
        for (const int64_t q : primes)
            for (int64_t k = 1; k * q <= steps; k++) {
                typename Rows::Number* const at = all + (k * q - 1) * Rows::channels;
                typename Rows::Sums sum, of_divisor;
                load_sums(at, sum);
                load_sums(all + (k - 1) * Rows::channels, of_divisor);
                add(sum, of_divisor);
                store_sums(at, sum);
            }
    }

    static constexpr int slot_bits = 7, seen_bits = 9;
    int8_t slot[1 << slot_bits];  // numbers of patterns by their hash, or the next free place; -1: none

    static uint32_t hash_of_pattern(uint64_t pattern, int bits) {
        return (uint32_t)((pattern * 0x9e3779b97f4a7c15u) >> (64 - bits));
    }

    // Calls visit(channel of 64, pattern) for those that fired.
    template <class Visit>
    void each_pattern(const uint8_t* x, int64_t frame, int64_t bytes, Visit visit) const {
        uint32_t early[64], late[64];
        uint64_t any = patterns_of(least(steps, 32), [=](int64_t t) { return load_bits(x + t * frame, bytes); }, early);
        if (steps > 32) {
            any |= patterns_of(steps - 32, [=](int64_t t) { return load_bits(x + (32 + t) * frame, bytes); }, late);
            for (; any; any &= any - 1) {
                const int c = __builtin_ctzll(any);
                visit(c, (uint64_t)late[c] << 32 | early[c]);
            }
        } else
            for (; any; any &= any - 1) visit(__builtin_ctzll(any), (uint64_t)early[__builtin_ctzll(any)]);
    }

    int64_t number_of(uint64_t wanted) const {
        for (uint32_t i = hash_of_pattern(wanted, slot_bits);; i = (i + 1) % (1 << slot_bits))
            if (slot[i] < 0 || pattern[slot[i]] == wanted) return slot[i];
    }

    // The lists of some channels of a pixel, from entry n of `input`; returns where they end.
    int64_t list_chunk(const uint8_t* x, int64_t frame, int64_t bytes, uint32_t* start, int64_t n) const {
        const auto list = [&](const void* bits) {
            *start++ = (uint32_t)n;
            n += append_set_bits((const uint8_t*)bits, bytes, entry_scale, 0, input.data + n);
        };
        if (periodic) {
            uint64_t fired[most_slice_rows / 64] = {}, first[most_slice_rows / 64];
            for (int64_t t = 0; t < steps; t++) {
                for (int64_t i = 0; i < bytes; i += 8) {
                    const uint64_t fires = load_bits(x + t * frame + i, least(8, bytes - i));
                    first[i / 8] = fires & ~fired[i / 8];
                    fired[i / 8] |= fires;
                }
                list(first);
            }
            return n;
        }
        if (!shared && !has_steady) {
            for (int64_t t = 0; t < steps; t++) list(x + t * frame);
            return n;
        }
        constexpr int64_t most_words = most_slice_rows / 64, most_spans = Events::most_spans;
        uint64_t of_pattern[most_shared][most_words], all[most_words] = {}, steady[most_spans][most_words], bits[most_words];
        for (int64_t i = 0; i < bytes && shared; i += 8) {
            for (int64_t k = 0; k < shared; k++) of_pattern[k][i / 8] = 0;
            each_pattern(x + i, frame, least(8, bytes - i), [&](int c, uint64_t found) {
                const int64_t k = number_of(found);
                if (k < 0) return;
                of_pattern[k][i / 8] |= (uint64_t)1 << c;
                all[i / 8] |= (uint64_t)1 << c;
            });
        }
        for (int64_t first = 0; first < steps && has_steady; first += steady_span) {
            uint64_t* const here = steady[first / steady_span];
            const int64_t length = least(steady_span, steps - first);
            find_steady(x + first * frame, frame, bytes, length, most_silent(length, true), here);
            for (int64_t i = 0; i < bytes; i += 8) here[i / 8] &= ~all[i / 8];
        }
        const auto fires = [&](int64_t t, int64_t i) { return load_bits(x + t * frame + i, least(8, bytes - i)); };
        for (int64_t t = 0; t < steps; t++) {
            for (int64_t i = 0; i < bytes; i += 8) {
                const uint64_t listed = has_steady ? steady[t / steady_span][i / 8] | all[i / 8] : all[i / 8];
                bits[i / 8] = fires(t, i) & ~listed;
            }
            list(bits);
        }
        for (int64_t t = 0; t < steps && has_steady; t++) {
            for (int64_t i = 0; i < bytes; i += 8) bits[i / 8] = steady[t / steady_span][i / 8] & ~fires(t, i);
            list(bits);
        }
        for (int64_t k = 0; k < spans(steps) && has_steady; k++) list(steady[k]);
        for (int64_t k = 0; k < shared; k++) list(of_pattern[k]);
        return n;
    }

    // Patterns that save more additions than a sum of their own costs, as some of the pixels tell.
    void find_shared(const View& x, const Conv2d& c, const Slices& slices, const Part& in, int64_t blocks) {
        constexpr int64_t looks = 32;
        struct Seen {
            uint64_t pattern;
            int64_t count;
        } seen[1 << seen_bits];
        shared = 0, has_steady = false;
        if (steps == 1 || periodic) return;
        memset(seen, 0, sizeof seen);
        const int64_t pixels = in.rows * c.W, all = in.images * pixels, apart = most(1, all / looks) | 1,
                      bytes = (c.C_in + 7) / 8;
        int64_t looked = 0, saved_by_steady = 0;
        const auto saved_as_steady = [&](uint64_t found) {
            int64_t sum = 0;
            for (int64_t first = 0; first < steps; first += steady_span) {
                const int64_t length = least(steady_span, steps - first),
                              fired = __builtin_popcount((uint32_t)(found >> first));
                if (fired >= length - most_silent(length, true)) sum += 2 * fired - length - 1;
            }
            return sum;
        };
        for (int64_t i = 0; i < all; i += apart, looked++)
            for (int64_t byte = 0; byte < bytes; byte += 8) {
                const uint8_t* const at = x.spikes_at(in.image + i / pixels, 0, in.row * c.W + i % pixels) + byte;
                each_pattern(at, x.step, least(8, bytes - byte), [&](int, uint64_t found) {
                    if (!(found & (found - 1))) return;  // of one step
                    saved_by_steady += saved_as_steady(found);
                    Seen& s = seen[hash_of_pattern(found, seen_bits)];
                    if (s.pattern == found) s.count++;
                    else if (--s.count < 0) s = {found, 1};
                });
            }
        const int64_t taps = c.kernel_h * c.kernel_w;
        float gains[most_shared];
        for (const Seen& s : seen) {  // additions, and what costs as much
            const int of = __builtin_popcountll(s.pattern);
            const float saved = (float)(s.count * taps * (of - 1)) / (float)most(1, looked);
            const float gain = saved - (float)(slices.count * 8 + 2 * of) - (float)(2 * taps) / (float)blocks;
            if (s.count <= 0 || gain <= 0) continue;
            int64_t k = shared < most_shared ? shared++ : most_shared;
            for (; k > 0 && gains[k - 1] < gain; k--)
                if (k < most_shared) gains[k] = gains[k - 1], pattern[k] = pattern[k - 1];
            if (k < most_shared) gains[k] = gain, pattern[k] = s.pattern;
        }
        for (const Seen& seen_pattern : seen)
            for (int64_t k = 0; k < shared; k++)
                if (pattern[k] == seen_pattern.pattern) saved_by_steady -= seen_pattern.count * saved_as_steady(pattern[k]);
        has_steady = (float)(saved_by_steady * taps) / (float)most(1, looked) > (float)(10 * steps * slices.count);
        memset(slot, -1, sizeof slot);
        for (int64_t k = 0; k < shared; k++) {
            uint32_t i = hash_of_pattern(pattern[k], slot_bits);
            while (slot[i] >= 0) i = (i + 1) % (1 << slot_bits);
            slot[i] = (int8_t)k;
        }
    }
};

}  // namespace PK_TARGET
