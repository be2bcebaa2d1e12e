// The C interface of the CPU kernels: what abi.py calls through ctypes. headers.py reads the structs as they stand here.
//
// Spikes are packed over channels: uint8 [N, T, P, ceil(C / 8)], bit c % 8 of byte c / 8 is channel c, P = H * W pixels.
// Bits at or above C are zero. States of neurons, the potentials first, are float [N, states, P, C].
#pragma once
#include <cstdint>

// What a step of a layer's neurons needs, besides states and currents: the parameters of its model, whose struct in neurons.h
// says which. Values of channels are padded to whole blocks of 32 channels, thresholds with +infinity, so that the padding
// never fires.
struct Neuron {
    const float* channels;  // [parameters of a channel, stride], thresholds first
    int64_t stride;         // ceil(C / 32) * 32
    int64_t model;          // models.h
    float scalars[4];
};

struct Neurons {
    Neuron neuron;
    const float* start;  // the states before the first step: floats from one image, state and pixel to the next are below
    float* v;            // [N, states, P, C], those after the last step, written
    uint8_t* spikes;     // [N, T, P, ceil(C / 8)], written
    int64_t start_image, start_state, start_pixel;
    int64_t T, N, P, C;
};

struct Scan {
    Neurons neurons;
    const float* current;  // [T, N, P, C]
    int64_t time_stride;   // floats from one step to the next; 0 for a constant current
};

// What stands for the derivative of a spike by the potential.
struct Surrogate {
    int64_t shape;         // surrogate_names.h
    float numbers[2];      // of the shape: its struct in surrogates.h says which
    int64_t detach_reset;  // whether gradients do not pass through the reset
};

struct ScanBackward {
    Neuron neuron;
    Surrogate surrogate;
    const float* v;            // [N, states, P, C], before the first step
    const float* current;      // [T, N, P, C]
    int64_t time_stride;       // floats from one step to the next; 0 for a constant current
    const float* grad_spikes;  // [T, N, P, C]
    const float* grad_v_last;  // [N, states, P, C], of the states after the last step; null: zero
    float* grad_current;       // [T, N, P, C], written; of a constant current [N, P, C]. May be `current` itself
    float* grad_v;             // [N, states, P, C], written
    double* grad_parameters;   // [5][C], written: of a bias, and of the parameters of a channel
    int64_t T, N, P, C;
};

// Recurrent neurons: `v` and `start` have one state more, the spikes of the step before, and P is 1. Rows of weights are filled
// up to `stride` floats, whole blocks of 32 channels.
struct Recurrent {
    Scan scan;
    const float* weight;  // [C][stride], of which row j has the weights of what neuron j sends; or [stride], one a neuron
    int64_t stride;
    int64_t full;         // whether there is a row for each neuron
};

struct RecurrentBackward {
    ScanBackward scan;    // of which `current` is not `grad_current`, and the latter [T, N, 1, C] of a constant current too
    const float* weight;  // as of Recurrent
    const float* back;    // [C][stride], of which row i has the weights of what neuron i receives; or as `weight`
    int64_t stride;
    int64_t full;
};

struct Conv2d {
    Neurons neurons;       // P = H_out * W_out, C = C_out
    const uint8_t* x;      // [N, T, H * W, ceil(C_in / 8)]
    const void* weight;    // packed for the kernel that takes it
    const float* bias;     // [ceil(C_out / 32) * 32]
    // What a weight of 1 stands for, [ceil(C_out / 32) * 32]: of tile_conv2d, and of short and byte rows.
    const float* unit;
    // [T, N, P, C], written by the event, the period and the lookup kernel; null: not wanted.
    float* currents;
    // [N, T, P, ceil(C_out / 8)], spikes that add 1, each to its own neuron's current, after all that is summed up before;
    // null: none. All kernels of spikes take them but depthwise_conv2d.
    const uint8_t* shortcut;
    int64_t digits;        // tile_conv2d's: of a weight
    int64_t row_channels;  // output channels of a row of weights: conv2d/weight_rows.h
    int64_t slice_rows;    // of a slice of rows, at most: conv2d/slices.h
    int64_t negated;       // whether a slice holds each row's negation as well: event_conv2d's, conv2d/steady_inputs.h
    int64_t groups;        // of channels: lookup_conv2d's; the others take one
    int64_t C_in, H, W, W_out;
    int64_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;
    int64_t x_image;       // bytes from one image of x to the next; 0: those of T steps
};

struct Product {
    Neurons neurons;
    const float* x;       // [T, N, P, C_in]
    const float* weight;  // [ceil(C / 32)][C_in][32]
    const float* bias;    // [ceil(C / 32) * 32]
    int64_t C_in;
};

// Sigma-delta neurons, and what arrives at them: sigma_delta/codes.h has the codes of their spikes. And max pooling, of x with
// C channels, which keeps in z the sums of each input [N, H * W, C]. It writes what the maxima change by to `arrived`, of T_in =
// T steps, and keeps the maxima in a; or, to `codes`, what neurons behind it send, and keeps that in a.
struct SigmaDelta {
    const void* x;        // [N, T_in, H * W, C_in]: codes int8, or float values if `real`; null: `added` is all that arrives
    const float* weight;  // sigma_delta/row_weights.h; of a depthwise convolution [tap][ceil(C / 32) * 32]
    const float* bias;    // [C], at the first step; null: none
    const float* added;   // [N, T, P, C], what arrives besides; null: nothing
    const float* limit;   // [C], the largest activation
    int8_t* codes;        // [N, T, P, C], written
    float* arrived;       // [N, T, P, C], written in their place, of a layer without neurons; null: codes are
    float* z;             // [N, P, C], what has arrived before, replaced by that after the steps; null: 0, and not kept
    float* a;             // [N, P, C], what has been sent, the same
    int64_t* counts;      // [2], added to: spikes, and weights that were added to a sum
    float lowest;         // activation: 0, or -infinity
    int64_t exponents;    // at most 12
    int64_t real;
    int64_t N, T, T_in, P, C, C_in, H, W, W_out;
    int64_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;
    int64_t groups;  // of channels; a depthwise convolution and a max pooling have one
};

// Weights to be rounded to whole multiples of a unit: rounding.h.
struct Rounding {
    const float* weight;  // [C, inputs]
    const float* bias;    // [C]; null: none
    float* rounded;       // [C, inputs], written, like the next two
    float* rounded_bias;  // [C]
    float* unit;          // [C]
    int64_t C, inputs;
    double largest, room, half_room;  // of weights and of sums, in units; half_room 0: no bound
};

struct WeightGradient {
    Conv2d conv;                // its neurons, weights and bias are not looked at
    const float* grad_current;  // [T, N, P, C_out]
    float* grad_weight;         // [ceil(C_out / 16)][C_in][tap][16], written
};

struct Periods {
    const float* current;  // [M, C], constant
    Neuron neuron;         // of one state, and reset to the potential that it starts from
    float* v;              // [M, C], updated in place
    uint16_t* periods;     // [M, C], written: 0 for a neuron that does not fire in T steps
    int64_t M, C, T;
};

struct PeriodConv2d {
    Conv2d conv;              // its x is not looked at
    const uint16_t* periods;  // [N, H * W, C_in]
    int64_t start, longest;   // steps that went before; the longest period to look at: the others do not fire yet
};

// Spikes, and, written, how many there are for each input and step, as some pixels tell.
struct Sample {
    const uint8_t* spikes;
    int64_t N, T, P, C;
    int64_t image, step, pixel;  // bytes from one to the next
    double rate;
    // Rows that the event kernel adds: an input counts once for a step at which it fires, and once for a whole span in which it
    // fires throughout; with negated rows, once for a span in which it fires at most steps, and for each at which it does not.
    double rows, negated_rows;
};

struct Pool2d {
    const uint8_t* x;  // [M, H, W, bytes]
    uint8_t* y;        // [M, H_out, W_out, bytes], written
    int64_t M, H, W, bytes, H_out, W_out;
    int64_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w;
};

struct MaxRatePool {
    Pool2d pool;    // of M samples with T steps each: x [M, T, H * W, bytes], y [M, T, H_out * W_out, bytes]
    float* counts;  // [M, H * W, C], spikes of each input so far; updated in place
    int64_t T, C;
};

struct PoolBackward {
    Pool2d pool;         // its y is not looked at
    const float* grad_y;  // [M, H_out, W_out, C]
    float* grad_x;        // [M, H, W, C], written
    int64_t T, N, C;      // images of gradients are of steps first, those of spikes of samples first: M = T * N
};

// Spikes as 0 and 1 of any type, dense [T, N, C, H, W], and packed.
struct DenseSpikes {
    void* dense;
    uint8_t* spikes;           // [N, T, H * W, ceil(C / 8)]
    int64_t size, is_float;    // of a value, in bytes; whether a zero may have a sign
    uint64_t one;              // the bits of 1
    int64_t T, N, C, H, W;
    int64_t step, image, channel, row, pixel;  // values from one to the next
};

// Integers that lie in memory with gaps.
struct Column {
    const uint8_t* values;
    int64_t stride, size, is_signed;  // bytes from one to the next; of one
};

// Events of a camera.
struct Events {
    Column t, x, y, p;  // time, column, row, and polarity: above 0 ON
    int64_t n;
    int64_t first;                   // the time at which step 0 begins; no other is 2^63 from it
    int64_t numerator, denominator;  // an event is of the step floor((t - first) * numerator / denominator); 0, 1: of step 0
    int64_t T, H, W;
    uint8_t* spikes;  // [T, H * W]: bit 0 is OFF, bit 1 ON
};

// The table of functions of an instruction set.
struct Kernels {
#define KERNEL(result, name, ...) result (*name)(__VA_ARGS__);
#include "kernels.h"
#undef KERNEL
};
