// Chooses the way in which a convolution and its neurons are run, and runs it by a kernel of ../conv2d.
#include "tasks.h"
#include "behind.h"
#include "ways.h"

namespace PK_TARGET {

bool has_kernel(const Op& op, int64_t N, int64_t steps) {
    if (Depthwise::fits(op) || Sliced::fits(op, N, steps)) return true;
    return op.conv.groups > 1 && Lookup::fits(op, N, steps);
}

int64_t maxima_room(const Op& op, const Plan& plan, int64_t N, int64_t steps, int64_t threads) {
    return Sliced::room(op.maxima->op, N, steps, threads, &plan.ops[op.maxima->pool]);
}

int64_t kernel_room(const Op& op, int64_t N, int64_t steps, int64_t threads) {
    int64_t room = Depthwise::room(op);
    for (const int64_t kernel : {Sliced::room(op, N, steps, threads), Lookup::room(op, N, steps, threads),
                                 Tiled::room(op, N, steps, threads), PixelTiled::room(op, N, steps, threads)})
        room = most(room, kernel);
    for (const Op* conv : {&op, op.maxima ? (const Op*)&op.maxima->op : nullptr}) {
        if (!conv || !has_tile_currents(*conv, steps)) continue;
        const int64_t images = images_at_a_time(*conv, N, steps);
        for (const int64_t some : {images, N % images})
            if (some) room = most(room, PixelCurrents::room(*conv, some, steps, threads));
    }
    return room;
}

static bool reads_spikes(const Session& session, const Op& op, int64_t steps) {
    const View& x = session.views[op.windows[op.weighted].slot];
    if (!x.spikes || x.held()) return false;
    if (op.count == 1) return true;
    const View& shortcut = session.views[op.windows[1 - op.weighted].slot];
    const int64_t frame = op.P() * op.bytes();
    return shortcut.spikes && shortcut.step == frame && shortcut.image == steps * frame;
}

// Per input and step, estimated from a few pixels: spikes, and rows that must be added, which are fewer if inputs are steady.
struct Rates {
    double spikes, rows;
};

static Rates rates_of(const View& x, const Op& op, int64_t N, int64_t steps) {
    const Window& w = op.windows[op.weighted];
    Sample sample{x.spikes, N, steps, w.H * w.W, w.C, x.image, x.step, x.pixel};
    sample_rates(&sample);
    return {sample.rate, op.conv.negated ? sample.negated_rows : sample.rows};
}

// Whether slices run a linear layer faster than patterns do. Patterns read a large matrix part by part and add one row per
// pattern or spike. Slices need lists for each input pixel, which cost more to make; with few steps they are most of the time.
// The constants were measured on one thread of Zen 4.
static bool slices_pay(const Op& op, const View& x, int64_t N, int64_t steps) {
    constexpr double least_rate = 0.02, least_rows = 2500, rows_of_a_pixel = 50;  // rows added per sample and step
    constexpr int64_t few_uses = 1024;                                            // samples * steps
    const Window& w = op.windows[op.weighted];
    const double rate = rates_of(x, op, N, steps).spikes;
    const int64_t pixels = w.H * w.W;
    if (rate < least_rate) return false;
    if (steps > few_steps) return N * steps >= few_uses || rate >= (pixels > 1 ? 4 : 2) * least_rate;
    const double rows = rate * (double)(w.C * pixels * ceil_div(op.C, op.conv.row_channels));
    return rows >= least_rows + rows_of_a_pixel * (double)pixels;
}

// Rounds steps up to a multiple of 16, which tables and tiles process together.
static int64_t in_whole_tiles(int64_t steps) {
    constexpr int64_t together = 16;
    return ceil_div(steps, together) * together;
}

// The way for a linear layer. Patterns and tiles are compared by the cost model.
static int64_t way_of_one_pixel(const Op& op, const View& x, int64_t N, int64_t steps) {
    const bool tiled = Tiled::fits(op, N, steps), sliced = Sliced::fits(op, N, steps);
    if (!tiled) return sliced && slices_pay(op, x, N, steps) ? engine::BySlices : engine::ByPatterns;
    const engine::Cost &patterns = op.costs[engine::Patterns], &tiles = op.costs[engine::Tiles + op.digits - 1];
    const double rate = rates_of(x, op, N, steps).spikes;
    const double by_patterns = (patterns.silent + rate * (patterns.busy - patterns.silent)) * (double)steps;
    return tiles.busy * (double)in_whole_tiles(steps) < by_patterns ? engine::ByTiles : engine::ByPatterns;
}

// The ways that can run a layer, with their cycles as a function of the rate (../cost_model.h).
class Candidates {
public:
    Candidates(const Op& op, int64_t N, int64_t steps) {
        const double whole = (double)in_whole_tiles(steps);
        if (!has_kernel(op, N, steps)) add(engine::ByPatterns, op.costs[engine::Patterns], (double)steps);
        if (Sliced::fits(op, N, steps)) add(engine::BySlices, op.costs[op.row_cost()], (double)steps);
        if (Lookup::fits(op, N, steps)) add(engine::ByTables, op.costs[engine::Tables], whole);
        if (Tiled::fits(op, N, steps)) add(engine::ByTiles, op.costs[engine::Tiles + op.digits - 1], whole);
        if (PixelTiled::fits(op, N, steps)) {
            const double cycles = PixelTiled::cycles(op, steps);
            add(engine::ByPixelTiles, {cycles, cycles}, engine::cost_steps);
        }
    }
    // The fastest way at a rate; of several, the first. Cycles are linear in the rate, so a way that is fastest at rates 0 and
    // 1 is fastest at any rate between.
    int64_t fastest(double rate) const {
        int64_t best = 0;
        for (int64_t i = 1; i < count; i++)
            if (at(i, rate) < at(best, rate)) best = i;
        return way[best];
    }

private:
    static constexpr int64_t most_ways = 5;
    int64_t way[most_ways] = {}, count = 0;
    engine::Cost cost[most_ways] = {};

    void add(int64_t its_way, const engine::Cost& its_cost, double steps) {
        way[count] = its_way;
        cost[count++] = {its_cost.silent * steps, its_cost.busy * steps};
    }
    double at(int64_t i, double rate) const { return cost[i].silent + rate * (cost[i].busy - cost[i].silent); }
};

// The share of values that are not 0, in a few frames.
static double share_of(const View& x, const Window& w, int64_t N, int64_t steps) {
    constexpr int64_t frames = 4;
    int64_t found = 0;
    for (int64_t i = 0; i < frames; i++)
        for (int64_t p = 0; p < w.H * w.W; p++) {
            const float* const values = x.values_at(i * N / frames, i * steps / frames, p);
            for (int64_t c = 0; c < w.C; c++) found += values[c * x.channel] != 0;
        }
    return (double)found / (double)(frames * w.H * w.W * w.C);
}

// The cycles of a sample's `steps` steps whose currents tiles compute.
static double tile_current_cycles(const Op& op, int64_t steps) {
    constexpr double current = 8;  // cycles: to write 16, and to read them
    return PixelTiled::cycles(op, steps) + current * (double)(ceil_div(op.C, Vec::width) * op.P() * steps);
}

// Whether tiles compute the currents of an operation, from spikes or whole numbers, in less time than rows of weights take.
static bool tile_currents_pay(const Session& session, const Op& op, const View& x, int64_t N, int64_t steps) {
    const Window& w = op.windows[op.weighted];
    if (!has_tile_currents(op, steps) || x.held() || x.periodic) return false;
    double share = 0;
    if (x.spikes) {
        share = rates_of(x, op, N, steps).spikes;
    } else {
        constexpr int64_t most_sum = ((int64_t)1 << 31) / (128 * 256 + 128);  // of all inputs, as of cost_model.cpp
        const int64_t number = w.slot ? session.plan.ops[w.slot - 1].most_number : 0;
        if (!number || number > most_tile_number || number * w.C * w.taps() >= most_sum) return false;
        share = fmin(share_of(x, w, N, steps), 0.5);  // of more it takes less time to multiply all
    }
    const engine::Cost& rows = op.costs[engine::Patterns];
    const double by_rows = (rows.silent + share * (rows.busy - rows.silent)) * (double)steps / engine::cost_steps;
    return tile_current_cycles(op, steps) < by_rows;
}

// Shares the tasks of a kernel.
template <class Kernel>
static void share_tasks(Session& session, const View& x, const Kernel& kernel) {
    struct Context {
        const Kernel& kernel;
        const View& x;
        Scratch* scratch;
        bool counts;
    } context{kernel, x, session.scratch, session.counts};
    share(session, kernel.tasks(), &context, [](void* given, int64_t task, int64_t thread) {
        const Context& c = *(const Context*)given;
        c.kernel.run(c.x, task, c.scratch[thread].kernel, c.counts ? c.scratch[thread].tally : nullptr);
    });
}

void run_tile_currents(Session& session, const Op& op, const View& x, int64_t N, int64_t steps, float* currents) {
    share_tasks(session, x, PixelCurrents(op, x, N, steps, currents, session.threads));
}

bool takes_tile_currents(const Session& session, const Op& op, int64_t steps) {
    return !op.is_conv || !reads_spikes(session, op, steps);
}

int64_t way_of(const Session& session, const Op& op, int64_t N, int64_t steps) {
    if (op.tiles && takes_tile_currents(session, op, steps) &&
        tile_currents_pay(session, op, session.views[op.windows[op.weighted].slot], N, steps))
        return engine::ByPixelTiles;
    if (reads_values(session, op)) return engine::ByValues;
    const bool has_tiles = Tiled::fits(op, N, steps) || PixelTiled::fits(op, N, steps);
    if (!(has_tiles || has_kernel(op, N, steps)) || !reads_spikes(session, op, steps)) return engine::ByPatterns;
    if (Depthwise::fits(op)) return engine::ByDepthwise;
    const View& x = session.views[op.windows[op.weighted].slot];
    const bool many = op.P() > 1 || steps > most_pattern_steps;
    if (x.periodic && many && Sliced::fits(op, N, steps)) return engine::BySlices;
    if (op.P() == 1) return way_of_one_pixel(op, x, N, steps);
    const Candidates candidates(op, N, steps);
    const int64_t way = candidates.fastest(0);
    if (way == candidates.fastest(1)) return way;
    return candidates.fastest(rates_of(x, op, N, steps).rows);
}

// Shares the tasks of a kernel that runs the neurons of operation k.
template <class Kernel>
static void run_tasks(Session& session, int64_t k, int64_t N, const View& x, const Kernel& kernel) {
    memset(session.states[k].alike, 0, N * session.plan.ops[k].P());  // these kernels do not compare pixels
    share_tasks(session, x, kernel);
}

// `keeps`: whether the neurons' states are written.
template <class Kernel>
static void run_by(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh, bool keeps = true) {
    const Op& op = session.plan.ops[k];
    const View& x = session.views[op.windows[op.weighted].slot];
    Neurons neurons = neurons_of(session, k, N, steps, fresh);
    neurons.spikes = (uint8_t*)session.slots[k];
    if (!keeps) neurons.v = nullptr;
    const uint8_t* shortcut = op.count > 1 ? session.views[op.windows[1 - op.weighted].slot].spikes : nullptr;
    run_tasks(session, k, N, x, Kernel(op, neurons, x, shortcut, session.threads));
}

// The cycles of a step of a sample by scattering that share of the inputs.
static double scattering_cycles(const Op& op, double share) {
    constexpr double addition = 2.5,
                     pixel = 4;  // cycles: of a register that is read, added to and written; of one that is looked at
    const double reached = share * (double)(op.windows[0].rows * op.P());
    return (double)ceil_div(op.C, Vec::width) * (addition * reached + pixel * (double)op.P());
}

bool tiles_maxima(const Session& session, const Op& op, int64_t N, int64_t steps) {
    const Op& packed = op.maxima->op;
    const View& x = session.views[session.plan.ops[op.maxima->conv].windows[0].slot];
    if (!tile_currents_pay(session, packed, x, N, steps)) return false;
    if (!packed.reach) return true;
    const double share = x.spikes ? rates_of(x, packed, N, steps).spikes : share_of(x, packed.windows[0], N, steps);
    return tile_current_cycles(packed, steps) < scattering_cycles(packed, share) * (double)steps;
}

bool scatters_maxima(const Session& session, const Op& op, int64_t N, int64_t steps) {
    constexpr double few_values = 0.2;  // of more it takes less time to multiply all of them
    const Op& packed = op.maxima->op;
    const View& x = session.views[session.plan.ops[op.maxima->conv].windows[0].slot];
    if (!packed.reach || !(x.spikes || !packed.exact)) return false;
    if (!x.spikes) return share_of(x, packed.windows[0], N, steps) < few_values;
    if (!Sliced::fits(packed, N, steps)) return true;  // patterns would be slower
    const Rates rates = rates_of(x, packed, N, steps);
    const engine::Cost& rows = packed.costs[packed.row_cost()];
    const double by_rows = (rows.silent + rates.rows * (rows.busy - rows.silent)) / engine::cost_steps;
    return scattering_cycles(packed, rates.spikes) < by_rows;
}

bool run_maxima_by_slices(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh) {
    const Maxima& maxima = *session.plan.ops[k].maxima;
    const View& x = session.views[session.plan.ops[maxima.conv].windows[0].slot];
    if (!x.spikes || !Sliced::fits(maxima.op, N, steps)) return false;
    Neurons neurons = neurons_of(session, k, N, steps, fresh);
    neurons.spikes = (uint8_t*)session.slots[k];
    run_tasks(session, k, N, x, Sliced(maxima.op, neurons, x, nullptr, session.threads, &session.plan.ops[maxima.pool]));
    return true;
}

double pixel_tile_cycles(const Op& op, int64_t N, int64_t steps) {
    return PixelTiled::fits(op, N, steps) ? PixelTiled::cycles(op, steps) : INFINITY;
}

void run_kernel(Session& session, int64_t way, int64_t k, int64_t N, int64_t steps, bool fresh, bool goes_on) {
    switch (way) {
        case engine::ByDepthwise: return run_by<Depthwise>(session, k, N, steps, fresh);
        case engine::BySlices: return run_by<Sliced>(session, k, N, steps, fresh);
        case engine::ByTables: return run_by<Lookup>(session, k, N, steps, fresh);
        case engine::ByPixelTiles: return run_by<PixelTiled>(session, k, N, steps, fresh, goes_on);
        default: return run_by<Tiled>(session, k, N, steps, fresh);
    }
}

}  // namespace PK_TARGET
