// What the event and the period kernel share: a convolution that adds chosen rows of weights, with the IF neuron in the same
// pass. `Source` (InputLists or PeriodSource) says which rows are added to which sums.
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
    template <class... Arguments>
    explicit Worker(const Conv2d& c, const Slices& slices, const Arguments&... arguments)
        : source(arguments...), lists(c, slices, source), windows(c) {}
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
static void run_group(const Conv2d& c, const Slices& slices, const Part& out, const Place* at, int64_t places,
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
static void run_part(const Conv2d& c, const Slices& slices, const Part& in, const Part& out, int64_t places,
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

template <class Rows, class Source>
static void run_task(const Conv2d& c, const Slices& slices, const Cut& cut, int64_t task, Worker<Source>& worker) {
    const Neurons& n = c.neurons;
    const int64_t first_channel = cut.first_channel(task), last_channel = least(n.C, first_channel + cut.channels);
    Part out = cut.part(c, task);
    for (; out.t < n.T; out.t += cut.steps) {
        out.steps = least(cut.steps, n.T - out.t);
        const Part in = input_of(c, out);
        worker.source.list_inputs(c, slices, in);
        run_part<Rows>(c, slices, in, out, cut.places, first_channel, last_channel, worker);
    }
}

// How the work is cut, in segments of `steps` steps.
template <class Source>
static Cut cut_of(const Conv2d& c, const Slices& slices, int64_t steps, int64_t threads) {
    const int64_t sums = Source::most_sums(steps), entries = slices.count * (steps * slices.inputs + sums * Source::group);
    return {c, {steps, Source::uses, entries, sums * slices.chunks, Source::band_lists}, c.row_channels, threads};
}

// `arguments`: for the constructor of Source, which is called in each thread.
template <class Rows, class Source, class... Arguments>
static void rows_conv2d(const Conv2d& c, const Arguments&... arguments) {
    const Slices slices(c);
    const Cut cut = cut_of<Source>(c, slices, most(1, least(c.neurons.T, Source::longest_segment)), max_threads());
    [[maybe_unused]] const int64_t visits =  // unused without OpenMP
        c.neurons.N * c.neurons.P * c.neurons.T * slices.count * ceil_div(c.neurons.C, Rows::channels);
#pragma omp parallel if (256 * visits > worth_threads)
    {
        Worker<Source> worker(c, slices, arguments...);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < cut.tasks; task++) run_task<Rows>(c, slices, cut, task, worker);
    }
}

template <class Source, class... Arguments>
static void rows_conv2d(const Conv2d& c, const Arguments&... arguments) {
    with_rows(c, [&](auto rows) { rows_conv2d<decltype(rows), Source>(c, arguments...); });
}

}  // namespace PK_TARGET
