// Event-driven convolution with the IF neuron in the same pass. A multiplication by a spike is nothing (0) or an addition
// (1), so the current of an output channel is the sum of the weights of the inputs that fired: work in proportion to the
// spikes. And to less: the weights of inputs that fire throughout a span of steps, or at most of them (steady.h), are added
// once, to a sum that the currents of the span share. In stages, for a band of output rows and a segment of steps:
//
// 1. list_inputs: for each input pixel, the channels that are steady in each span; and at each step, the others that fired,
//    and the negations of those that are steady and did not.
// 2. list_slice (window_lists.h): for one output pixel, slice of its inputs and span or step, the lists of the pixels in its
//    window, joined.
// 3. add_slice (slices.h): for a block of output channels of a group of pixels, slice by slice, the sums of all lists.
// 4. fire (row_sums.h): walk the steps with the potentials in registers; write the spikes.
//
// A fully connected layer is the same thing on images of one pixel.
#pragma once
#include "event_lists.h"
#include "row_sums.h"

namespace PK_TARGET {

using Events = EventLists<4>;

// How many rows are added for the spikes [M, T, bytes]: those that are steady count once a span, and, with negated rows, once
// for each step at which they are silent.
int64_t count_rows(const uint8_t* spikes, int64_t M, int64_t T, int64_t bytes, int64_t negated) {
    constexpr int64_t span = Events::span;
    int64_t count = 0;
#pragma omp parallel for schedule(static) reduction(+ : count) if (2 * M * T * bytes > worth_threads)
    for (int64_t m = 0; m < M; m++)
        for (int64_t first = 0; first < T; first += span) {
            const uint8_t* const x = spikes + (m * T + first) * bytes;
            const int64_t steps = least(span, T - first);
            for (int64_t i = 0; i < bytes; i += 8) {
                const int64_t length = least(8, bytes - i);
                uint64_t steady;
                find_steady(x + i, bytes, length, steps, most_silent(steps, negated), &steady);
                count += __builtin_popcountll(steady);
                for (int64_t t = 0; t < steps; t++)
                    count += __builtin_popcountll(load_bits(x + t * bytes + i, length) ^ steady);
            }
        }
    return count;
}

void event_conv2d(const Conv2d* c) { rows_conv2d<Events>(*c); }

}  // namespace PK_TARGET
