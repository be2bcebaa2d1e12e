// Where the weights of some output channels lie.
#pragma once
#include "call.h"

namespace PK_TARGET {

constexpr int64_t sigma_delta_row = 64;  // channels of a row of weights, at most

// The weights of each group are rows [tap][inputs][channels] of 64 output channels, then those of the next 64; the last ones'
// rows are filled up to a multiple of 16.
struct SigmaDeltaRows {
    int64_t inputs, row;  // of a group; weights of a row
    int64_t first_input = 0;
    const float* weight;
    SigmaDeltaRows(const SigmaDelta& s, int64_t channel) : inputs(s.C_in / s.groups) {
        const int64_t outputs = s.C / s.groups, taps = s.kernel_h * s.kernel_w, group = channel / outputs;
        const int64_t within = channel - group * outputs, block = within / sigma_delta_row * sigma_delta_row;
        row = least(sigma_delta_row, ceil_div(outputs - block, 16) * 16);
        first_input = group * inputs;
        weight = s.weight + (group * ceil_div(outputs, 16) * 16 + block) * taps * inputs + (within - block);
    }
};

}  // namespace PK_TARGET
