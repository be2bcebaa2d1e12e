// Event-driven convolution with the IF neuron in the same pass. A spike is 0 or 1, so the current of an output channel is the
// sum of the weights of the inputs that fired: the work is proportional to the number of spikes. Inputs that fire at all or
// most steps of a span (steady_inputs.h) cost less still: their weights are added once, to a sum that all currents of the
// span share. The stages, for a band of output rows and a segment of steps:
//
// 1. list_inputs: lists, for each input pixel, the channels that are steady in each span; and for each step the other
//    channels that fired, and the steady ones that did not (their negated weights are added).
// 2. list_slice (input_lists.h, called by window_lists.h): joins the lists of the pixels in the window of one output pixel,
//    for one slice of its inputs, step by step and span by span.
// 3. add_slice (slices.h): adds up the listed weights, slice by slice, for a block of output channels of a group of pixels.
// 4. fire (fire_sums.h): walks the steps with the potentials in registers, and writes the spikes.
//
// A fully connected layer is a convolution of images of one pixel.
#pragma once
#include "input_lists.h"
#include "row_sums.h"

namespace PK_TARGET {

void event_conv2d(const Conv2d* c) { rows_conv2d<InputLists>(*c); }

}  // namespace PK_TARGET
