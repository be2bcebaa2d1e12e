// Event-driven convolution with the IF neuron in the same pass. A multiplication by a spike is nothing (0) or an addition (1),
// so the current of an output channel is the sum of the weights of the inputs that fired: work in proportion to the spikes. And
// to less: the weights of inputs that fire throughout a span of steps, or at most of them (steady_inputs.h), are added once, to
// a sum that the currents of the span share. In stages, for a band of output rows and a segment of steps:
//
// 1. list_inputs: for each input pixel, the channels that are steady in each span; and at each step, the others that fired,
//    and the negations of those that are steady and did not.
// 2. list_slice (window_lists.h): for one output pixel, slice of its inputs and span or step, the lists of the pixels in its
//    window, joined.
// 3. add_slice (slices.h): for a block of output channels of a group of pixels, slice by slice, the sums of all lists.
// 4. fire (fire_sums.h): walk the steps with the potentials in registers; write the spikes.
//
// A fully connected layer is the same thing on images of one pixel.
#pragma once
#include "input_lists.h"
#include "row_sums.h"

namespace PK_TARGET {

void event_conv2d(const Conv2d* c) { rows_conv2d<InputLists>(*c); }

}  // namespace PK_TARGET
