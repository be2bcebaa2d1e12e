// Convolutions of many pixels and steps: a block of output channels at a time, in slices of weights that stay in the
// first-level cache while many pixels go through them (../conv2d/row_sums.h). A task is a band of rows of an image, or some
// small images, and a span of channels. Of a band, as many rows are listed at a time as memory is there for.
#pragma once
#include "../conv2d/row_sums.h"
#include "joined_lists.h"

namespace PK_TARGET {

constexpr int64_t sliced_steps = 8;       // of a segment, at least
constexpr int64_t sliced_uses = 256;       // pixels times steps that go through a slice, at least
constexpr int64_t few_spikes = 1 << 16;    // for which there is memory in any case
constexpr int64_t most_band_lists = 1 << 17;  // lists of a band's input

struct Sliced {
    // What one thread works with.
    struct Worker {
        using Source = SharedPatterns;
        SharedPatterns source;
        JoinedLists lists;
        EqualWindows windows;
        Grown<char> sums;  // [output pixel][sum][channel of a block]
        Worker(const Conv2d& c, const Slices& slices) : lists(c, slices, source), windows(c) {}
    };

    const Conv2d c;
    const Slices slices;
    const Cut cut;

    // `shortcut`: spikes that are added, or null.
    Sliced(const Step& step, const Neurons& neurons, const uint8_t* shortcut, int64_t threads)
        : c(conv_of(step, neurons, shortcut)), slices(c), cut(c, segment(), c.row_channels, threads) {}

    // Whether a layer may be run in this form; whether it is.
    static bool pays(const Step& step, int64_t N, int64_t steps) {
        return step.sliced && steps >= sliced_steps && N * step.P() * steps >= sliced_uses;
    }
    static bool fits(const Session& session, const Step& step, int64_t N, int64_t steps) {
        if (!pays(step, N, steps)) return false;
        const View& x = session.views[step.windows[step.sliced_window].slot];
        if (!x.spikes || x.held()) return false;
        if (step.count == 1) return true;
        const View& shortcut = session.views[step.windows[1 - step.sliced_window].slot];
        const int64_t frame = step.P() * step.bytes();
        return shortcut.spikes && shortcut.step == frame && shortcut.image == steps * frame;
    }

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
        if (!pays(step, N, steps)) return 0;
        Neurons neurons{};
        neurons.T = steps, neurons.N = N, neurons.P = step.P(), neurons.C = step.C;
        const Sliced sliced(step, neurons, nullptr, threads);
        Carver carver{nullptr};
        Worker worker(sliced.c, sliced.slices);
        borrow(worker, carver, sliced);
        return carver.bytes;
    }

    // `scratch`: as much as room() says. Adds spikes, and additions of weights, to `tally`.
    void run(const View& x, int64_t task, char* scratch, int64_t* tally) const {
        Worker worker(c, slices);
        Carver carver{scratch};
        borrow(worker, carver, *this);
        const int64_t first = cut.first_channel(task), last = least(c.neurons.C, first + cut.channels);
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
            run_rows(worker, x, in, out, first, last, spikes);
            if (!first) tally[1] += additions(x, in, out);
            tally[0] += fired(out, first, last);
        }
    }

private:
    static Conv2d conv_of(const Step& step, const Neurons& neurons, const uint8_t* shortcut) {
        Conv2d c = step.conv;
        c.neurons = neurons, c.shortcut = shortcut;
        return c;
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
                sum += count_bits(x.spikes_at(image, t, in.row * c.W), in.rows * c.W * x.pixel);
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

    // How many windows of outputs from `first` to `last` an input lies in, along one side.
    static int64_t windows_over(int64_t at, int64_t first, int64_t last, int64_t kernel, int64_t stride, int64_t padding,
                                int64_t dilation) {
        int64_t n = 0;
        for (int64_t k = 0; k < kernel; k++) {
            const int64_t from = at + padding - k * dilation;
            n += from >= first * stride && from < last * stride && from % stride == 0;
        }
        return n;
    }
    int64_t additions(const View& x, const Part& in, const Part& out) const {
        int64_t sum = 0;
        for (int64_t i = 0; i < in.rows * c.W; i++) {
            const int64_t row = in.row + i / c.W, down = windows_over(row, out.row, out.row + out.rows, c.kernel_h, c.stride_h,
                                                                      c.padding_h, c.dilation_h);
            const int64_t times = down * windows_over(i % c.W, 0, c.W_out, c.kernel_w, c.stride_w, c.padding_w, c.dilation_w);
            for (int64_t image = in.image; image < in.image + in.images && times; image++)
                for (int64_t t = 0; t < in.steps; t++)
                    sum += times * count_bits(x.spikes_at(image, t, in.row * c.W + i), x.pixel);
        }
        return sum * c.neurons.C + (c.shortcut ? count_of(c.shortcut, out, 0, c.neurons.C) : 0);
    }
    int64_t fired(const Part& out, int64_t first, int64_t last) const { return count_of(c.neurons.spikes, out, first, last); }

    // Of spikes as the outputs lie, those of some channels.
    int64_t count_of(const uint8_t* spikes, const Part& out, int64_t first, int64_t last) const {
        const Neurons& n = c.neurons;
        const int64_t bytes = (n.C + 7) / 8, own = ceil_div(last, 8) - first / 8, pixels = out.rows * c.W_out;
        int64_t sum = 0;
        for (int64_t image = out.image; image < out.image + out.images; image++)
            for (int64_t t = 0; t < out.steps; t++) {
                const uint8_t* const at = spikes + ((image * n.T + t) * n.P + out.row * c.W_out) * bytes + first / 8;
                if (own == bytes) sum += count_bits(at, pixels * bytes);
                else
                    for (int64_t p = 0; p < pixels; p++) sum += count_bits(at + p * bytes, own);
            }
        return sum;
    }
};

}  // namespace PK_TARGET
