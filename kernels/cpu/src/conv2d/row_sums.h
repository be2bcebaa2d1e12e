// A convolution that adds rows of weights, with the neurons in the same pass. A spike is 0 or 1, so the current of an output
// channel is the sum of the weights of the inputs that fired: the work is proportional to the number of spikes. Inputs that fire
// at all or most steps of a span (steady_inputs.h) cost less still: their weights are added once, to a sum that all currents of
// the span share. `Source` (InputLists, or FirstSpikes of periodic inputs) says which rows are added to which sums. The stages,
// for a band of output rows and a segment of steps:
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
#include "equal_windows.h"
#include "fire_sums.h"
#include "window_lists.h"

namespace PK_TARGET {

// The memory of one thread.
template <class Source_>
struct Worker {
    using Source = Source_;
    Source source;
    WindowLists<Source> lists;
    EqualWindows windows;
    Grown<char> sums;  // [output pixel][sum][channel of a block]
    Worker(const Conv2d& c, const Slices& slices) : lists(c, slices, source), windows(c) {}
};

// Describes sums [pixel][sum][channel of a row] with `size` numbers for each pixel.
template <class Rows>
static Sums sums_of(const typename Rows::Number* sums, int64_t size, int64_t span) {
    constexpr bool floats = std::is_same_v<typename Rows::Number, float>;
    constexpr int64_t bytes = sizeof(typename Rows::Number);
    return {(const char*)sums, size * bytes, Rows::channels * bytes, span, floats ? nullptr : sums_to_floats<Rows>};
}

// Computes a group of output pixels.
template <class Rows, class Worker>
static void run_group(const Conv2d& c, const Slices& slices, const Region& out, const Place* at, int64_t places,
                      int64_t first_channel, int64_t last_channel, Worker& worker) {
    using Number = typename Rows::Number;
    using Source = typename Worker::Source;
    const int64_t size = worker.source.sums * Rows::channels;
    const Choice* const choices = worker.lists.of(at, places);
    Number* const all_sums = (Number*)worker.sums.reserve(places * size * sizeof(Number));
    const bool far = slices.far(ceil_div(last_channel - first_channel, Rows::channels));
    const char* weights = (const char*)c.weight + first_channel / Rows::channels * slices.block_bytes();
    for (int64_t channel = first_channel; channel < last_channel; channel += Rows::channels) {
        for (int64_t slice = 0; slice < slices.count; slice++, weights += slices.bytes())
            for (int64_t i = 0; i < places; i++) {
                if (far && places == 1) slices.read(weights);
                else if (far) slices.prefetch_next(weights, i, places);
                const Choice& choice = choices[i * slices.count + slice];
                add_slice<Rows, Source::group>(weights, choice, slice == 0, all_sums + i * size);
            }
        for (int64_t i = 0, n; i < places; i += n) {
            n = i + together <= places ? together : 1;
            for (int64_t k = i; k < i + n; k++) worker.source.template finish<Rows>(all_sums + k * size);
            const Sums sums = sums_of<Rows>(all_sums + i * size, size, Source::span);
            const int64_t end_channel = least(channel + Rows::channels, c.neurons.C);
            for (int64_t part = channel; part < end_channel; part += row)
                fire(c, out, at + i, n, part, sums, (int)(part - channel) / Vec::width);
        }
    }
}

// Computes the output pixels of a part, `places` at a time. Their inputs have been listed.
template <class Rows, class Worker>
static void run_part(const Conv2d& c, const Slices& slices, const Region& in, const Region& out, int64_t places,
                     int64_t first_channel, int64_t last_channel, Worker& worker) {
    worker.lists.begin(in);
    EqualWindows& windows = worker.windows;
    windows.find(in, out, first_channel, last_channel, ceil_div(last_channel - first_channel, Rows::channels), worker.source);
    for (int64_t i = 0; i < windows.count; i += places) {
        const int64_t some = least(places, windows.count - i);
        run_group<Rows>(c, slices, out, windows.places.data + i, some, first_channel, last_channel, worker);
    }
    windows.copy();
}

// How the work is cut, in segments of `steps` steps.
template <class Source>
static Cut cut_of(const Conv2d& c, const Slices& slices, int64_t steps, int64_t threads) {
    const int64_t sums = Source::most_sums(steps), entries = slices.count * (steps * slices.inputs + sums * Source::group);
    return {c, {steps, Source::uses, entries, sums * slices.chunks, Source::band_lists}, c.row_channels, threads};
}

}  // namespace PK_TARGET
