// The C interface of the CPU kernels: what abi.py calls through ctypes. headers.py reads the structs as they stand here.
//
// Spikes are packed over channels: uint8 [N, T, P, ceil(C / 8)], bit c % 8 of byte c / 8 is channel c, P = H * W pixels.
// Bits at or above C are zero. States of neurons, the potentials first, are float [N, states, P, C].
#pragma once
#include <cstdint>

// The parameters of a layer's neurons; the model's struct in neurons.h says which it has. Values of channels are padded to
// whole blocks of 32 channels, thresholds with +infinity, so that the padding never fires.
struct Neuron {
    const float* channels;  // [parameters of a channel, stride], thresholds first
    int64_t stride;         // ceil(C / 32) * 32
    int64_t model;          // models.h
    float scalars[4];
};

struct Neurons {
    Neuron neuron;
    const float* start;  // the states before the first step
    float* v;            // [N, states, P, C], written: the states after the last step
    uint8_t* spikes;     // [N, T, P, ceil(C / 8)], written
    int64_t start_image, start_state, start_pixel;  // of `start`: floats from one image, state and pixel to the next
    int64_t T, N, P, C;
    float* currents;  // [T, N, P, C], of neurons behind weights, written; null: not wanted
};

struct Scan {
    Neurons neurons;
    const float* current;  // [T, N, P, C]
    int64_t time_stride;   // floats from one step to the next; 0 for a constant current
    float* counts;  // [T, N, P, C], written instead of spikes by neurons that fire several times in a step; null for others
};

// What replaces the derivative of a spike with respect to the potential.
struct Surrogate {
    int64_t shape;         // table.h
    float numbers[2];      // the parameters of the shape; its struct in scan_backward.h says which
    int64_t detach_reset;  // 1: gradients do not pass through the reset
};

struct ScanBackward {
    Neuron neuron;
    Surrogate surrogate;
    const float* v;            // [N, states, P, C], the states before the first step
    const float* current;      // [T, N, P, C]
    int64_t time_stride;       // floats from one step to the next; 0 for a constant current
    const float* grad_spikes;  // [T, N, P, C]
    const float* grad_v_last;  // [N, states, P, C], gradient of the states after the last step; null: zero
    float* grad_current;       // [T, N, P, C], written; [N, P, C] if the current is constant. May be `current` itself
    float* grad_v;             // [N, states, P, C], written: gradient of the states before the first step
    double* grad_parameters;   // [5][C], written: gradients of a bias, and of the parameters of a channel
    int64_t T, N, P, C;
};

// Recurrent neurons: `v` has one more state, the spikes of the step before, and P is 1. Rows of weights are padded to `stride`
// floats, a multiple of 32.
struct RecurrentBackward {
    ScanBackward scan;  // `current` must not be `grad_current`, which is [T, N, 1, C] for a constant current too
    const float* weight;  // [C][stride]: row j holds the weights from neuron j to all neurons; or [stride]: a weight a neuron
    const float* back;  // [C][stride]: row i holds the weights from all neurons to neuron i; or the same as `weight`
    int64_t stride;
    int64_t full;
};

struct Conv2d {
    Neurons neurons;  // P = H_out * W_out, C = C_out
    const uint8_t* x;  // [N, T, H * W, ceil(C_in / 8)]
    const void* weight;  // packed for the kernel that takes it
    const float* bias;  // [ceil(C_out / 32) * 32]
    // [ceil(C_out / 32) * 32]: the value of an integer weight of 1; for tile_conv2d, and for short and byte rows.
    const float* unit;
    // [N, T, P, ceil(C_out / 8)]: each spike adds 1 to the current of its own neuron, after all other sums; null: none. All
    // spike kernels except depthwise_conv2d take it.
    const uint8_t* shortcut;
    int64_t digits;  // for tile_conv2d: digits of a weight
    int64_t row_channels;  // output channels of a row of weights: conv2d/weight_rows.h
    int64_t slice_rows;  // the most rows of a slice: conv2d/slices.h
    int64_t negated;  // for event_conv2d: 1 if slices also hold the negation of each row (conv2d/input_lists.h)
    int64_t groups;  // groups of channels, for lookup_conv2d; 1 for the others
    int64_t C_in, H, W, W_out;
    int64_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;
    int64_t x_image;  // bytes from one image of x to the next; 0: T steps, without a gap
};

// A layer of sigma-delta neurons with its synapses; sigma_delta/codes.h defines the codes of their spikes. The same struct
// describes max pooling of x with C channels: z then holds the sums of each input [N, H * W, C]. Without neurons it writes the
// change of each maximum to `arrived`, with T_in = T steps, and keeps the maxima in a. With neurons behind it, it writes what
// they send to `codes`, and keeps the sum of that in a.
struct SigmaDelta {
    const void* x;  // [N, T_in, H * W, C_in]: int8 codes, or float values if `real`; null: only `added` arrives
    const float* weight;  // sigma_delta/call.h; for a depthwise convolution [tap][ceil(C / 32) * 32]
    const float* bias;  // [C], added at the first step; null: none
    const float* added;  // [N, T, P, C], further input to z; null: none
    const float* limit;  // [C], the largest activation
    int8_t* codes;  // [N, T, P, C], written
    float* arrived;  // [N, T, P, C], written instead of codes by graded neurons, and by a layer without neurons; or null
    float* z;  // [N, P, C], the sum of all input so far, updated in place; null: starts at 0 and is not kept
    float* a;  // [N, P, C], the sum of all that was sent so far, likewise
    float added_scale;  // `added` arrives times it
    float lowest;  // the lowest activation: 0, or -infinity
    float threshold;  // of graded neurons, the least value that they send; infinity: there are none
    float unit;  // of graded neurons of 8 bits, a power of two: what they send are multiples of it; infinity: any values
    int64_t exponents;  // at most 12
    int64_t real;  // 1: x holds float values
    int64_t N, T, T_in, P, C, C_in, H, W, W_out;
    int64_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;
    int64_t groups;  // groups of channels; 1 for depthwise convolution and max pooling
};

// Weights to be rounded to integer multiples of a unit: spikes.cpp.
struct Rounding {
    const float* weight;  // [C, inputs]
    const float* bias;  // [C]; null: none
    float* rounded;  // [C, inputs], written
    float* rounded_bias;  // [C], written
    float* unit;  // [C], written
    int64_t C, inputs;
    // Bounds in units: of a weight, of the sum of absolute values, and of the sums of either sign (0: no bound).
    double largest, room, half_room;
};

struct WeightGradient {
    Conv2d conv;  // its neurons, weights and bias are not used
    const float* grad_current;  // [T, N, P, C_out]
    float* grad_weight;  // [ceil(C_out / 16)][C_in][tap][16], written
};

struct Periods {
    const float* current;  // [M, C], constant
    Neuron neuron;  // has one state, and is reset to the potential from which it starts
    float* v;  // [M, C], updated in place
    uint16_t* periods;  // [M, C], written: 0 for a neuron that does not fire in T steps
    int64_t M, C, T;
};

// Spikes, and estimates (written) of how many fire per input and step, from a sample of pixels.
struct Sample {
    const uint8_t* spikes;
    int64_t N, T, P, C;
    int64_t image, step, pixel;  // bytes from one to the next
    double rate;  // written: spikes per input and step
    // Written: the rows that the event kernel adds per input and step, without and with negated rows. A steady input counts
    // once for a span and, with negated rows, once for each step at which it is silent (conv2d/input_lists.h); other inputs
    // count once for each spike.
    double rows, negated_rows;
};

struct Pool2d {
    const uint8_t* x;  // [M, H, W, bytes]
    uint8_t* y;  // [M, H_out, W_out, bytes], written
    int64_t M, H, W, bytes, H_out, W_out;
    int64_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w;
};

struct MaxRatePool {
    Pool2d pool;  // M samples of T steps each: x [M, T, H * W, bytes], y [M, T, H_out * W_out, bytes]
    float* counts;  // [M, H * W, C], the number of spikes of each input so far; updated in place
    int64_t T, C;
};

struct PoolBackward {
    Pool2d pool;  // its y is not used
    const float* grad_y;  // [M, H_out, W_out, C]
    float* grad_x;  // [M, H, W, C], written
    int64_t T, N, C;  // M = T * N; gradients are ordered [T, N], spikes [N, T]
};

// Spikes as dense values 0 and 1 of any type, [T, N, C, H, W], and packed.
struct DenseSpikes {
    void* dense;
    uint8_t* spikes;  // [N, T, H * W, ceil(C / 8)]
    int64_t size, is_float;  // bytes of a dense value; 1: floats, whose zero may have a sign
    uint64_t one;  // the bits of a dense 1
    int64_t T, N, C, H, W;
    int64_t step, image, channel, row, pixel;  // strides of `dense`, in values
};

// Integers that lie in memory with gaps.
struct Column {
    const uint8_t* values;
    int64_t stride, size, is_signed;  // bytes from one value to the next; bytes of a value
};

// Events of a camera.
struct Events {
    Column t, x, y, p;  // time, column, row, and polarity: ON if above 0
    int64_t n;
    int64_t first;  // the time at which step 0 begins; all times are within 2^63 of it
    int64_t numerator, denominator;  // an event belongs to step floor((t - first) * numerator / denominator); 0, 1: to step 0
    int64_t T, H, W;
    uint8_t* spikes;  // [T, H * W]: bit 0 is OFF, bit 1 ON
};

// The functions of one instruction set.
struct Kernels {
#define KERNEL(result, name, ...) result (*name)(__VA_ARGS__);
#include "kernels.h"
#undef KERNEL
};
