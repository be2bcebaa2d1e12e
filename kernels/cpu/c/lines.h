// What the kernels of an engine take for a segment of steps, by the cost model, and which groups it joins.
#pragma once
#include "../src/cost_model.h"
#include "../src/engine/engine.h"

namespace proxykernels {

// How many groups an engine joins, so that each convolution has whole rows of output channels; 0: it joins none.
int64_t join_in_rows(int64_t C, int64_t C_in, int64_t groups);

// Cycles of each kernel for a layer of one sample, whatever its T says, in the order of engine::Operation::lines.
// `row`: output channels that a row of patterns has.
void find_lines(costs::Layer layer, int64_t groups, int64_t row, bool has_tiles, engine::Line* lines);

}  // namespace proxykernels
