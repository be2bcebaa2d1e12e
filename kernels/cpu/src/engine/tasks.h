// How a layer of neurons is cut into tasks: a band of rows of one image, with all channels; in layers of one pixel, a group of
// images. If that gives few tasks, each is also cut by blocks of channels.
#pragma once
#include "session.h"
#include "marks.h"

namespace PK_TARGET {

constexpr int64_t near_bytes = 5 << 17;      // the largest matrix that stays in the second-level cache
constexpr int64_t part_bytes = 1 << 18;      // a larger matrix is used in parts of this size, each by many pixels
constexpr int64_t most_items = 128;          // sums of a block that are computed together
constexpr int64_t most_far_items = 512;      // the same, if the matrix does not stay in the second-level cache
constexpr int64_t near_items = 32;           // the same, if the sums are to stay in the first-level cache
constexpr int64_t most_list_rows = 1 << 19;  // per batch, unless it is one pixel
constexpr int64_t most_band_list = 1 << 18;  // channels that can fire under a band, unless it is one row
constexpr int64_t most_pattern_steps = 32;   // bits of a pattern
constexpr int64_t fewest_multiplied = 4;     // sums that share the rows of weights; with fewer, values are always listed
constexpr int64_t packed_depth = 128,
                  packed_row = packed_depth + Vec::width;  // values of a window that are multiplied at a time
constexpr int64_t gap = 8;  // entries written at a time, and spare entries between two lists
// With at most this many steps per segment and bytes per row, rows are added at each step in which they fire, not by patterns:
// reading a row again is cheap, from the first-level cache, and listing by step is faster than by pattern.
constexpr int64_t few_steps = 16, few_bytes = 256;

// Whether the matrix is too large for the second-level cache, so that a batch of pixels should share each read of it.
static bool is_far(const Window& w) { return w.rows * w.row_bytes > near_bytes; }

// A window's rows, cut into parts: some channels of one tap, or all channels of some taps.
struct RowParts {
    int64_t chunk, chunks, taps, count;
    RowParts(const Window& w, int64_t most_rows) : chunk(w.C), chunks(1), taps(least(w.taps(), most(1, most_rows / w.C))) {
        if (w.C > most_rows) chunk = most(64, most_rows / 64 * 64), chunks = ceil_div(w.C, chunk);
        count = ceil_div(w.taps(), taps) * chunks;
    }
};

struct Tasks {
    int64_t steps, sums;  // steps of the segment; sums per pixel and channel: 1 if all inputs are held
    int64_t rows, bands;  // output rows per band; bands per image
    int64_t images, groups;  // images per task, in layers of one pixel; number of such groups
    int64_t spans;  // tasks by blocks of channels
    int64_t pixels;  // the most pixels of a batch
    bool one_pixel, shared;  // whether the layer has one pixel; whether batches have several
    bool values;  // whether some inputs are values times weights, which are listed by step
    int64_t pooled_rows = 0;  // of a pooling of the currents: output rows per band

    // `pool`: whose windows a batch has as a whole; or null.
    Tasks(const Op& op, int64_t N, int64_t steps, int64_t threads, bool held, bool values, const Op* pool = nullptr)
        : steps(steps), sums(held ? 1 : steps), values(values) {
        one_pixel = op.P() == 1;
        const int64_t items = has_far(op) ? most_far_items : one_pixel ? most_items : near_items;
        pixels = most(pool ? pool->windows[0].taps() : 1, least(items / sums, most_list_rows / most(1, op.rows)));
        shared = pixels > 1;
        images = one_pixel ? least(pixels, most(N, 1)) : 1;
        groups = ceil_div(N, images);
        const int64_t wanted = threads > 1 ? 3 * threads : 1;
        rows = one_pixel ? 1 : most(1, op.H * most(N, 1) / wanted);
        rows = least(rows, op.H);
        for (; rows > 1; rows = ceil_div(rows, 2)) {
            int64_t entries = 0;
            for (int64_t i = 0; i < op.count; i++)
                if (op.windows[i].rows) entries += under_rows(op.windows[i]) * op.windows[i].W * op.windows[i].C;
            if (entries <= most_band_list) break;
        }
        if (pool) {
            pooled_rows = least(pool->H, most(1, rows / pool->windows[0].stride_h));
            rows = least(op.H, pooled_rows * pool->windows[0].stride_h + pool->windows[0].kernel_h);
        }
        bands = pool ? ceil_div(pool->H, pooled_rows) : ceil_div(op.H, rows);
        pixels = least(pixels, one_pixel ? images : rows * op.W);
        spans = groups * bands < 2 * threads ? op.blocks() : 1;
    }
    static bool has_far(const Op& op) {
        for (int64_t i = 0; i < op.count; i++)
            if (is_far(op.windows[i])) return true;
        return false;
    }
    // Whether a batch uses the rows of a window part by part, so that each row is fetched from memory once.
    bool in_parts(const Window& w) const { return shared && is_far(w); }
    RowParts parts(const Window& w) const { return RowParts(w, in_parts(w) ? part_bytes / w.row_bytes : w.rows); }
    // Whether rows are listed by step, not by pattern.
    bool by_steps(const Window& w) const {
        return values || steps == 1 || in_parts(w) || (steps <= few_steps && w.row_bytes <= few_bytes && !is_far(w));
    }
    int64_t count() const { return groups * bands * spans; }

    // Input rows under a band.
    int64_t under_rows(const Window& w) const {
        return least(w.H, (rows - 1) * w.stride_h + (w.kernel_h - 1) * w.dilation_h + 1);
    }

    // The scratch memory of one thread.
    Room room(const Op& op) const {
        Room r;
        r.items = pixels * sums;
        r.pixels = rows * op.W + images;
        for (int64_t i = 0; i < op.count; i++) {
            const Window& w = op.windows[i];
            r.alike += under_rows(w) * w.W;
            if (!w.rows) continue;
            const int64_t under = (one_pixel ? images : 1) * under_rows(w) * w.W, parts_of = parts(w).count;
            const int64_t times = by_steps(w) ? sums : 1, lists = by_steps(w) ? parts_of * sums : w.rows;
            r.listed = most(r.listed, w.rows), r.taps = most(r.taps, w.taps());
            r.buckets += pixels * parts_of + 1, r.lists += pixels * lists;
            r.rows += pixels * (w.rows * times + lists * gap);
            r.fired += under * w.C * times, r.places += under;
            r.sorted += under * (by_steps(w) ? parts(w).chunks * sums : w.C);
            r.whole = most(r.whole, w.kind == RowKind::Floats ? 0 : (in_parts(w) ? pixels : 1) * sums);
        }
        if (values) r.sent = r.fired, r.values = r.rows, r.packed = dense_rows * packed_row, r.items += dense_rows;
        return r;
    }
};

// The functions that run the operations of a plan, for N samples and the steps of a segment. Each kind of operation has a
// source file of its own. k: index of the operation. `fresh`: starts from rest. `goes_on`: the states are needed after the
// segment.

// packed_plan.cpp. Null if there is no memory.
Plan* make_plan(const Description* described, int64_t has_tiles);
void free_plan(Plan* plan);

// fire.cpp: neurons by patterns, for `steps` of the `all_steps` steps of a segment; at most as many steps as a pattern has
// bits.
void fire_steps(Session& session, int64_t k, int64_t N, int64_t start, int64_t steps, int64_t all_steps, bool fresh,
                bool goes_on);

// fire.cpp: all steps of a short segment, if matrix tiles compute the currents (behind.h); of Op.maxima on the largest ones.
void fire_tile_currents(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh, bool goes_on);
void fire_tile_maxima(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh, bool goes_on);

// fire.cpp: the same of neurons on the largest currents of a convolution, Op.maxima.
void fire_maxima(Session& session, int64_t k, int64_t N, int64_t start, int64_t steps, int64_t all_steps, bool fresh,
                 bool goes_on);

// scatter_maxima.cpp: the same by what is not 0 in the input. `keeps_currents`: those of the last step are the convolution's state.
int64_t scattered_maxima_room(const Op& op, const Plan& plan, int64_t N, int64_t threads);  // memory per thread
void scatter_maxima(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh, bool keeps_currents);

// convolutions.cpp: chooses the way in which neurons are run, from the layer and its current input, and runs the kernels of
// ../conv2d.
int64_t way_of(const Session& session, const Op& op, int64_t N, int64_t steps);
bool has_kernel(const Op& op, int64_t N, int64_t steps);  // for a layer that reads only spikes
int64_t kernel_room(const Op& op, int64_t N, int64_t steps, int64_t threads);  // memory per thread, for any of the kernels
bool takes_tile_currents(const Session& session, const Op& op,
                         int64_t steps);  // of an operation that pixel tiles run: behind.h
// Writes the currents [N][steps][P][C] of N images of x.
void run_tile_currents(Session& session, const Op& op, const View& x, int64_t N, int64_t steps, float* currents);
double pixel_tile_cycles(const Op& op, int64_t N, int64_t steps);  // per sample; infinite if pixel tiles do not fit
void run_kernel(Session& session, int64_t way, int64_t k, int64_t N, int64_t steps, bool fresh, bool goes_on);
bool scatters_maxima(const Session& session, const Op& op, int64_t N, int64_t steps);  // or by slices, or patterns
bool tiles_maxima(const Session& session, const Op& op, int64_t N, int64_t steps);  // or else
bool run_maxima_by_slices(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh);  // false: they do not fit
int64_t maxima_room(const Op& op, const Plan& plan, int64_t N, int64_t steps, int64_t threads);  // memory per thread

// scatter.cpp: runs an operation from the list of its input's spikes and returns true; or makes the bits of its inputs and
// returns false.
bool run_listed(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh);

// pools_and_moves.cpp: operations between neurons.
void run_between(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh, bool goes_on);

// recurrent.cpp: recurrent neurons.
void run_recurrent(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh);
int64_t recurrent_room(const Op& op);  // memory per thread

// sigma_delta.cpp: all operations of a network of sigma-delta neurons.
void run_sigma_delta(Session& session, int64_t k, int64_t N, int64_t T, bool fresh, bool goes_on);
int64_t sigma_delta_room(const Op& op, const Window& w, int64_t steps);  // memory per thread
int64_t mark_room(const Op& op, const Window& w);  // bytes of marks for one row of the window's input
bool has_messages(const Op& source, const Window& w);  // whether what is not 0 in the window's input may be listed

// Interrupting a run: the caller's thread asks now and then, between tasks, whether to go on; if not, no thread begins another
// task. The session is left as it was before the run, so that it can go on from there.

// The time between two questions. Runs that keep their states and should take less than `worth_keeping` are not watched,
// because saving the old states would cost too much compared with the run.
constexpr int64_t ask_again = 50000000, worth_keeping = 20000000;  // nanoseconds

// Asks now; returns whether the run is to end.
static bool ask_whether_over(Session& session) {
    Watch& watch = session.watch;
    if (watch.asks && !watch.over.load() && watch.asks(watch.context) != 1) watch.over.store(true);
    watch.next = nanoseconds() + ask_again;
    return watch.over.load();
}

// Calls work(context, task, thread) for each task below count, unless the run is to end.
static void share(Session& session, int64_t count, void* context, Team::Work work) {
    if (!session.watch.asks) return session.team->share(count, context, work);
    struct Watched {
        Session& session;
        void* context;
        Team::Work work;
    } watched{session, context, work};
    session.team->share(count, &watched, [](void* given, int64_t task, int64_t thread) {
        const Watched& w = *(const Watched*)given;
        Watch& watch = w.session.watch;
        if (watch.over.load(std::memory_order_relaxed)) return;
        w.work(w.context, task, thread);
        if (!thread && nanoseconds() > watch.next) ask_whether_over(w.session);
    });
}

// Calls each(memory, bytes) for all that an interrupted run must restore: states, counts and tallies.
template <class Each>
static void each_kept(const Session& session, const Run& run, Each each) {
    const Op& last = session.plan.ops[session.plan.count - 1];
    if (!run.fresh) each(session.state_arena, session.state_bytes);
    if (run.counts) each((char*)run.counts, run.N * last.C * last.P() * (int64_t)sizeof *run.counts);
    each((char*)run.tally, engine::tallies * session.plan.count * (int64_t)sizeof *run.tally);
}

// Begins to watch a run, whose memory is already allocated. `expected`: nanoseconds, 0 if unknown. If there is no memory to
// save what it changes, the run is not watched.
static void watch_run(Session& session, const Run& run, int64_t expected) {
    Watch& watch = session.watch;
    watch.asks = nullptr, watch.over.store(false);
    if (!run.may_go_on) return;
    if (run.goes_on) {
        if (expected && expected < worth_keeping) return;
        catch_up(session);
        int64_t bytes = 0;
        each_kept(session, run, [&](char*, int64_t size) { bytes += size; });
        char* to = session.kept.try_reserve(bytes);
        if (!to) return;
        each_kept(session, run, [&](char* from, int64_t size) { memcpy(to, from, size), to += size; });
    }
    watch.asks = run.may_go_on, watch.context = run.context, watch.next = nanoseconds() + ask_again;
}

// Restores what an interrupted run has changed.
static void put_back(Session& session, const Run& run) {
    for (int64_t k = 0; k < session.plan.count; k++) forget(session.states[k]);
    if (!run.goes_on) return;
    const char* from = session.kept.data;
    each_kept(session, run, [&](char* to, int64_t size) { memcpy(to, from, size), from += size; });
}

}  // namespace PK_TARGET
