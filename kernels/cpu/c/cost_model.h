// What the engine's kernels take for a layer. Of rows and tables a test compares the numbers with those of cost_model.py, from
// which layers choose that are called one by one.
#pragma once
#include "plan.h"

namespace proxykernels {

// A convolution of one sample.
struct Layer {
    int64_t P, C;  // output pixels and channels
    int64_t H, W;  // of the input
    int64_t C_in;  // of a group
    int64_t kernel[2], dilation_w, padding_w, dilation_h;
    int64_t groups;

    int64_t taps() const { return kernel[0] * kernel[1]; }
    int64_t inputs() const { return C_in * taps(); }
};

// How many groups an engine joins, so that each convolution has whole rows of output channels; 0: it joins none.
int64_t join_in_rows(int64_t C, int64_t C_in, int64_t groups);

// Cycles of each kernel, in the order of engine::Operation::lines. `row`: output channels that a row of patterns has.
void find_lines(const Layer& layer, int64_t joined, int64_t row, bool has_tiles, engine::Line* lines);

}  // namespace proxykernels
