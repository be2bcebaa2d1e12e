// Steady inputs: they fire at most steps of a span, often at all but a few, as saturated inputs do behind a clip or a pool.
// Their weights are added once for the span, and their negated weights at each step at which they are silent.
#pragma once
#include "../set_bits.h"

namespace PK_TARGET {

// How many steps of a span an input may be silent and still be steady. A steady input costs 1 + silent rows for the span; that
// is no more than the steps - silent rows that it would cost otherwise.
static constexpr int64_t most_silent(int64_t steps, bool negated) { return negated ? (steps - 1) / 2 : 0; }

// Counts each of the 64 bits of added words, up to 63 each: plane k holds bit k of all 64 counts.
struct BitCounts {
    static constexpr int planes = 6;
    uint64_t plane[planes] = {};

    inline void add(uint64_t word, int first = 0) {
        for (int k = first; k < planes; k++) {
            const uint64_t carry = plane[k] & word;
            plane[k] ^= word;
            word = carry;
        }
    }
    // A full adder: adds b and c to plane k, and returns the carry.
    inline uint64_t add_two(int k, uint64_t b, uint64_t c) {
        const uint64_t a = plane[k], either = a ^ b;
        plane[k] = either ^ c;
        return (a & b) | (either & c);
    }
    inline void add_four(const uint64_t* words) {
        const uint64_t first = add_two(0, words[0], words[1]), second = add_two(0, words[2], words[3]);
        add(add_two(1, first, second), 2);
    }
    // The bits whose counts are at most `most`.
    inline uint64_t at_most(int64_t most) const {
        uint64_t more = 0, equal = ~0ull;
        for (int k = planes - 1; k >= 0; k--) {
            const uint64_t bit = (most >> k & 1) ? ~0ull : 0;
            more |= equal & plane[k] & ~bit;
            equal &= ~(plane[k] ^ bit);
        }
        return ~more;
    }
};

// Finds the channels that are silent at no more than `silent` of the steps from x on; returns whether there are any. `silent`
// is below `steps`.
static inline bool find_steady(const uint8_t* x, int64_t frame, int64_t bytes, int64_t steps, int64_t silent,
                               uint64_t* steady) {
    uint64_t any = 0;
    for (int64_t i = 0; i < bytes; i += 8, any |= *steady++) {
        const auto silent_at = [&](int64_t t) { return ~load_bits(x + t * frame + i, bytes - i); };
        if (!silent) {
            *steady = ~0ull;
            for (int64_t t = 0; t < steps; t++) *steady &= ~silent_at(t);
            continue;
        }
        BitCounts counts;
        int64_t t = 0;
        for (; t + 4 <= steps; t += 4) {
            const uint64_t words[] = {silent_at(t), silent_at(t + 1), silent_at(t + 2), silent_at(t + 3)};
            counts.add_four(words);
        }
        for (; t < steps; t++) counts.add(silent_at(t));
        *steady = counts.at_most(silent);
    }
    return any;
}

}  // namespace PK_TARGET
