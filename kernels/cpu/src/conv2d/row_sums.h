// What the event and the period kernel share: a convolution that adds chosen rows of weights, with the IF neuron in the same
// pass. `Source` is one of the two: which rows, and to which sums.
#pragma once
#include "../neurons.h"
#include "equal_windows.h"
#include "window_lists.h"

namespace PK_TARGET {

// What one thread has.
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

// Walks the steps of a segment for some output pixels side by side: each step of a neuron waits for the one before. `sums`:
// `size` numbers of each pixel, a sum of each step; then, with a `span` that is not 0, one that each span of so many steps
// shares. `bare`: there is neither a shortcut nor are currents wanted.
template <class Rows, int pixels, bool bare, class Model>
OUT_OF_LINE static void fire_as(const Conv2d& c, const Part& segment, const Place* places, int64_t channel,
                                const typename Rows::Number* sums, int64_t size, int64_t span) {
    constexpr int lanes = Rows::lanes;
    using Channels = Lanes<lanes>;
    const Neurons n = c.neurons;  // copies: for all that a compiler knows, stored spikes could change what is in memory
    const int64_t steps = segment.steps;
    const int channels = (int)least(n.C - channel, lanes), part = (int)(channel % Rows::channels / lanes);
    const int64_t bytes = (n.C + 7) / 8, frame = n.P * bytes;
    const NeuronBlock<Model, lanes> neurons(n.neuron, channel);
    const Channels bias = load_block<lanes>(c.bias + channel);
    const typename Rows::Unit unit = Rows::unit(c.unit, channel);
    uint8_t* out[pixels];
    float *kept[pixels], *currents[pixels];
    const uint8_t* shortcut[pixels];
    States<Model::states, lanes> state[pixels];
    each<pixels>([&](auto i) {
        const int64_t image = places[i].image, p = places[i].y * c.W_out + places[i].x;
        const int64_t first = ((image * n.T + segment.t) * n.P + p) * bytes + channel / 8;
        out[i] = n.spikes + first;
        shortcut[i] = c.shortcut ? c.shortcut + first : nullptr;
        kept[i] = states_of<Model>(n, image, p, channel);
        currents[i] = c.currents ? c.currents + ((segment.t * n.N + image) * n.P + p) * n.C + channel : nullptr;
        load_states<Model>(state[i], n, segment.t, image, p, channel, channels);
    });
    for (int64_t first = 0, last; first < steps; first = last) {
        last = span ? least(first + span, steps) : steps;
        Channels shared[pixels];
        each<pixels>([&](auto i) {
            const int64_t at = (steps + first / most(1, span)) * Rows::channels;
            shared[i] = span ? Rows::current(sums + i * size + at, part, unit, bias) : bias;
        });
        for (int64_t t = first; t < last; t++)
            each<pixels>([&](auto i) {
                Channels input = Rows::current(sums + i * size + t * Rows::channels, part, unit, shared[i]);
                if (!bare && shortcut[i]) add_spikes(input, shortcut[i] + t * frame, channels);
                if (!bare && currents[i]) store_block(currents[i] + t * n.N * n.P * n.C, input, channels);
                const uint32_t spikes = step_block(neurons, state[i], input);
                store_spikes<lanes>(out[i] + t * frame, spikes, channels);
            });
    }
    each<pixels>([&](auto i) { store_states(kept[i], n, state[i], channels); });
}

// Pixels that are fired together: their states are kept in registers.
template <class Rows>
constexpr int together = (int)most(2, 4 * Vec::width / Rows::lanes);

// The same for the model of the layer's neurons, for one pixel or `together`. Nothing above is compiled for each model.
template <class Rows>
static void fire(const Conv2d& c, const Part& segment, const Place* places, int64_t count, int64_t channel,
                 const typename Rows::Number* sums, int64_t size, int64_t span) {
    const auto fire_pixels = [&](auto pixels, auto bare) {
        with_model_or_sums(c.neurons.neuron, [&](auto model) {
            fire_as<Rows, pixels, bare, decltype(model)>(c, segment, places, channel, sums, size, span);
        });
    };
    const std::integral_constant<int, together<Rows>> all;
    const std::integral_constant<int, 1> one;
    PK_ASSERT(count == all || count == one);
    const bool bare = !c.shortcut && !c.currents;
    if (count == all && bare) fire_pixels(all, std::true_type());
    else if (count == all) fire_pixels(all, std::false_type());
    else if (bare) fire_pixels(one, std::true_type());
    else fire_pixels(one, std::false_type());
}

// A group of output pixels.
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
            n = i + together<Rows> <= places ? together<Rows> : 1;
            for (int64_t k = i; k < i + n; k++) worker.source.template finish<Rows>(all_sums + k * size);
            const int64_t end_channel = least(channel + Rows::channels, c.neurons.C);
            for (int64_t part = channel; part < end_channel; part += Rows::lanes)
                fire<Rows>(c, out, at + i, n, part, all_sums + i * size, size, Source::span);
        }
    }
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
        worker.lists.begin(in);
        EqualWindows& windows = worker.windows;
        const int64_t blocks = ceil_div(last_channel - first_channel, Rows::channels);
        windows.find(in, out, first_channel, last_channel, blocks, worker.source);
        for (int64_t i = 0; i < windows.count; i += cut.places) {
            const int64_t places = least(cut.places, windows.count - i);
            run_group<Rows>(c, slices, out, windows.places.data + i, places, first_channel, last_channel, worker);
        }
        windows.copy();
    }
}

// `arguments`: of Source's constructor, called in each thread.
template <class Rows, class Source, class... Arguments>
static void rows_conv2d(const Conv2d& c, const Arguments&... arguments) {
    const Slices slices(c);
    const int64_t steps = most(1, least(c.neurons.T, Source::longest_segment));
    const int64_t sums = Source::most_sums(steps), entries = slices.count * (steps * slices.inputs + sums * Source::group);
    const Segment segment{steps, Source::uses, entries, sums * slices.chunks, Source::band_lists};
    const Cut cut(c, segment, Rows::channels, max_threads());
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
