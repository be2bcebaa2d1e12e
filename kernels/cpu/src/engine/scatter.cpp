// Runs operations from lists of spikes: scattered layers, and the pooling and flattening between them.
#include "operations.h"
#include "pools.h"
#include "scatter.h"

namespace PK_TARGET {

// The largest number of input spikes for which a layer is scattered. `worth` is the measured cost of the other ways, in
// register additions per output pixel and step.
static int64_t most_scattered(const Op& op, int64_t N, int64_t steps) {
    constexpr double entry = 4,
                     visit = 2;  // cost of a spike, and of each output that it reaches, in addition to its row of weights
    constexpr double addition = 7, around = 40;  // cycles of an addition, and of pixel tiles outside their products
    const double outputs = (double)(op.P() * steps);
    double worth = (has_kernel(op, N, steps) ? 12 : 64) / (op.exact ? 2.0 : 1.0);  // integer rows are faster
    worth = fmin(worth, (pixel_tile_cycles(op, N, steps) / outputs + around) / addition);
    const double taken = entry + op.reach->outputs * (visit + (double)op.vecs_of(0));
    const Window& w = op.windows[0];
    const int64_t quarter = N * (w.H * w.W * w.C * least(steps, 4) / 4 + 64 * steps);  // a quarter of up to four steps' inputs
    return least((int64_t)(worth * (double)N * outputs / taken), quarter);
}

// Whether layer k is scattered; if so, lists its input.
static bool is_scattered(Session& session, int64_t k, int64_t N, int64_t steps) {
    const Op& op = session.plan.ops[k];
    if (!op.reach) return false;
    const View& x = session.views[op.windows[0].slot];
    return x.spikes && !x.held() && list_slot(session, op.windows[0].slot, most_scattered(op, N, steps));
}

static bool is_listed_between(const Session& session, const Op& op) {
    if (!session.lists[op.windows[0].slot].is_listed) return false;
    return op.kind == engine::Flatten || (op.kind == engine::MaxPool && !op.adaptive);
}

// The maximum of spikes is their OR: an output fires once, however many spikes reach it.
static void pool_list(Session& session, int64_t k) {
    const Op& op = session.plan.ops[k];
    const Window& w = op.windows[0];
    FiredList& list = session.lists[k + 1];
    const SlotBits bits = bits_of(session, k + 1);
    const ImageBands whole{op.P(), 1};
    const auto first_over = [](int64_t at, int64_t kernel, int64_t stride) {
        return at < kernel ? 0 : (at - kernel) / stride + 1;
    };
    for (int64_t image = 0; image < list.N; image++) {
        FiredWriter out(list, bits, image, 0, 1, 0, op.P());
        bits.clear(image, 0, op.P());
        for (int64_t t = 0; t < list.steps; t++) {
            out.begin_step(t);
            session.lists[w.slot].each(image, t, [&](int64_t pixel, int64_t channel) {
                const int64_t y = pixel / w.W + w.padding_h, x = pixel % w.W + w.padding_w;
                const int64_t y1 = least(y / w.stride_h + 1, op.H), x1 = least(x / w.stride_w + 1, op.W);
                for (int64_t oy = first_over(y, w.kernel_h, w.stride_h); oy < y1; oy++)
                    for (int64_t ox = first_over(x, w.kernel_w, w.stride_w); ox < x1; ox++) {
                        uint8_t& byte = bits.at(image, t, oy * op.W + ox)[channel / 8];
                        if (byte >> channel % 8 & 1) continue;
                        out.fires(oy * op.W + ox, channel);
                        byte |= (uint8_t)(1 << channel % 8);
                    }
            });
            out.end_step();
        }
        out.finish();
    }
    finish_list(list, bits, whole, false);
    list.has_bits = true;
}

static void flatten_list(Session& session, int64_t k) {
    const FiredList &from = session.lists[session.plan.ops[k].windows[0].slot], &to = session.lists[k + 1];
    const SlotBits bits = bits_of(session, k + 1);
    for (int64_t image = 0; image < to.N; image++) {
        bits.clear(image, 0, 1);
        for (int64_t t = 0; t < to.steps; t++)
            from.each(image, t, [&](int64_t pixel, int64_t channel) { bits.set(image, t, 0, channel * from.P + pixel); });
    }
}

bool run_listed(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh) {
    const Op& op = session.plan.ops[k];
    if (is_scattered(session, k, N, steps)) return run_scattered(session, k, N, steps, fresh), true;
    if (is_listed_between(session, op)) {
        if (op.kind == engine::MaxPool) pool_list(session, k);
        else flatten_list(session, k);
        return true;
    }
    for (int64_t i = 0; i < op.count; i++) make_bits(session, op.windows[i].slot);
    if (op.kind != engine::Fire) return false;
    catch_up(session, k);
    forget(session.states[k]);
    session.states[k].is_looked_at = true;
    return false;
}

}  // namespace PK_TARGET
