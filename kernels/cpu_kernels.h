// The C interface of the CPU kernels: what cpu.py calls through ctypes. Each struct is mirrored there field by field.
//
// Spikes are packed over channels: uint8 [N, T, P, ceil(C / 8)], bit c % 8 of byte c / 8 is channel c, P = H * W pixels.
// Bits at or above C are zero. Potentials are float [N, P, C]. Thresholds are padded to whole blocks of 32 channels with
// +infinity, so that the padding never fires.
#pragma once
#include <cstdint>

struct Neurons {
    const float* theta;  // [ceil(C / 32) * 32]
    float* v;            // [N, P, C], updated in place
    uint8_t* spikes;     // [N, T, P, ceil(C / 8)], written
    int64_t T, N, P, C;
    int64_t soft_reset;  // 1: subtract theta; 0: set to v_reset
    float v_reset;
};

struct Scan {
    Neurons neurons;
    const float* current;  // [T, N, P, C]
    int64_t time_stride;   // floats from one step to the next; 0 for a current that is held
};

struct ScanBackward {
    const float* theta;        // [C]
    const float* scale;        // [C], of the surrogate derivative
    const float* current;      // [T, N, P, C]
    const float* grad_spikes;  // [T, N, P, C]
    float* grad_current;       // [T, N, P, C], written
    int64_t T, N, P, C;
    int64_t soft_reset;
    float v_reset;
};

struct Conv2d {
    Neurons neurons;       // P = H_out * W_out, C = C_out
    const uint8_t* x;      // [N, T, H * W, ceil(C_in / 8)]
    const float* weight;   // from pack_weight
    const float* bias;     // [ceil(C_out / 32) * 32]
    int64_t C_in, H, W, W_out;
    int64_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;
};

struct Pool2d {
    const uint8_t* x;  // [M, H, W, bytes]
    uint8_t* y;        // [M, H_out, W_out, bytes], written
    int64_t M, H, W, bytes, H_out, W_out;
    int64_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w;
};

struct Kernels {
    void (*if_scan)(const Scan*);
    void (*if_conv2d)(const Conv2d*);
    void (*max_pool2d)(const Pool2d*);
    // weight [C_out, C_in, taps] -> [ceil(C_out / 32)][taps * C_in + 1][32]; the last row of each slice is zero
    void (*pack_weight)(const float* weight, float* packed, int64_t C_out, int64_t C_in, int64_t taps);
    void (*pack)(const uint8_t* dense, uint8_t* spikes, int64_t T, int64_t N, int64_t C, int64_t P);
    void (*unpack)(const uint8_t* spikes, uint8_t* dense, int64_t T, int64_t N, int64_t C, int64_t P);
    // counts [N, C, P] of the steps before `until`; counts must be zero on entry
    void (*count)(const uint8_t* spikes, int32_t* counts, int64_t T, int64_t until, int64_t N, int64_t C, int64_t P);
    // [M, P, ceil(C / 8)] -> [M, ceil(C * P / 8)], feature c * P + p; out must be zero on entry
    void (*flatten)(const uint8_t* spikes, uint8_t* out, int64_t M, int64_t C, int64_t P);
    int64_t (*total)(const uint8_t* spikes, int64_t bytes);
    void (*if_scan_backward)(const ScanBackward*);
};
