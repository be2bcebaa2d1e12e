// Operations between sigma-delta neurons, and at the ends of their networks, where values become changes and changes are summed
// again. Linear operations treat changes like values.
#include "../sigma_delta/codes.h"
#include "sigma_delta.h"
#include "pools_and_moves.h"
#include "sums.h"

namespace PK_TARGET {

// Converts a value to the type of an operation's output: codes to floats, or unchanged.
template <class To, class From>
static inline To as(From value) {
    if constexpr (std::is_same_v<To, From>) return value;
    else return value_of(value);
}

// The values of one image in a slot at step t.
template <class Value>
static const Value* frame_of(const Session& session, const Window& w, int64_t image, int64_t t) {
    const int64_t steps = session.changes[w.slot].steps;
    return (const Value*)session.slots[w.slot - 1] + (image * steps + t) * w.H * w.W * w.C;
}

// Computes the changes of each input value in a row of pixels, and marks the pixels that have any.
static void changes_of_row(Session& session, int64_t k, int64_t image, int64_t row, bool fresh, bool keeps) {
    const Op& op = session.plan.ops[k];
    const View& x = session.views[0];
    const Change& y = session.changes[k + 1];
    const int64_t P = op.P(), C = op.C;
    for (int64_t p = row * op.W; p < (row + 1) * op.W; p++) {
        float* const kept = session.states[k].v + (image * P + p) * C;
        float* const to = (float*)session.slots[k] + (image * y.steps * P + p) * C;
        bool moved = false;
        for (int64_t c = 0; c < C; c++) {
            float before = fresh ? 0.0f : kept[c];
            for (int64_t t = 0; t < y.steps; t++) {
                const float value = x.values_at(image, t, p)[c * x.channel];
                const float now = op.grid < INFINITY ? nearbyintf(value / op.grid) * op.grid : value, change = now - before;
                to[t * P * C + c] = change, before = now;
                moved |= change != 0;
            }
            if (keeps) kept[c] = before;
        }
        y.active[image * P + p] = moved;
    }
}

// Sums the changes up to each step and multiplies by the scale of the channel.
template <class Value>
static void sums_of_image(Session& session, int64_t k, int64_t image, int64_t T, bool fresh, bool keeps) {
    const Op& op = session.plan.ops[k];
    const Window& w = op.windows[0];
    const Change& x = session.changes[w.slot];
    const int64_t P = op.P(), C = op.C, steps = x.silent ? 0 : x.steps;
    for (int64_t p = 0; p < P; p++) {
        float* const kept = session.states[k].v + (image * P + p) * C;
        float* const to = (float*)session.slots[k] + (image * T * P + p) * C;
        for (int64_t c = 0; c < C; c++) {
            float sum = fresh ? 0.0f : kept[c];
            for (int64_t t = 0; t < T; t++) {
                if (t < steps) sum += value_of(frame_of<Value>(session, w, image, t)[p * C + c]);
                to[t * P * C + c] = sum * op.scale[c];
            }
            if (keeps) kept[c] = sum;
        }
    }
}

// The sums of the pixels under a window for n channels, at most some_channels, from `first` on. Those of values are in double,
// so that an average is rounded once, whatever the order of the pixels; those of codes are exact.
template <class Sum, class Value>
static void sum_under(const Op& op, const Window& w, const Under& under, const Value* x, const uint8_t* active, int64_t n,
                      Sum* sum) {
    for (int64_t y = under.y0; y < under.y1; y++)
        for (int64_t p = y * w.W + under.x0; p < y * w.W + under.x1; p++) {
            if (!active[p]) continue;
            if constexpr (std::is_same_v<Value, float>)
                for (int64_t c = 0; c < n; c++) sum[c] += (Sum)x[p * op.C + c];
            else
                for (int64_t c = 0; c < n; c += Vec::width)
                    store(sum + c, load(sum + c) + load_values(x + p * op.C + c, n - c));
        }
}

template <class Value>
static void average_frame(const Session& session, const Op& op, int64_t image, int64_t t, float* to) {
    const Window& w = op.windows[0];
    const Value* const x = frame_of<Value>(session, w, image, t);
    const uint8_t* const active = session.changes[w.slot].active + image * w.H * w.W;
    for (int64_t pixel = 0; pixel < op.P(); pixel++, to += op.C) {
        const Under under = window_of(op, w, pixel);
        for (int64_t first = 0; first < op.C; first += some_channels) {
            const int64_t n = least(some_channels, op.C - first);
            std::conditional_t<std::is_same_v<Value, float>, double, float> sum[some_channels] = {};
            sum_under(op, w, under, x + first, active, n, sum);
            divide(op, w, pixel, under, sum, n);
            for (int64_t c = 0; c < n; c++) to[first + c] = (float)sum[c];
        }
    }
}

// Flattens in torch's order: feature c * P + p.
template <class Value>
static void flatten_frame(const Session& session, const Op& op, int64_t image, int64_t t, Value* to) {
    const Window& w = op.windows[0];
    const Value* const x = frame_of<Value>(session, w, image, t);
    const uint8_t* const active = session.changes[w.slot].active + image * w.H * w.W;
    const int64_t P = w.H * w.W;
    memset(to, 0, P * w.C * sizeof(Value));
    for (int64_t p = 0; p < P; p++)
        for (int64_t c = 0; c < w.C && active[p]; c++) to[c * P + p] = x[p * w.C + c];
}

template <class To, class From>
static void unflatten_frame(const Session& session, const Op& op, int64_t image, int64_t t, To* to) {
    const From* const x = frame_of<From>(session, op.windows[0], image, t);
    for (int64_t p = 0; p < op.P(); p++)
        for (int64_t c = 0; c < op.C; c++) *to++ = as<To>(x[c * op.P() + p]);
}

// Copies one input of a move to the output frame, with pixels and channels rearranged.
template <class To, class From>
static void move_window(const Session& session, const Op& op, const Window& w, int64_t image, int64_t t, To* to) {
    const From* const x = frame_of<From>(session, w, image, t);
    for (int64_t p = 0; p < op.P(); p++, to += op.C) {
        const int64_t pixel = op.pixels ? op.pixels[p] : p;
        if (pixel < 0) continue;
        const From* const from = x + pixel * w.C - w.channel;
        if (!op.channels)
            for (int64_t c = w.channel; c < w.channel + w.C; c++) to[c] = as<To>(from[c]);
        else
            for (int64_t c = 0; c < op.C; c++) {
                const int64_t channel = op.channels[c];
                if (channel >= w.channel && channel < w.channel + w.C) to[c] = as<To>(from[channel]);
            }
    }
}

template <class To>
static void move_frame(const Session& session, const Op& op, int64_t image, int64_t t, To* to) {
    memset(to, 0, op.P() * op.C * sizeof(To));
    for (int64_t i = 0; i < op.count; i++) {
        const Window& w = op.windows[i];
        const Change& x = session.changes[w.slot];
        if (x.silent || t >= x.steps) continue;
        if constexpr (std::is_same_v<To, float>)
            if (session.plan.ops[w.slot - 1].real) {
                move_window<To, float>(session, op, w, image, t, to);
                continue;
            }
        move_window<To, int8_t>(session, op, w, image, t, to);
    }
}

// Runs an operation between neurons for one step of one image.
static void run_frame(const Session& session, int64_t k, int64_t image, int64_t t) {
    const Op& op = session.plan.ops[k];
    const bool reads_real = session.plan.ops[op.windows[0].slot - 1].real;
    char* const slot = session.slots[k] + (image * session.changes[k + 1].steps + t) * slot_bytes(op);
    float* const values = (float*)slot;
    int8_t* const codes = (int8_t*)slot;
    switch (op.kind) {
        case engine::AveragePool:
            return (reads_real ? average_frame<float> : average_frame<int8_t>)(session, op, image, t, values);
        case engine::Flatten:
            return reads_real ? flatten_frame(session, op, image, t, values) : flatten_frame(session, op, image, t, codes);
        case engine::Unflatten:
            if (!op.real) return unflatten_frame<int8_t, int8_t>(session, op, image, t, codes);
            return (reads_real ? unflatten_frame<float, float> : unflatten_frame<float, int8_t>)(session, op, image, t, values);
        default: return op.real ? move_frame(session, op, image, t, values) : move_frame(session, op, image, t, codes);
    }
}

// Marks the output pixels at which an operation between neurons may have changes.
static void find_active(const Session& session, const Op& op, int64_t image, uint8_t* active) {
    memset(active, 0, op.P());
    for (int64_t i = 0; i < op.count; i++) {
        const Window& w = op.windows[i];
        const Change& x = session.changes[w.slot];
        if (x.silent) continue;
        const uint8_t* const from = x.active + image * w.H * w.W;
        if (op.kind == engine::Move) {
            for (int64_t p = 0; p < op.P(); p++) {
                const int64_t pixel = op.pixels ? op.pixels[p] : p;
                if (pixel >= 0) active[p] |= from[pixel];
            }
        } else if (memchr(from, 1, w.H * w.W)) memset(active, 1, op.P());
    }
}

static void run_moves(Session& session, int64_t k, int64_t N) {
    const Op& op = session.plan.ops[k];
    Change& y = session.changes[k + 1];
    y.steps = 0, y.silent = true;
    for (int64_t i = 0; i < op.count; i++) {
        const Change& x = session.changes[op.windows[i].slot];
        y.steps = most(y.steps, x.steps), y.silent &= x.silent;
    }
    y.count = 0;
    if (y.silent) return;
    for (int64_t image = 0; image < N; image++) find_active(session, op, image, y.active + image * op.P());
    struct Context {
        const Session& session;
        int64_t k, steps;
    } context{session, k, y.steps};
    share(session, N * y.steps, &context, [](void* given, int64_t task, int64_t) {
        const Context& c = *(const Context*)given;
        run_frame(c.session, c.k, task / c.steps, task % c.steps);
    });
    count_active(y, N * op.P());
}

static void run_ends(Session& session, int64_t k, int64_t N, int64_t T, bool fresh, bool goes_on) {
    const Op& op = session.plan.ops[k];
    struct Context {
        Session& session;
        int64_t k, T, rows;
        bool fresh, keeps;
    } context{session, k, T, op.H, fresh, goes_on || !fresh};
    if (op.kind == engine::Sum)
        return share(session, N, &context, [](void* given, int64_t image, int64_t) {
            const Context& c = *(const Context*)given;
            const int64_t slot = c.session.plan.ops[c.k].windows[0].slot;
            const auto sums = c.session.plan.ops[slot - 1].real ? sums_of_image<float> : sums_of_image<int8_t>;
            sums(c.session, c.k, image, c.T, c.fresh, c.keeps);
        });
    Change& y = session.changes[k + 1];
    y.steps = session.views[0].held() ? 1 : T;
    share(session, N * op.H, &context, [](void* given, int64_t row, int64_t) {
        const Context& c = *(const Context*)given;
        changes_of_row(c.session, c.k, row / c.rows, row % c.rows, c.fresh, c.keeps);
    });
    count_active(y, N * op.P());
}

void run_sigma_delta(Session& session, int64_t k, int64_t N, int64_t T, bool fresh, bool goes_on) {
    const int64_t kind = session.plan.ops[k].kind;
    if (session.plan.input.is_layer) run_layer(session);
    else if (kind == engine::Send || kind == engine::SendMaxima) run_send(session, k, N, T, fresh, goes_on);
    else if (kind == engine::Changes || kind == engine::Sum) run_ends(session, k, N, T, fresh, goes_on);
    else if (kind == engine::Function || kind == engine::Multiply) run_of_sums(session, k, N, fresh, goes_on);
    else run_moves(session, k, N);
}

}  // namespace PK_TARGET
