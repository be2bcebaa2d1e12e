// Networks of sigma-delta neurons. A slot holds the changes at each step, codes or values [N, steps, P, C], and marks the
// pixels that have any. Other pixels are not visited, unless their neurons sent something at the last step, since these may
// send again.
#pragma once
#include "../sigma_delta/call.h"
#include "../sigma_delta/codes.h"
#include "tasks.h"

namespace PK_TARGET {

enum class SigmaDeltaKernel { Rows, Messages, ByteRows, ByteProducts, Scattered, Dense, Depthwise, Maxima };

// Sets what a plan knows of a window of an operation: its weights and sizes.
static void set_window(SigmaDelta& s, const Op& op, const Window& w) {
    s.weight = w.matrix;
    s.P = op.P(), s.C = op.C, s.C_in = w.C, s.H = w.H, s.W = w.W, s.W_out = op.W;
    s.kernel_h = w.kernel_h, s.kernel_w = w.kernel_w, s.stride_h = w.stride_h, s.stride_w = w.stride_w;
    s.padding_h = w.padding_h, s.padding_w = w.padding_w, s.dilation_h = w.dilation_h, s.dilation_w = w.dilation_w;
    s.groups = w.by_channel ? 1 : w.groups;
}

// The arguments of a sigma-delta kernel for one window of an operation and T steps; with biases if these are the first steps.
static SigmaDelta sigma_delta_of(const Session& session, const Op& op, const Window& w, int64_t N, int64_t T, bool fresh) {
    SigmaDelta s{};
    set_window(s, op, w);
    const Change& x = session.changes[w.slot];
    s.x = session.slots[w.slot - 1], s.T_in = x.silent ? 0 : x.steps;
    s.real = session.plan.ops[w.slot - 1].real;
    s.bias = fresh ? w.bias : nullptr;
    s.limit = op.senders.limit, s.lowest = op.senders.rectifies ? 0 : -most_signed_code * op.grid;
    s.exponents = op.senders.exponents, s.unit = op.grid;
    s.threshold = op.has_senders ? op.senders.threshold : INFINITY;
    s.N = N, s.T = T;
    return s;
}

int64_t sigma_delta_room(const Op& op, const Window& w, int64_t steps) {
    SigmaDelta s{};
    set_window(s, op, w);
    s.T_in = steps;
    Carver taps{nullptr}, bytes{nullptr}, products{nullptr}, scattered{nullptr}, dense{nullptr}, maximum{nullptr};
    SigmaDeltaTaps(s, taps);
    ByteScratch(s, bytes);
    ByteProductScratch(s, products);
    ScatterScratch(s, scattered);
    DenseScratch(s, dense);
    MaximumScratch(s, maximum);
    if (op.kind == engine::SendMaxima) return maximum.bytes;
    if (w.kind == RowKind::Bytes) return most(bytes.bytes, products.bytes);
    return w.by_channel ? taps.bytes : most(most(taps.bytes, scattered.bytes), dense.bytes);
}

struct SharedCall {
    const Session& session;
    const SigmaDeltaCall& call;
    const SigmaDeltaKernel kernel;

    void run(int64_t task, Carver& carver, Counted& counted) const {
        if (kernel == SigmaDeltaKernel::Scattered) {
            ScatterScratch scratch(call.s, carver);
            return scatter_task(call, task, scratch, counted);
        }
        if (kernel == SigmaDeltaKernel::Dense) {
            DenseScratch scratch(call.s, carver);
            return dense_task(call, task, scratch, counted);
        }
        if (kernel == SigmaDeltaKernel::Maxima) {
            MaximumScratch scratch(call.s, carver);
            return maximum_task(call, task, scratch, counted);
        }
        if (kernel == SigmaDeltaKernel::ByteRows) {
            ByteScratch scratch(call.s, carver);
            return byte_rows_task(call, task, scratch, counted);
        }
        if (kernel == SigmaDeltaKernel::ByteProducts) {
            ByteProductScratch scratch(call.s, carver);
            return byte_products_task(call, task, scratch, counted);
        }
        SigmaDeltaTaps taps(call.s, carver);
        const auto task_of = kernel == SigmaDeltaKernel::Rows       ? rows_task
                             : kernel == SigmaDeltaKernel::Messages ? messages_task
                                                                    : depthwise_task;
        task_of(call, task, taps, counted);
    }
    void run(int64_t task, int64_t thread) const {
        Scratch& scratch = session.scratch[thread];
        Carver carver{scratch.sigma_delta};
        Counted counted;
        run(task, carver, counted);
        PK_ASSERT(carver.bytes <= session.sigma_delta_bytes);
        scratch.tally[0] += counted.spikes;
        scratch.tally[call.s.real ? 2 : 1] += counted.additions;
    }
};

// Whether the input of a window may be listed.
bool has_messages(const Op& source, const Window& w) {
    constexpr int64_t fewest = 16;  // inputs of a group
    return source.real && source.kind != engine::Changes && !w.by_channel && w.C / w.groups >= fewest && w.C < (1ll << 32);
}

// Calls list(call, first, last) for some input pixels of a call at a time.
static void list_input(Session& session, const SigmaDeltaCall& call,
                       void list(const SigmaDeltaCall&, int64_t first, int64_t last)) {
    struct Context {
        const SigmaDeltaCall& call;
        void (*list)(const SigmaDeltaCall&, int64_t, int64_t);
        int64_t pixels;
    } context{call, list, call.s.N * call.s.T_in * call.s.H * call.s.W};
    constexpr int64_t some = 16;  // pixels of a task
    share(session, ceil_div(context.pixels, some), &context, [](void* given, int64_t task, int64_t) {
        const Context& c = *(const Context*)given;
        c.list(c.call, task * some, least((task + 1) * some, c.pixels));
    });
}

static void run_call(Session& session, const SigmaDeltaCall& call, SigmaDeltaKernel kernel) {
    SharedCall shared{session, call, kernel};
    if (kernel == SigmaDeltaKernel::Messages) list_input(session, call, list_messages);
    if (kernel == SigmaDeltaKernel::ByteRows) list_input(session, call, list_codes);
    if (kernel == SigmaDeltaKernel::ByteProducts) list_input(session, call, write_all_codes);
    const int64_t tasks = kernel == SigmaDeltaKernel::Dense          ? dense_tasks(call)
                          : kernel == SigmaDeltaKernel::Scattered    ? scatter_tasks(call)
                          : kernel == SigmaDeltaKernel::ByteRows     ? byte_row_tasks(call)
                          : kernel == SigmaDeltaKernel::ByteProducts ? byte_product_tasks(call)
                          : kernel == SigmaDeltaKernel::Maxima       ? ceil_div(call.count, place_group)
                          : kernel == SigmaDeltaKernel::Messages     ? place_tasks(call, message_pass)
                                                                     : place_tasks(call);
    share(session, tasks, &shared,
          [](void* given, int64_t task, int64_t thread) { ((const SharedCall*)given)->run(task, thread); });
}

// The fastest kernel for a call. If only some pixels are visited, the others hold nothing, so the measured rate is scaled.
static SigmaDeltaKernel kernel_of(const SigmaDeltaCall& call, const Window& w, const Change& x) {
    if (w.by_channel) return SigmaDeltaKernel::Depthwise;
    const bool bytes = call.bytes.weight;
    const double rate = bytes ? byte_product_rate(call) : dense_rate(call);
    const SigmaDeltaKernel rows = bytes                             ? SigmaDeltaKernel::ByteRows
                                  : call.s.x && can_scatter(call.s) ? SigmaDeltaKernel::Scattered
                                  : call.messages.of                ? SigmaDeltaKernel::Messages
                                                                    : SigmaDeltaKernel::Rows;
    if (rate > 1) return rows;
    const double found = rate_of(call.s);
    const double share = (double)most(x.count, 1) / (double)(call.s.N * call.s.H * call.s.W);
    if (found < rate * share) return rows;
    return bytes ? SigmaDeltaKernel::ByteProducts : SigmaDeltaKernel::Dense;
}

// Counts the pixels that hold something.
static void count_active(Change& y, int64_t pixels) {
    y.count = 0;
    for (int64_t i = 0; i < pixels; i++) y.count += y.active[i];
    y.silent = !y.count;
}

constexpr int64_t everywhere = -1;

// Marks the output pixels of an image whose windows contain an active input pixel. `row`: room for a padded input row.
static void mark_windows(const Op& op, const Window& w, const uint8_t* active, uint8_t* row, uint8_t* marks) {
    const int64_t last = (op.W - 1) * w.stride_w + (w.kernel_w - 1) * w.dilation_w + 1, width = most(last, w.padding_w + w.W);
    for (int64_t oy = 0; oy < op.H; oy++, marks += op.W) {
        memset(row, 0, width);
        for (int64_t ky = 0; ky < w.kernel_h; ky++) {
            const int64_t y = oy * w.stride_h - w.padding_h + ky * w.dilation_h;
            for (int64_t x = 0; x < w.W && y >= 0 && y < w.H; x++) row[w.padding_w + x] |= active[y * w.W + x];
        }
        for (int64_t kx = 0; kx < w.kernel_w; kx++) {
            const uint8_t* const from = row + kx * w.dilation_w;
            if (w.stride_w == 1)
                for (int64_t x = 0; x < op.W; x++) marks[x] |= from[x];
            else
                for (int64_t x = 0; x < op.W; x++) marks[x] |= from[x * w.stride_w];
        }
    }
}

int64_t mark_room(const Op& op, const Window& w) {
    return most((op.W - 1) * w.stride_w + (w.kernel_w - 1) * w.dilation_w + 1, w.padding_w + w.W);
}

// Lists the output pixels that an operation must visit, and returns their number; or returns `everywhere`, without a list.
// `restless`: marks pixels whose neurons may send something without input; or null.
static int64_t list_places(Session& session, const Op& op, int64_t N, const uint8_t* restless) {
    const int64_t P = op.P();
    const auto is_most = [](int64_t some, int64_t all) { return 4 * some > 3 * all; };
    for (int64_t i = 0; i < op.count; i++) {
        const Window& w = op.windows[i];
        if (is_most(session.changes[w.slot].count, N * w.H * w.W) && !session.changes[w.slot].silent) return everywhere;
    }
    uint8_t* const marks = session.marks;
    if (restless) memcpy(marks, restless, N * P);
    else memset(marks, 0, N * P);
    for (int64_t i = 0; i < op.count; i++) {
        const Window& w = op.windows[i];
        const Change& x = session.changes[w.slot];
        if (x.silent) continue;
        for (int64_t image = 0; image < N; image++)
            mark_windows(op, w, x.active + image * w.H * w.W, session.mark_row, marks + image * P);
    }
    int64_t count = 0;
    for (int64_t place = 0; place < N * P; place++) {
        session.places[count] = place;
        count += marks[place] != 0;
    }
    return is_most(count, N * P) ? everywhere : count;
}

// Adds the sums of another window to those of earlier ones, at the pixels of a call.
static void add_brought(const SigmaDeltaCall& call, const float* brought, float* added) {
    const SigmaDelta& s = call.s;
    for (int64_t i = 0; i < call.count; i++) {
        const int64_t place = call.place(i), image = place / s.P;
        for (int64_t t = 0; t < s.T; t++) {
            const int64_t at = ((image * s.T + t) * s.P + place % s.P) * s.C;
            for (int64_t c = 0; c < s.C; c++) added[at + c] += brought[at + c];
        }
    }
}

// A call for `count` listed pixels, or for all of them.
static SigmaDeltaCall listed(const Session& session, const SigmaDelta& s, const Window& w, int64_t count) {
    SigmaDeltaCall call(s);
    if (w.kind == RowKind::Bytes) {
        call.bytes = {(const uint8_t*)w.matrix, w.unit, session.plan.ops[w.slot - 1].code_unit};
        call.codes = session.codes, call.has_tiles = session.plan.has_tiles;
    } else if (s.x && s.T_in && has_messages(session.plan.ops[w.slot - 1], w)) {
        call.messages = session.messages;
    }
    if (count != everywhere) call.places = session.places, call.count = count;
    return call;
}

// Counts the values of an input that are not 0 as additions: it is added as it is.
static void count_values(Session& session, const Window& w, int64_t images) {
    struct Context {
        const Session& session;
        const float* values;
        int64_t count;  // of an image
    } context{session, (const float*)session.slots[w.slot - 1], w.H * w.W * w.C};
    share(session, images, &context, [](void* given, int64_t image, int64_t thread) {
        const Context& c = *(const Context*)given;
        int64_t found = 0;
        for (int64_t i = 0; i < c.count; i += 64)
            found += __builtin_popcountll(not_zero(c.values + image * c.count + i, least(64, c.count - i)));
        c.session.scratch[thread].tally[2] += found;
    });
}

// Adds the input of all windows except the main one: to s.added, [N, T, P, C], unless it is zero.
static void add_others(Session& session, const Op& op, SigmaDelta& s, int64_t count, bool fresh) {
    s.added_scale = 1;
    for (int64_t i = 0; i < op.count; i++) {
        const Window& w = op.windows[i];
        const Change& x = session.changes[w.slot];
        if (i == op.main_window || (x.silent && !(fresh && w.bias))) continue;
        if (w.scale && op.count == 2 && x.steps == s.T && session.plan.ops[w.slot - 1].real) {
            count_values(session, w, s.N * s.T);
            s.added = (const float*)session.slots[w.slot - 1], s.added_scale = w.scale;
            return;
        }
        SigmaDelta other = sigma_delta_of(session, op, w, s.N, s.T, fresh);
        other.arrived = s.added ? session.brought : session.added, other.threshold = INFINITY;
        const SigmaDeltaCall call = listed(session, other, w, count);
        run_call(session, call, kernel_of(call, w, x));
        if (s.added) add_brought(call, other.arrived, session.added);
        else s.added = other.arrived;
    }
}

// Updates the sums that the inputs of a max pooling have sent.
static void add_up_inputs(Session& session, const SigmaDelta& s, const Change& x) {
    struct Context {
        const SigmaDelta& s;
        const Change& x;
    } context{s, x};
    share(session, s.N * s.H, &context, [](void* given, int64_t row, int64_t) {
        const Context& c = *(const Context*)given;
        for (int64_t place = row * c.s.W; place < (row + 1) * c.s.W; place++)
            if (!c.x.active || c.x.active[place]) add_up_sent(c.s, place, place + 1);
    });
}

// Runs a layer that is called by itself, for all samples and steps.
static void run_layer(Session& session) {
    const Op& op = session.plan.ops[0];
    const Window& w = op.windows[0];
    SigmaDelta s = *session.given;
    set_window(s, op, w);
    const SigmaDeltaCall call(s);
    Change x;
    x.count = s.N * s.H * s.W;
    const bool maxima = op.kind == engine::SendMaxima;
    run_call(session, call, maxima ? SigmaDeltaKernel::Maxima : kernel_of(call, w, x));
    if (maxima && s.z) add_up_inputs(session, s, x);
}

// Runs sigma-delta neurons behind synapses or behind a max pooling. Without neurons, gives the sums that arrive, or the changes
// of the maxima.
static void run_send(Session& session, int64_t k, int64_t N, int64_t T, bool fresh, bool goes_on) {
    const Op& op = session.plan.ops[k];
    const LayerState& state = session.states[k];
    Change& y = session.changes[k + 1];
    const bool maxima = op.kind == engine::SendMaxima, keeps = state.v && (goes_on || !fresh);
    const Window& w = op.windows[op.main_window];
    y.steps = T;
    if (op.real) {
        y.steps = 0;
        for (int64_t i = 0; i < op.count; i++) y.steps = most(y.steps, session.changes[op.windows[i].slot].steps);
    }
    const int64_t count = fresh ? everywhere : list_places(session, op, N, state.restless);
    if (keeps && fresh) {
        memset(state.v, 0, N * op.state_size * sizeof(float));
        memset(state.sent, 0, N * op.sent_size * sizeof(float));
    }
    if (state.restless) memset(state.restless, 0, N * op.P());
    y.silent = !count, y.count = 0;
    SigmaDelta s = sigma_delta_of(session, op, w, N, y.steps, fresh);
    if (keeps) s.z = state.v, s.a = state.sent;
    if (count) {
        memset(y.active, 0, N * op.P());
        if (count != everywhere) memset(session.slots[k], 0, N * y.steps * slot_bytes(op));
        if (op.count > 1) add_others(session, op, s, count, fresh);
        if (op.real) s.arrived = (float*)session.slots[k];
        else s.codes = (int8_t*)session.slots[k];
        SigmaDeltaCall call = listed(session, s, w, count);
        call.sent = y.active, call.last = keeps ? state.restless : nullptr;
        run_call(session, call, maxima ? SigmaDeltaKernel::Maxima : kernel_of(call, w, session.changes[w.slot]));
        count_active(y, N * op.P());
    }
    // Needed even if nothing is visited, since changed inputs may lie between the windows of the pooling.
    if (maxima && keeps && s.T_in) add_up_inputs(session, s, session.changes[w.slot]);
}

}  // namespace PK_TARGET
