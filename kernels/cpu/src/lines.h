// What the kernels of an engine take for a segment of steps, by the cost model, and which groups it joins.
#pragma once
#include "cost_model.h"
#include "engine/engine.h"

namespace costs {

// How many groups an engine joins, so that each convolution has whole rows of output channels; 0: it joins none.
int64_t join_in_rows(int64_t C, int64_t C_in, int64_t groups);

// Cycles of each kernel for a layer of one sample, whatever its T says, in the order of engine::FloatRow and what follows it. Infinite: it cannot
// run.
// `row`: output channels that a row of patterns has.
void find_lines(Layer layer, int64_t groups, int64_t row, bool has_tiles, engine::Line* lines);

}  // namespace costs
