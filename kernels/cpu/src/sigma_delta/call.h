// A call of a kernel of sigma-delta neurons, cut into tasks: for all output pixels, or for those of a list. The caller shares the
// tasks out, and brings the memory that each of its threads works on.
#pragma once
#include "neurons.h"

namespace PK_TARGET {

constexpr int row_pass = Vec::width == 16 ? 64 : 32;  // channels whose sums have registers at a time
constexpr int64_t place_group = 16;  // pixels of a task

// What a task adds to what its caller counts: spikes, and weights that were added to a sum.
struct Counted {
    int64_t spikes = 0, additions = 0;
};

struct SigmaDeltaCall {
    const SigmaDelta& s;
    const int64_t* places = nullptr;  // numbers of image * P + pixel, ascending; null: all
    int64_t count;  // of them
    uint8_t *sent = nullptr, *last = nullptr;  // [N, P], or null: a 1 is written where something is sent, or at the last step

    explicit SigmaDeltaCall(const SigmaDelta& s) : s(s), count(s.N * s.P) {}
    int64_t place(int64_t i) const { return places ? places[i] : i; }
    // What some channels of a place have sent. Several threads may have a place.
    void note(int64_t place, const Fired& fired) const {
        if (sent && (fired.all || s.arrived)) __atomic_store_n(sent + place, 1, __ATOMIC_RELAXED);
        if (last && fired.last) __atomic_store_n(last + place, 1, __ATOMIC_RELAXED);
    }
};

// Channels of the passes of a call, each of one group.
struct Passes {
    int64_t of_group, count;
    explicit Passes(const SigmaDelta& s) : of_group(ceil_div(s.C / s.groups, row_pass)), count(of_group * s.groups) {}
    int64_t channel(const SigmaDelta& s, int64_t pass) const {
        return pass / of_group * (s.C / s.groups) + pass % of_group * row_pass;
    }
};

// The taps of a window that lie inside the image: where their values, from `first` on, and their weights are.
struct SigmaDeltaTaps {
    int64_t *x, *weight;
    int64_t first = 0, count = 0, inside = -1;  // whose weights the taps of a whole window are, if these are kept
    SigmaDeltaTaps(const SigmaDelta& s, Carver& carver)
        : x(carver.take<int64_t>(s.kernel_h * s.kernel_w)), weight(carver.take<int64_t>(s.kernel_h * s.kernel_w)) {}
    void find(const SigmaDelta& s, int64_t row, int64_t column, int64_t tap_weights) {
        const int64_t top = row * s.stride_h - s.padding_h, left = column * s.stride_w - s.padding_w;
        const bool whole = top >= 0 && top + (s.kernel_h - 1) * s.dilation_h < s.H && left >= 0 &&
                           left + (s.kernel_w - 1) * s.dilation_w < s.W;
        first = (top * s.W + left) * s.C_in;
        if (whole && inside == tap_weights) return;
        inside = whole ? tap_weights : -1;
        count = 0;
        for (int64_t ky = 0, y = 0; ky < s.kernel_h; ky++, y += s.dilation_h) {
            if (top + y < 0 || top + y >= s.H) continue;
            for (int64_t kx = 0, x_ = 0; kx < s.kernel_w; kx++, x_ += s.dilation_w) {
                if (left + x_ < 0 || left + x_ >= s.W) continue;
                x[count] = (y * s.W + x_) * s.C_in;
                weight[count++] = (ky * s.kernel_w + kx) * tap_weights;
            }
        }
        PK_ASSERT(count <= s.kernel_h * s.kernel_w);
    }
};

// Calls work(channels) with the vectors of a pass's channels as an integral constant.
template <class Work>
static inline void with_channels(const SigmaDelta& s, int64_t channel, Work work) {
    const int64_t vecs = ceil_div(least(channels_left(s, channel), row_pass), Vec::width);
    each<row_pass / Vec::width>([&](auto before) {
        if (vecs == before + 1) work(std::integral_constant<int, (before + 1) * Vec::width>());
    });
}

static int64_t place_tasks(const SigmaDeltaCall& call) { return ceil_div(call.count, place_group) * Passes(call.s).count; }

// Calls fire(channels, image, pixel, channel, taps) for each pixel of a task and some of its channels, `channels` an integral
// constant; it returns the weights added and what was fired. tap_weights(channel): from one tap to the next.
template <class TapWeights, class Fire>
static void each_place(const SigmaDeltaCall& call, int64_t task, SigmaDeltaTaps& taps, Counted& counted, TapWeights tap_weights,
                       Fire fire) {
    const SigmaDelta& s = call.s;
    const int64_t groups = ceil_div(call.count, place_group), begin = task % groups * place_group;
    const int64_t channel = Passes(s).channel(s, task / groups), weights = tap_weights(channel);
    with_channels(s, channel, [&](auto channels) {
        int64_t image = 0, row = 0, column = -1, before = -2;
        for (int64_t i = begin; i < least(begin + place_group, call.count); i++) {
            const int64_t place = call.place(i);
            if (place == before + 1 && column + 1 < s.W_out) column++;
            else image = place / s.P, row = place % s.P / s.W_out, column = place % s.P % s.W_out;
            before = place;
            taps.find(s, row, column, weights);
            const auto [added, fired] = fire(channels, image, row * s.W_out + column, channel, taps);
            call.note(place, fired);
            counted.additions += added, counted.spikes += fired.all;
        }
    });
}

}  // namespace PK_TARGET
