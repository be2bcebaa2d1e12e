// Convolutions of many pixels and steps: a block of output channels at a time, in slices of weights that stay in the
// first-level cache while many pixels go through them (../conv2d/row_sums.h). A task is a band of rows of an image, or some
// small images, and a span of channels. Of a band, as many rows are listed at a time as memory is there for.
//
// With groups, some are joined: their weights and zeros between them are those of a convolution without groups, whose inputs
// are bytes of pixels, and whose outputs are blocks of channels. Each is a span of channels of the layer.
#pragma once
#include "../conv2d/row_sums.h"
#include "convolution.h"
#include "band_window_lists.h"
#include "tasks.h"

namespace PK_TARGET {

constexpr int64_t few_spikes = 1 << 16;    // for which there is memory in any case
constexpr int64_t most_band_lists = 1 << 17;  // lists of a band's input

struct Sliced {
    // What one thread works with.
    struct Worker {
        using Source = SharedPatterns;
        SharedPatterns source;
        BandWindowLists lists;
        EqualWindows windows;
        Grown<char> sums;  // [output pixel][sum][channel of a block]
        Worker(const Conv2d& c, const Slices& slices) : lists(c, slices, source), windows(c) {}
    };

    const int64_t parts, fan_out;  // of the channels; weights of an input at a tap
    const Conv2d c;                // of a part its inputs, and all channels
    const Slices slices;
    const Cut cut;

    Sliced(const Step& step, const Neurons& neurons, const View& x, const uint8_t* shortcut, int64_t threads)
        : parts(step.parts),
          fan_out(step.C / step.conv.groups),
          c(part_of(conv_of(step, neurons, x, shortcut, step.sliced), parts)),
          slices(c),
          cut(cut_for(threads)) {}

    static bool fits(const Step& step, int64_t N, int64_t steps) {
        return step.sliced && is_enough(step, N, steps) && (step.P() > 1 || steps > most_pattern_steps);
    }
    int64_t tasks() const { return cut.tasks; }

    static void borrow(Worker& worker, Carver& carver, const Sliced& s) {
        const Conv2d& c = s.c;
        const int64_t steps = c.neurons.T, sums = SharedPatterns::most_sums(steps),
                      rows = s.cut.images * input_rows(c, s.cut.rows);
        const int64_t spikes = s.most_spikes(), out = s.cut.images * s.cut.rows * c.W_out;
        SharedPatterns& source = worker.source;
        source.input.borrow(carver, spikes + overrun);
        source.input_start.borrow(carver, rows * c.W * s.slices.chunks * sums + 1);
        source.tap_start.borrow(carver, s.slices.taps);
        source.length.borrow(carver, sums);
        worker.lists.borrow(carver, rows, spikes, steps, sums, s.cut.places);
        worker.windows.borrow(carver, rows * c.W, out);
        worker.sums.borrow(carver, s.cut.places * sums * sum_bytes(c));
    }
    static int64_t room(const Step& step, int64_t N, int64_t steps, int64_t threads) {
        if (!fits(step, N, steps)) return 0;
        const Sliced sliced(step, shape_of(step, N, steps), View{}, nullptr, threads);
        Carver carver{nullptr};
        Worker worker(sliced.c, sliced.slices);
        borrow(worker, carver, sliced);
        return carver.bytes;
    }

    // `scratch`: as much as room() says. Adds spikes, and additions of weights, to `tally`.
    void run(View x, int64_t task, char* scratch, int64_t* tally) const {
        Worker worker(c, slices);
        Carver carver{scratch};
        borrow(worker, carver, *this);
        const int64_t first = cut.first_channel(task), last = least(c.neurons.C, first + cut.channels);
        x.spikes += first / (c.neurons.C / parts) * (c.C_in / 8);
        Part out = cut.part(c, task);
        out.steps = c.neurons.T;
        for (const int64_t stop = out.row + out.rows; out.row < stop; out.row += out.rows) {
            out.rows = stop - out.row;
            Part in = input_of(c, out);
            int64_t spikes = spikes_of(x, in);
            while (spikes > most_spikes() && out.rows > 1) {
                out.rows = ceil_div(out.rows, 2);
                in = input_of(c, out);
                spikes = spikes_of(x, in);
            }
            if (!first || parts > 1) tally[1] += seen_spikes(c, x, in, out) * fan_out;  // while they are in a cache
            run_rows(worker, x, in, out, first, last, spikes);
            if (c.shortcut) tally[1] += count_of(c, c.shortcut, out, first, last);
            tally[0] += count_of(c, c.neurons.spikes, out, first, last);
        }
    }

private:
    Cut cut_for(int64_t threads) const {
        Cut cut(c, segment(), c.row_channels, threads);
        if (parts == 1) return cut;
        cut.channels = c.neurons.C / parts, cut.spans = parts;
        cut.tasks = cut.batches * cut.bands * cut.spans;
        return cut;
    }
    Segment segment() const {
        const int64_t steps = c.neurons.T, sums = SharedPatterns::most_sums(steps);
        const int64_t entries = slices.count * (steps * slices.inputs + sums * SharedPatterns::group);
        return {steps, SharedPatterns::uses, entries, sums * slices.chunks, most_band_lists};
    }

    // Of a task's input at a time: as many as may be of a row of outputs, or a few more.
    int64_t most_spikes() const {
        const int64_t rows = cut.images > 1 ? c.H : input_rows(c, 1);
        return most(few_spikes, cut.images * rows * c.W * c.C_in * c.neurons.T);
    }
    int64_t spikes_of(const View& x, const Part& in) const {
        int64_t sum = 0;
        for (int64_t image = in.image; image < in.image + in.images; image++)
            for (int64_t t = 0; t < in.steps; t++)
                sum += count_pixels(x.spikes_at(image, t, in.row * c.W), in.rows * c.W, x.pixel, (c.C_in + 7) / 8);
        return sum;
    }

    void run_rows(Worker& worker, const View& x, const Part& in, const Part& out, int64_t first, int64_t last,
                  int64_t spikes) const {
        const int64_t blocks = ceil_div(last - first, c.row_channels);
        worker.source.list_inputs(x, c, slices, in, spikes, blocks);
        worker.lists.begin(in);
        worker.windows.find(in, out, first, last, blocks, worker.source);
        with_rows(c, [&](auto rows) {
            for (int64_t i = 0; i < worker.windows.count; i += cut.places) {
                const int64_t places = least(cut.places, worker.windows.count - i);
                run_group<decltype(rows)>(c, slices, out, worker.windows.places.data + i, places, first, last, worker);
            }
        });
        worker.windows.copy();
    }
};

}  // namespace PK_TARGET
