// A call of a kernel of sigma-delta neurons, cut into tasks: for all output pixels, or for those of a list. The caller shares the
// tasks out, and brings the memory that each of its threads works on. rows.cpp, depthwise.cpp, dense.cpp and maximum.cpp have the
// tasks.
#pragma once
#include "../simd.h"
#include "../work.h"

namespace PK_TARGET {

constexpr int row_pass = Vec::width == 16 ? 64 : 32;  // channels whose sums have registers at a time
constexpr int64_t place_group = 16;  // pixels of a task

// Spikes of all steps, and of the last one.
struct Fired {
    int64_t all = 0, last = 0;
};

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

// Channels from one on, to the end of its group.
static inline int64_t channels_left(const SigmaDelta& s, int64_t channel) {
    return s.groups == 1 ? s.C - channel : s.C / s.groups - channel % (s.C / s.groups);
}

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

static inline int64_t place_tasks(const SigmaDeltaCall& call) {
    return ceil_div(call.count, place_group) * Passes(call.s).count;
}

// What spikes bring to the neurons behind a convolution; the same of output channels that each see their own input channel.
void rows_task(const SigmaDeltaCall& call, int64_t task, SigmaDeltaTaps& taps, Counted& counted);
void depthwise_task(const SigmaDeltaCall& call, int64_t task, SigmaDeltaTaps& taps, Counted& counted);

constexpr int64_t dense_rows = 24;  // pixels of a task, and windows that are multiplied at a time
constexpr int64_t dense_depth = 1024;  // values of a window that are multiplied at a time

// What a thread works on.
struct DenseScratch {
    static constexpr int64_t stride = dense_depth + 64 + Vec::width;  // 64 more fit, and a vector is stored whole
    float *values, *sums;  // [dense_rows][stride]; [place, step][channels]
    DenseScratch(const SigmaDelta& s, Carver& carver)
        : values(carver.take<float>(dense_rows * stride)), sums(carver.take<float>((s.T_in + 1) * dense_rows * row_pass)) {}
};

static inline int64_t dense_tasks(const SigmaDeltaCall& call) {
    return ceil_div(call.count, dense_rows) * Passes(call.s).count;
}

// As rows_task, of one group, by a product of matrices.
void dense_task(const SigmaDeltaCall& call, int64_t task, DenseScratch& scratch, Counted& counted);

// The share of inputs that are not silent, from which on products of matrices take less time; and that share, of a part of them.
double dense_rate(const SigmaDeltaCall& call);
double rate_of(const SigmaDelta& s);

// What a thread works on.
struct MaximumScratch {
    SigmaDeltaTaps taps;
    float* sums;  // [taps][row_pass]
    MaximumScratch(const SigmaDelta& s, Carver& carver)
        : taps(s, carver), sums(carver.take<float>(s.kernel_h * s.kernel_w * row_pass)) {}
};

// Max pooling. What has been sent is added up when all tasks are done: of the inputs from `first` to `last`, numbers of image *
// H * W + pixel.
void maximum_task(const SigmaDeltaCall& call, int64_t task, MaximumScratch& scratch, Counted& counted);
void add_up_sent(const SigmaDelta& s, int64_t first, int64_t last);

}  // namespace PK_TARGET
