// Layers whose currents matrix tiles compute and write, some images at a time; the neurons then read them as they read an input
// without weights (fire.cpp). So tiles serve neurons of any kind, inputs that are sums of spikes, and a pooling of the currents.
#pragma once
#include <algorithm>

#include "tasks.h"

namespace PK_TARGET {

constexpr int64_t most_tile_number = 127;  // a byte holds it

// An operation whose window with weights reads finished currents instead.
struct Behind {
    Window windows[most_windows];
    Op op;

    explicit Behind(const Op& from) : op(from) {
        std::copy(from.windows, from.windows + from.count, windows);
        Window& w = windows[op.weighted] = Window{};
        w.C = op.C, w.H = op.H, w.W = op.W;
        op.windows = windows, op.rows = 0;
    }
    Behind(const Behind&) = delete;
};

// Whether tiles can compute the currents of an operation for as many steps, if its input fits.
static bool has_tile_currents(const Op& op, int64_t steps) {
    constexpr int64_t least_uses = 64, most_steps = 8;  // as for pixel tiles (ways.h)
    return op.tiles && !op.is_layer && !op.exact && steps <= most_steps && op.P() > 1 && op.P() * steps >= least_uses;
}

// The number of images whose currents are computed at a time, so that they stay in a cache.
static int64_t images_at_a_time(const Op& op, int64_t N, int64_t steps) {
    constexpr int64_t near_bytes = PK_IS_CHECKED ? 1 << 14 : 1 << 22;
    return most(1, least(N, near_bytes / (op.P() * op.C * steps * (int64_t)sizeof(float))));
}

}  // namespace PK_TARGET
