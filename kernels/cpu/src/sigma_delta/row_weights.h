// The layout of the weights of sigma-delta convolutions.
#pragma once
#include "call.h"

namespace PK_TARGET {

constexpr int64_t sigma_delta_row = 64;  // the most channels of a row of weights

// The number of channels of rows, including padding.
static inline int64_t sigma_delta_filled(int64_t channels) { return ceil_div(channels, 16) * 16; }

// Packs weights [C, inputs of a group, taps]. For each group: rows [tap][input][channel] of its first 64 output channels, then
// of the next 64, and so on; the last rows are padded to a multiple of 16 channels.
inline void pack_sigma_delta(const float* weight, float* packed, int64_t C, int64_t inputs, int64_t taps, int64_t groups) {
    const int64_t outputs = C / groups;
    for (int64_t group = 0; group < groups; group++)
        for (int64_t first = 0; first < outputs; first += sigma_delta_row) {
            const int64_t channels = least(sigma_delta_row, outputs - first), row = sigma_delta_filled(channels);
            for (int64_t i = 0; i < inputs; i++)
                for (int64_t tap = 0; tap < taps; tap++)
                    for (int64_t c = 0; c < row; c++)
                        packed[(tap * inputs + i) * row + c] = c < channels ? weight[(c * inputs + i) * taps + tap] : 0;
            weight += channels * inputs * taps, packed += row * inputs * taps;
        }
}

struct SigmaDeltaRows {
    int64_t inputs, row;  // inputs of a group; weights of a row
    int64_t first_input = 0;
    const float* weight;
    SigmaDeltaRows(const SigmaDelta& s, int64_t channel) : inputs(s.C_in / s.groups) {
        const int64_t outputs = s.C / s.groups, taps = s.kernel_h * s.kernel_w, group = channel / outputs;
        const int64_t within = channel - group * outputs, block = within / sigma_delta_row * sigma_delta_row;
        row = least(sigma_delta_row, sigma_delta_filled(outputs - block));
        first_input = group * inputs;
        weight = s.weight + (group * sigma_delta_filled(outputs) + block) * taps * inputs + (within - block);
    }
};

}  // namespace PK_TARGET
