// The ways in which a kernel of ../conv2d runs a convolution and its neurons: by slices of rows, depthwise, as products
// of values, by lookup tables, and by matrix tiles. Each has `fits`, `room`, the scratch memory of a thread, and `run`, a task.
#pragma once
#include "../conv2d/amx_pixels.h"
#include "../conv2d/pixel_by_pixel.h"
#include "../conv2d/input_lists.h"
#include "../conv2d/lookup.h"
#include "../conv2d/row_sums.h"
#include "convolution.h"
#include "first_spikes.h"
#include "tasks.h"

namespace PK_TARGET {

// Slices: convolutions of many pixels and steps, one block of output channels at a time. The weights are used in slices, which stay in
// the first-level cache while many pixels use them (../conv2d/row_sums.h). A task is a band of rows of one image, or several
// small images, and a span of channels. As many rows of a band are listed at a time as fit in memory.
//
// With groups, several groups are joined: with zeros between their weights, they form a convolution without groups, whose
// inputs are whole bytes and whose outputs are whole blocks of channels. Each joined convolution is a span of channels of the
// layer.
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
    const PooledConv conv;  // with the inputs of one part, and all output channels
    const Conv2d& c = conv.out;
    const Slices slices;
    const Cut cut;
    const bool has_steady;  // whether enough inputs fire at most steps to be worth the search for them

    // `pool`: of the convolution's currents, if the neurons are behind it; or null.
    Sliced(const Op& op, const Neurons& neurons, const View& x, const uint8_t* shortcut, int64_t threads,
           const Op* pool = nullptr)
        : parts(op.parts),
          fan_out(op.C / op.conv.groups),
          periodic(x.periodic),
          few(op.is_layer ? spikes_of_layer : few_spikes),
          conv(pooled(part_of(conv_of(op, neurons, x, shortcut, op.sliced), parts), pool)),
          slices(conv.c),
          cut(with_lists(periodic, c.neurons.T, [&](auto of) { return cut_for<typename decltype(of)::Type>(threads); })),
          has_steady(!periodic && x.spikes && finds_steady(x, c)) {}

    static bool fits(const Op& op, int64_t N, int64_t steps) { return op.sliced && is_enough(op, N, steps); }
    int64_t tasks() const { return cut.tasks; }

    static int64_t room(const Op& op, int64_t N, int64_t steps, int64_t threads, const Op* pool = nullptr) {
        if (!fits(op, N, steps)) return 0;
        View periodic;
        periodic.periodic = true;
        return most(room_of(op, N, steps, View{}, threads, pool), room_of(op, N, steps, periodic, threads, pool));
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

    static PooledConv pooled(const Conv2d& c, const Op* pool) {
        return {c, pool ? pooling_of(*pool).over(c, pool->W) : c, pool ? pooling_of(*pool) : Pooling{}, pool != nullptr};
    }

    static int64_t room_of(const Op& op, int64_t N, int64_t steps, const View& x, int64_t threads, const Op* pool) {
        const Sliced sliced(op, shape_of(pool ? *pool : op, N, steps), x, nullptr, threads, pool);
        return with_lists(sliced.periodic, steps, [&](auto of) {
            Carver carver{nullptr};
            Worker<typename decltype(of)::Type> worker(sliced.conv, sliced.slices);
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
        if (conv.pools) worker.under.borrow(carver, cut.places), worker.starts.borrow(carver, cut.places + 1);
    }

    // The outputs of the convolution that are counted with those of a part: with pooling also those that no window looks at.
    Region counted(Region out) const {
        if (!conv.pools) return out;
        const int64_t first = conv.pool.row_of(out.row, rows_out(c)), last = conv.pool.row_of(out.row + out.rows, rows_out(c));
        out.row = out.row ? first : 0, out.rows = last - out.row;
        return out;
    }

    template <class Source>
    void run_with(const View& view, int64_t task, char* scratch, int64_t* tally) const {
        Worker<Source> worker(conv, slices);
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
            if (tally && (!first || parts > 1)) {  // while they are cached
                const Region all = counted(out);
                tally[1] += seen_spikes(conv.c, x, conv.pools ? input_of(conv.c, all) : in, all) * fan_out;
            }
            worker.source.list_inputs(c, slices, in, x, spikes);
            with_rows(c, [&](auto rows) { run_part<decltype(rows)>(conv, slices, in, out, cut.places, first, last, worker); });
            if (!tally) continue;
            if (c.shortcut) tally[1] += count_of(c, c.shortcut, out, first, last);
            tally[0] += count_of(c, c.neurons.spikes, out, first, last);
        }
    }

    template <class Source>
    Cut cut_for(int64_t threads) const {
        Cut cut = cut_of<Source>(c, slices, c.neurons.T, threads);
        cut.places = most(cut.places, conv.pool.taps());
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

// Depthwise convolutions of spikes, for any number of steps (../conv2d/pixel_by_pixel.h). A task is a band of rows of one image.
struct Depthwise {
    const Conv2d c;
    const int64_t rows, bands;

    Depthwise(const Op& op, const Neurons& neurons, const View& x, const uint8_t*, int64_t threads)
        : c(conv_of(op, neurons, x, nullptr, op.windows[0].depthwise)),
          rows(band_rows(op.H, neurons.N, threads)),
          bands(ceil_div(op.H, rows)) {}

    static bool fits(const Op& op) { return op.is_conv && op.count == 1 && op.windows[0].depthwise; }
    static int64_t room(const Op& op) {
        if (!fits(op)) return 0;
        Carver carver{nullptr};
        DepthwiseTaps taps;
        taps.borrow(carver, op.conv);
        return carver.bytes;
    }
    int64_t tasks() const { return c.neurons.N * bands; }

    void run(const View& x, int64_t task, char* scratch, int64_t* tally) const {
        DepthwiseTaps taps;
        Carver carver{scratch};
        taps.borrow(carver, c);
        const Neurons& n = c.neurons;
        Region out{task / bands, 1, task % bands * rows, 0, 0, n.T};
        out.rows = least(rows, n.P / c.W_out - out.row);
        const int64_t first = out.image * n.P + out.row * c.W_out;
        with_model_or_sums(n.neuron,
                           [&](auto model) { fire_depthwise_pixels(c, model, first, first + out.rows * c.W_out, taps); });
        if (!tally) return;
        tally[0] += count_of(c, n.spikes, out, 0, n.C);
        tally[1] += seen_spikes(c, x.frames(), input_of(c, out), out);
    }
};

// Convolutions by lookup tables (../conv2d/lookup.h); their time does not depend on the number of spikes.
#if defined(__AVX512F__)
struct Lookup {
    static_assert(columns == matrix_columns && table_group == table_channels);
    const Conv2d c;
    const WindowWords words;
    const LookupCut cut;

    Lookup(const Op& op, const Neurons& neurons, const View& x, const uint8_t* shortcut, int64_t threads)
        : c(conv_of(op, neurons, x, shortcut, op.tables)), words(c), cut(c, words, threads) {}

    static bool fits(const Op& op, int64_t N, int64_t steps) { return op.tables && is_enough(op, N, steps); }
    static int64_t room(const Op& op, int64_t N, int64_t steps, int64_t threads) {
        if (!fits(op, N, steps)) return 0;
        const Lookup kernel(op, shape_of(op, N, steps), View{}, nullptr, threads);
        Carver carver{nullptr};
        LookupLists lists;
        lists.borrow(carver, kernel.c, kernel.words, kernel.cut);
        return carver.bytes;
    }
    int64_t tasks() const { return cut.tasks; }

    void run(const View& x, int64_t task, char* scratch, int64_t* tally) const {
        LookupLists lists;
        Carver carver{scratch};
        lists.borrow(carver, c, words, cut);
        run_lookup_task(c, words, cut, task, lists);
        const int64_t first = cut.first_channel(task), last = least(c.neurons.C, first + cut.channels);
        Region out = cut.part(c, task);
        out.steps = c.neurons.T;
        count_part(c, x, out, first, last, tally);
    }
};
#else
using Lookup = NoKernel;  // registers are too short for a table
#endif

// Convolutions by matrix tiles (../conv2d/amx.h); their time does not depend on the number of spikes.
#if defined(__AMX_INT8__)
// Adds what tiles need to the description of a convolution.
static Conv2d in_tiles(Conv2d c, const Op& op) {
    c.digits = op.digits, c.unit = op.tile_unit;
    return c;
}

struct Tiled {
    const Conv2d c;
    const Tiling tiling;

    Tiled(const Op& op, const Neurons& neurons, const View& x, const uint8_t* shortcut, int64_t threads)
        : c(in_tiles(conv_of(op, neurons, x, shortcut, op.tiles), op)), tiling(c, threads) {}

    static bool fits(const Op& op, int64_t N, int64_t steps) { return op.tiles && op.is_conv && is_enough(op, N, steps); }
    static int64_t room(const Op& op, int64_t N, int64_t steps, int64_t threads) {
        if (!fits(op, N, steps)) return 0;
        const Tiled kernel(op, shape_of(op, N, steps), View{}, nullptr, threads);
        Carver carver{nullptr};
        with_digits(op.digits,
                    [&](auto digits) { TileMemory<decltype(digits)::value>().borrow(carver, kernel.tiling, kernel.c); });
        return carver.bytes;
    }
    int64_t tasks() const { return tiling.units * tiling.spans; }

    void run(const View& x, int64_t task, char* scratch, int64_t* tally) const {
        Carver carver{scratch};
        with_digits(c.digits, [&](auto digits) {
            TileMemory<decltype(digits)::value> memory;
            memory.borrow(carver, tiling, c);
            memory.begin(tiling, c);
            const TileSession session;
            run_unit(c, tiling, task, memory);
        });
        const TileTask unit = tile_task_of(c, tiling, task % tiling.units);
        const Region out{unit.image, unit.images, unit.row, unit.rows, 0, c.neurons.T};
        const int64_t first = task / tiling.units * tiling.span, last = least(c.neurons.C, first + tiling.span);
        count_part(c, x, out, first, last, tally);
    }
};

// The same for few steps (../conv2d/amx_pixels.h); it takes less time if few inputs fire.
struct PixelTiled {
    const Conv2d c;
    const PixelTiling tiling;

    PixelTiled(const Op& op, const Neurons& neurons, const View& x, const uint8_t* shortcut, int64_t threads)
        : c(in_tiles(conv_of(op, neurons, x, shortcut, op.tiles), op)), tiling(c, threads) {}

    static bool fits(const Op& op, int64_t N, int64_t steps) {
        constexpr int64_t least_uses = 64;  // pixels times steps
        if (!op.tiles || !op.is_conv || op.P() == 1) return false;
        return steps <= most_pixel_tile_steps && N * op.P() * steps >= least_uses;
    }
    static int64_t room(const Op& op, int64_t N, int64_t steps, int64_t threads) {
        if (!fits(op, N, steps)) return 0;
        const PixelTiled kernel(op, shape_of(op, N, steps), View{}, nullptr, threads);
        Carver carver{nullptr};
        PixelTileMemory(kernel.tiling, carver, false);
        return carver.bytes;
    }
    // The cycles of `steps` steps of a sample. The cost model (../cost_model.h) assumes full tiles; a partly filled one costs as
    // much as a full one.
    static double cycles(const Op& op, int64_t steps) {
        const PlaneLayout layout(conv_of(op, shape_of(op, 1, steps), View{}, nullptr, nullptr));
        const double whole_steps = (double)(op.H * layout.groups * tile_rows) / (double)op.P();
        return op.costs[engine::PixelTiles + op.digits - 1].busy * whole_steps / engine::cost_steps;
    }
    int64_t tasks() const { return tiling.tasks(c); }

    void run(const View& x, int64_t task, char* scratch, int64_t* tally) const {
        Carver carver{scratch};
        const PixelTileMemory memory(tiling, carver, false);
        const TileSession session;
        with_model(c.neurons.neuron, [&](auto model) {
            with_digits(c.digits, [&](auto digits) {
                run_pixel_tiles<decltype(digits)::value, ChannelBlock<decltype(digits)::value, decltype(model)>>(c, tiling,
                                                                                                                 task, memory);
            });
        });
        const int64_t first = tiling.first_channel(c, task), last = least(c.neurons.C, first + tiling.span);
        count_part(c, x, tiling.part(c, task), first, last, tally);
    }
};

// The same, whose currents are written for neurons of any kind, and whose input may be whole numbers (behind.h).
struct PixelCurrents {
    const Conv2d c;
    const PixelNumbers numbers;
    const PixelTiling tiling;

    // `x`: the input from the first of N images on. `currents`: [N][steps][P][C].
    PixelCurrents(const Op& op, const View& x, int64_t N, int64_t steps, float* currents, int64_t threads)
        : c(described(op, x, N, steps, currents)), numbers{x.values, x.image, x.step}, tiling(c, threads) {}

    static int64_t room(const Op& op, int64_t N, int64_t steps, int64_t threads) {
        const PixelCurrents kernel(op, View{}, N, steps, nullptr, threads);
        Carver carver{nullptr};
        PixelTileMemory(kernel.tiling, carver, true);
        return carver.bytes;
    }
    int64_t tasks() const { return tiling.tasks(c); }

    void run(const View& x, int64_t task, char* scratch, int64_t* tally) const {
        Carver carver{scratch};
        const PixelTileMemory memory(tiling, carver, numbers.values);
        const TileSession session;
        with_digits(c.digits, [&](auto digits) {
            constexpr int count = decltype(digits)::value;
            run_pixel_tiles<count, CurrentBlock<count>>(c, tiling, task, memory, numbers);
        });
        const Region out = tiling.part(c, task);
        if (tally && x.spikes && !tiling.first_channel(c, task))
            tally[1] += seen_spikes(c, x.frames(), input_of(c, out), out) * c.neurons.C;
    }

private:
    static Conv2d described(const Op& op, const View& x, int64_t N, int64_t steps, float* currents) {
        Neurons neurons = shape_of(op, N, steps);
        neurons.currents = currents;
        return in_tiles(conv_of(op, neurons, x, nullptr, op.tiles), op);
    }
};

#else
using Tiled = NoKernel;  // no matrix instructions
struct PixelTiled : NoKernel {
    using NoKernel::NoKernel;
    static double cycles(const Op&, int64_t) { return 0; }
};
struct PixelCurrents {
    PixelCurrents(const Op&, const View&, int64_t, int64_t, float*, int64_t) {}
    static int64_t room(const Op&, int64_t, int64_t, int64_t) { return 0; }
    int64_t tasks() const { return 0; }
    void run(const View&, int64_t, char*, int64_t*) const {}
};
#endif

}  // namespace PK_TARGET
