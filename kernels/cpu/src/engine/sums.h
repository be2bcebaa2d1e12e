// Functions and products of sums in networks of sigma-delta neurons: gates. What such an operation reads adds up to a value, and
// it gives what the function of that value, or the product of two, changes by. States: of a function the sum and its last result,
// of a product the two sums.
#pragma once
#include "functions.h"
#include "sigma_delta.h"

namespace PK_TARGET {

constexpr int64_t some_channels = 64;  // are looked at together

// The pixels that an operation reads through a window: those of its own, or along some axes a single one for all.
struct Factor {
    const Window& w;
    const Change& x;
    const void* values;
    bool real;
    int64_t steps, row, pixel, channel;  // how far the next one is: 0 or, in pixels, the width, 1 and 1

    Factor(const Session& session, const Op& op, const Window& w)
        : w(w),
          x(session.changes[w.slot]),
          values(session.slots[w.slot - 1]),
          real(session.plan.ops[w.slot - 1].real),
          steps(x.silent ? 0 : x.steps),
          row(w.H < op.H ? 0 : w.W),
          pixel(w.W < op.W ? 0 : 1),
          channel(w.C < op.C ? 0 : 1) {}
    // The pixel behind an output pixel.
    int64_t under(const Op& op, int64_t p) const { return p / op.W * row + p % op.W * pixel; }
    bool is_active(const Op& op, int64_t image, int64_t p) const {
        return !x.silent && x.active[image * w.H * w.W + under(op, p)];
    }
    // Adds what arrives at step t for n channels of an output pixel, from `first` on.
    void add(float* sums, const Op& op, int64_t image, int64_t t, int64_t p, int64_t first, int64_t n) const {
        if (t >= steps) return;
        const int64_t at = ((image * x.steps + t) * w.H * w.W + under(op, p)) * w.C + first * channel;
        if (real) add(sums, (const float*)values + at, n);
        else add(sums, (const int8_t*)values + at, n);
    }
    template <class Value>
    void add(float* sums, const Value* from, int64_t n) const {
        if (!channel)
            for (int64_t i = 0; i < n; i++) sums[i] += value_of(*from);
        else
            for (int64_t i = 0; i < n; i++) sums[i] += value_of(from[i]);
    }
    // The sums of the steps before for these channels; `kept`: the state, [N, P, C] of what is read; null: zeros.
    void begin(float* sums, const float* kept, const Op& op, int64_t image, int64_t p, int64_t first, int64_t n) const {
        const float* const from = kept ? kept + (image * w.H * w.W + under(op, p)) * w.C + first * channel : nullptr;
        for (int64_t i = 0; i < n; i++) sums[i] = from ? from[i * channel] : 0.0f;
    }
};

// Writes the changes [steps][n channels] of what `result` gives for the channels i < n at each step, and returns whether there
// are any. `last`: the result before.
template <class Add, class Result>
static inline bool write_changes(float* to, int64_t next, int64_t steps, int64_t n, float* last, Add add, Result result) {
    bool moved = false;
    for (int64_t t = 0; t < steps; t++, to += next) {
        float now[some_channels];
        add(t);
        for (int64_t i = 0; i < n; i++) now[i] = result(i);
        for (int64_t i = 0; i < n; i++) to[i] = now[i] - last[i], last[i] = now[i];
        moved |= not_zero(to, n) != 0;
    }
    return moved;
}

struct OfSums {
    const Session& session;
    const int64_t k;
    const bool fresh, keeps;
    const Op& op = session.plan.ops[k];
    const Change& y = session.changes[k + 1];
    const LayerState& state = session.states[k];

    float* at(int64_t image, int64_t p, int64_t c) const {
        return (float*)session.slots[k] + (image * y.steps * op.P() + p) * op.C + c;
    }

    // All steps of some channels of a pixel. Whether it changes.
    bool function(int64_t image, int64_t p, int64_t first, int64_t n) const {
        const Factor x(session, op, op.windows[0]);
        const int64_t place = (image * op.P() + p) * op.C + first;
        float sums[some_channels], last[some_channels] = {};
        x.begin(sums, fresh ? nullptr : state.v, op, image, p, first, n);
        if (!fresh) memcpy(last, state.sent + place, n * sizeof(float));
        bool moved = false;
        smooth::with_function(op.function, op.parameters, [&](auto of) {
            moved = write_changes(
                at(image, p, first), op.P() * op.C, y.steps, n, last,
                [&](int64_t t) { x.add(sums, op, image, t, p, first, n); }, [&](int64_t i) { return (float)of(sums[i]); });
        });
        if (keeps) {
            memcpy(state.v + place, sums, n * sizeof(float));
            memcpy(state.sent + place, last, n * sizeof(float));
        }
        return moved;
    }
    bool product(int64_t image, int64_t p, int64_t first, int64_t n) const {
        const Factor x(session, op, op.windows[0]), other(session, op, op.windows[1]);
        float sums[some_channels], others[some_channels], last[some_channels];
        x.begin(sums, fresh ? nullptr : state.v, op, image, p, first, n);
        other.begin(others, fresh ? nullptr : state.sent, op, image, p, first, n);
        for (int64_t i = 0; i < n; i++) last[i] = sums[i] * others[i];
        return write_changes(
            at(image, p, first), op.P() * op.C, y.steps, n, last,
            [&](int64_t t) {
                x.add(sums, op, image, t, p, first, n);
                other.add(others, op, image, t, p, first, n);
            },
            [&](int64_t i) { return sums[i] * others[i]; });
    }
    // A row of pixels of an image. From rest all are visited: a function of 0 need not be 0.
    void run_row(int64_t image, int64_t row) const {
        for (int64_t p = row * op.W; p < (row + 1) * op.W; p++) {
            bool moved = fresh;
            for (int64_t i = 0; i < op.count && !moved; i++) moved = Factor(session, op, op.windows[i]).is_active(op, image, p);
            if (!moved)
                for (int64_t t = 0; t < y.steps; t++) memset(at(image, p, 0) + t * op.P() * op.C, 0, op.C * sizeof(float));
            bool any = false;
            for (int64_t c = 0; c < op.C && moved; c += some_channels) {
                const int64_t n = least(some_channels, op.C - c);
                any |= op.kind == engine::Function ? function(image, p, c, n) : product(image, p, c, n);
            }
            y.active[image * op.P() + p] = any;
        }
    }
    // Adds to the sums of a product, of one image, what its inputs have brought.
    void keep_sums(int64_t image) const {
        for (int64_t i = 0; i < 2; i++) {
            const Window& w = op.windows[i];
            const Change& x = session.changes[w.slot];
            const int64_t size = w.H * w.W * w.C, steps = x.silent ? 0 : x.steps;
            float* const sums = (i ? state.sent : state.v) + image * size;
            if (fresh) memset(sums, 0, size * sizeof(float));
            for (int64_t t = 0; t < steps; t++) {
                const int64_t from = (image * steps + t) * size;
                const bool real = session.plan.ops[w.slot - 1].real;
                if (real) add((const float*)session.slots[w.slot - 1] + from, sums, size);
                else add((const int8_t*)session.slots[w.slot - 1] + from, sums, size);
            }
        }
    }
    template <class Value>
    static void add(const Value* from, float* sums, int64_t size) {
        for (int64_t i = 0; i < size; i++) sums[i] += value_of(from[i]);
    }
};

static void run_of_sums(Session& session, int64_t k, int64_t N, bool fresh, bool goes_on) {
    const Op& op = session.plan.ops[k];
    Change& y = session.changes[k + 1];
    y.steps = 0, y.silent = !fresh, y.count = 0;
    for (int64_t i = 0; i < op.count; i++) {
        const Change& x = session.changes[op.windows[i].slot];
        y.steps = most(y.steps, x.steps), y.silent &= x.silent;
    }
    if (y.silent) return;
    OfSums run{session, k, fresh, goes_on || !fresh};
    share(session, N * op.H, &run, [](void* given, int64_t row, int64_t) {
        const OfSums& r = *(const OfSums*)given;
        r.run_row(row / r.op.H, row % r.op.H);
    });
    if (run.keeps && op.kind == engine::Multiply)
        share(session, N, &run, [](void* given, int64_t image, int64_t) { ((const OfSums*)given)->keep_sums(image); });
    count_active(y, N * op.P());
}

}  // namespace PK_TARGET
