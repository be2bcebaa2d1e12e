// A network as it is described: its operations with all that a file says of them, and where their tensors lie, as they lie in a
// file. kernels/table.py lists their fields, the reader of plans fills them (../../c/plan.h), and packed_plan.cpp makes of
// them what runs. Code of all instruction sets reads them: they have no functions.
#pragma once
#include "../table.h"

namespace engine {

// Where an operation reads, and by which window. Of neurons: what one of their inputs adds to the currents.
struct Window {
    PK_WINDOW_MEMBERS
};

// The neurons of Fire and Recur.
struct Population {
    int64_t model = 0;  // ../models.h
    float scalars[4] = {};
    PK_NEURONS_MEMBERS
    bool scale_by_channel = false;
};

// The neurons of Send and SendMaxima.
struct Senders {
    PK_SENDERS_MEMBERS
};

struct Operation {
    int64_t kind = 0;
    int64_t C = 0, H = 0, W = 0;  // of what it gives
    const Window* reads = nullptr;
    int64_t count = 0;  // of what it reads
    bool has_neurons = false, has_senders = false;
    Population neurons{};
    Senders senders{};  // if there are none, what arrives is passed on
    PK_OPERATION_MEMBERS
    double parameters[2] = {};  // of Function: alpha of ELU, or beta and threshold of softplus; of others 0
    bool recurrent_full = false;  // whether each neuron receives the spikes of all
};

struct Input {
    int64_t C, H, W;
    // Whether the plan is a layer that is called by itself: one operation, of Fire, Recur, Send or SendMaxima, whose neurons come
    // with each run. Of Fire's neurons the plan takes the model, the bias and the least thresholds, of Recur's the model, of
    // others nothing. Fire then reads either values [T, N, P, C], or packed spikes of slot 0 and, as a shortcut, of slot 2.
    bool is_layer = false;
    // Of such a layer: all inputs fire periodically from rest, at the steps t where the period divides t + 1; and runs have enough
    // samples, pixels and steps for kernels that sum slices, for which alone weights of several pixels are then packed.
    bool is_periodic = false, is_long = false;
    bool is_real = false;  // Fire and Recur: whether the input of such a layer is values
};

struct Description {
    Input input;
    int64_t bits;  // that weights are rounded to; 0: they are as they were
    const Operation* operations;
    int64_t count;
};

}  // namespace engine
