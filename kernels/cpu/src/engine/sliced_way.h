// Convolutions of many pixels and steps, one block of output channels at a time. The weights are used in slices, which stay in
// the first-level cache while many pixels use them (../conv2d/row_sums.h). A task is a band of rows of one image, or several
// small images, and a span of channels. As many rows of a band are listed at a time as fit in memory.
//
// With groups, several groups are joined: with zeros between their weights, they form a convolution without groups, whose
// inputs are whole bytes and whose outputs are whole blocks of channels. Each joined convolution is a span of channels of the
// layer.
#pragma once
#include "../conv2d/row_sums.h"
#include "../conv2d/sampled_rates.h"
#include "convolution.h"
#include "first_spikes.h"
#include "tasks.h"

namespace PK_TARGET {

constexpr int64_t few_spikes = 1 << 16, spikes_of_layer = 1 << 18;  // lists always have room for that many

template <class Source>
struct ListsOf {
    using Type = Source;
};

// Calls use with the type of lists for an input of `steps` steps.
template <class Use>
static auto with_lists(bool periodic, int64_t steps, Use use) {
    if (!periodic) return use(ListsOf<InputLists>{});
    return steps <= FewFirstSpikes::most_steps ? use(ListsOf<FewFirstSpikes>{}) : use(ListsOf<FirstSpikes>{});
}

struct Sliced {
    const int64_t parts, fan_out;  // parts of the channels; weights per input and tap
    const bool periodic;  // whether all inputs fire periodically from rest
    const int64_t few;  // few_spikes, or spikes_of_layer
    const Conv2d c;  // with the inputs of one part, and all output channels
    const Slices slices;
    const Cut cut;
    const bool has_steady;  // whether enough inputs fire at most steps to be worth the search for them

    Sliced(const Op& op, const Neurons& neurons, const View& x, const uint8_t* shortcut, int64_t threads)
        : parts(op.parts),
          fan_out(op.C / op.conv.groups),
          periodic(x.periodic),
          few(op.is_layer ? spikes_of_layer : few_spikes),
          c(part_of(conv_of(op, neurons, x, shortcut, op.sliced), parts)),
          slices(c),
          cut(with_lists(periodic, c.neurons.T, [&](auto of) { return cut_for<typename decltype(of)::Type>(threads); })),
          has_steady(!periodic && x.spikes && finds_steady(x, c)) {}

    static bool fits(const Op& op, int64_t N, int64_t steps) { return op.sliced && is_enough(op, N, steps); }
    int64_t tasks() const { return cut.tasks; }

    static int64_t room(const Op& op, int64_t N, int64_t steps, int64_t threads) {
        if (!fits(op, N, steps)) return 0;
        View periodic;
        periodic.periodic = true;
        return most(room_of(op, N, steps, View{}, threads), room_of(op, N, steps, periodic, threads));
    }

    // `scratch`: room() bytes. Adds the numbers of spikes and of additions to `tally`.
    void run(const View& x, int64_t task, char* scratch, int64_t* tally) const {
        with_lists(periodic, c.neurons.T, [&](auto of) { run_with<typename decltype(of)::Type>(x, task, scratch, tally); });
    }

private:
    // Estimated from a few pixels.
    static bool finds_steady(const View& x, const Conv2d& c) {
        constexpr double worth = 0.8;  // share of the rows that must be left to add
        Sample sample{x.spikes, c.neurons.N, c.neurons.T, c.H * c.W, c.C_in, x.image, x.step, x.pixel};
        sample_rates(&sample);
        return (c.negated ? sample.negated_rows : sample.rows) < worth * sample.rate;
    }

    static int64_t room_of(const Op& op, int64_t N, int64_t steps, const View& x, int64_t threads) {
        const Sliced sliced(op, shape_of(op, N, steps), x, nullptr, threads);
        return with_lists(sliced.periodic, steps, [&](auto of) {
            Carver carver{nullptr};
            Worker<typename decltype(of)::Type> worker(sliced.c, sliced.slices);
            sliced.borrow(worker, carver);
            return carver.bytes;
        });
    }

    template <class Source>
    void borrow(Worker<Source>& worker, Carver& carver) const {
        const int64_t steps = c.neurons.T, rows = cut.images * input_rows(c, cut.rows), out = cut.images * cut.rows * c.W_out;
        const int64_t listed = worker.source.borrow(carver, slices, rows * c.W, steps, most_spikes());
        worker.lists.borrow(carver, rows, listed, steps, cut.places);
        worker.windows.borrow(carver, rows * c.W, out);
        worker.sums.borrow(carver, cut.places * Source::most_sums(steps) * sum_bytes(c));
    }

    template <class Source>
    void run_with(const View& view, int64_t task, char* scratch, int64_t* tally) const {
        Worker<Source> worker(c, slices);
        Carver carver{scratch};
        borrow(worker, carver);
        if constexpr (std::is_same_v<Source, InputLists>) worker.source.has_steady = has_steady;
        const int64_t first = cut.first_channel(task), last = least(c.neurons.C, first + cut.channels);
        SpikeFrames x = view.frames();
        x.data += first / (c.neurons.C / parts) * (c.C_in / 8);
        Region out = cut.part(c, task);
        out.steps = c.neurons.T;
        for (const int64_t stop = out.row + out.rows; out.row < stop; out.row += out.rows) {
            out.rows = stop - out.row;
            Region in = input_of(c, out);
            int64_t spikes = 0;  // first spikes need no more room if there are more
            if constexpr (!std::is_same_v<Source, FirstSpikes>) {
                spikes = count_spikes(c, in, x);
                while (spikes > most_spikes() && out.rows > 1) {
                    out.rows = ceil_div(out.rows, 2);
                    in = input_of(c, out);
                    spikes = count_spikes(c, in, x);
                }
            }
            if (tally && (!first || parts > 1)) tally[1] += seen_spikes(c, x, in, out) * fan_out;  // while they are cached
            worker.source.list_inputs(c, slices, in, x, spikes);
            with_rows(c, [&](auto rows) { run_part<decltype(rows)>(c, slices, in, out, cut.places, first, last, worker); });
            if (!tally) continue;
            if (c.shortcut) tally[1] += count_of(c, c.shortcut, out, first, last);
            tally[0] += count_of(c, c.neurons.spikes, out, first, last);
        }
    }

    template <class Source>
    Cut cut_for(int64_t threads) const {
        Cut cut = cut_of<Source>(c, slices, c.neurons.T, threads);
        if (parts == 1) return cut;
        cut.channels = c.neurons.C / parts, cut.spans = parts;
        cut.tasks = cut.batches * cut.bands * cut.spans;
        return cut;
    }

    // The most input spikes that are listed at a time: all that one output row may need, or `few` if that is more.
    int64_t most_spikes() const {
        const int64_t rows = cut.images > 1 ? c.H : input_rows(c, 1);
        return most(few, cut.images * rows * c.W * c.C_in * c.neurons.T);
    }
};

}  // namespace PK_TARGET
