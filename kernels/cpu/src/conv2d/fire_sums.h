// Neurons whose currents are sums of rows of weights.
#pragma once
#include "../neurons.h"

namespace PK_TARGET {

// Sums of output pixels: one for each step, then one for each span, which the steps of the span share.
struct Sums {
    const char* data;
    int64_t pixel, sum;  // bytes from one pixel to the next, and from one sum to the next
    int64_t span;        // steps of a span; 0: there are no shared sums
    // Writes the currents of 16 channels for `count` sums, beginning at register `first` of each row; null: sums are floats.
    void (*to_floats)(const char* sums, int64_t count, int64_t sum, int first, const Row& unit, const Row& rest, float* to);
};

template <class Rows>
static void sums_to_floats(const char* sums, int64_t count, int64_t sum, int first, const Row& unit, const Row& rest,
                           float* to) {
    const Row units = unit, rests = rest;  // copies: the compiler cannot rule out that storing currents changes the originals
    for (int64_t k = 0; k < count; k++, sums += sum, to += row)
        for (int i = 0; i < Row::vecs; i++) {
            const Vec current = Rows::current((const typename Rows::Number*)sums, first + i);
            store(to + i * Vec::width, multiply_add(current, units.v[i], rests.v[i]));
        }
}

// Pixels that are fired together, with their states in registers, since each step of a neuron waits for the one before.
constexpr int together = (int)most(2, 4 * Vec::width / row);

// Walks the steps of a segment for 16 channels of `count` output pixels: 1, or `together`. `first`: the register of a row of
// sums in which these channels begin.
void fire(const Conv2d& c, const Region& segment, const Place* places, int64_t count, int64_t channel, const Sums& sums,
          int first);

}  // namespace PK_TARGET
