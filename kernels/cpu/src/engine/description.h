// A network as it is described: its operations with all that a file says of them, and where their tensors lie, as they lie in a
// file. The reader of plans fills the structs (../../c/read_plan.h), and packed_plan.cpp makes of them what runs. Code of all
// instruction sets reads them: they have no functions.
#pragma once
#include <cmath>

#include "../table.h"

namespace engine {

// Where an operation reads, and by which window. Of neurons: what one of their inputs adds to the currents.
struct Window {
    int64_t slot = 0;
    int64_t kernel_h = 1, kernel_w = 1, stride_h = 1, stride_w = 1, padding_h = 0, padding_w = 0, dilation_h = 1,
            dilation_w = 1;
    int64_t groups = 1;
    int64_t averages = 0;  // of spikes, part of the weight: what a neuron reads, and multiplies where operations are counted
    const float* weight = nullptr;  // [C_out, C_in / groups, kernel_h, kernel_w]; null: the input itself is the current
    const float* bias = nullptr;  // [C_out], of sigma-delta neurons; or null
};

// The neurons of Fire and Recur.
struct Population {
    int64_t model = 0;  // ../models.h
    float scalars[4] = {};
    bool fires = true, rectifies = false;
    float limit = INFINITY;  // of the ReLU that they stand for
    const float* channels = nullptr;  // [parameters of a channel, C], thresholds first
    const float* bias = nullptr;  // [C]
    const float* start = nullptr;  // [states, C]: of a run that starts at rest; of Recur also the spikes before the first step
    const float* scale = nullptr;  // what a spike a step stands for: [C], or one number; null: the network was not converted
    bool scale_by_channel = false;
};

// The neurons of Send and SendMaxima: activations from 0, or from -infinity, to `limit`.
struct Senders {
    int64_t exponents = 1;
    bool rectifies = true;
    const float* limit = nullptr;  // [C]
};

struct Operation {
    int64_t kind = 0;
    int64_t C = 0, H = 0, W = 0;  // of what it gives
    bool real = false;  // whether that is values
    const Window* reads = nullptr;
    int64_t count = 0;  // of what it reads
    bool has_neurons = false, has_senders = false;
    Population neurons{};
    Senders senders{};  // if there are none, what arrives is passed on
    int64_t divisor = 0;  // of an average; 0: the size of the window,
    bool count_padding = true;  // with the pixels of the padding
    bool adaptive = false;  // windows divide the image as evenly as they can; kernel, stride and padding are not looked at
    // Of a Move: which pixel of its inputs each pixel is, [P], and which channel, [C], counted on through all inputs; -1: zeros.
    // Null: as they lie.
    const int64_t *pixels = nullptr, *channels = nullptr;
    // Of Recur, which has no bias: weights [C, C], of which row i has what neuron i receives; or [C], of which each neuron takes
    // its own.
    const float* recurrent = nullptr;
    bool recurrent_full = false;
    const float* scale = nullptr;  // [C], of Sum: what its outputs are multiplied by
    const int64_t* delays = nullptr;  // [C], of a Delay: by how many steps
};

struct Input {
    int64_t C, H, W;
    // Whether the plan is a layer that is called by itself: one operation, of Fire or Recur, whose neurons come with each run. Of
    // Fire's neurons the plan takes the model, the bias and the least thresholds, of Recur's the model. Fire then reads packed
    // spikes only: of slot 0, and of slot 2 a shortcut.
    bool is_layer = false;
    bool is_periodic =
        false;  // of such a layer: all inputs fire periodically from rest, at the steps t where the period divides t + 1
};

struct Description {
    Input input;
    int64_t bits;  // that weights are rounded to; 0: they are as they were
    const Operation* operations;
    int64_t count;
};

// Whether an operation of a kind gives spikes for spikes, and values for values. Not in a network of sigma-delta neurons.
static inline bool passes_on(int64_t kind) {
    return kind == MaxPool || kind == Flatten || kind == Unflatten || kind == Move || kind == Delay;
}

}  // namespace engine
