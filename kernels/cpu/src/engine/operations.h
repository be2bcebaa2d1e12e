// What runs the operations of a plan, each kind in a file that is compiled by itself, for N samples and the steps of a segment.
// `fresh`: from rest. `goes_on`: whether states are wanted after the segment. k: the operation.
#pragma once
#include "session.h"

namespace PK_TARGET {

// packed_plan.cpp: null, if there is no memory.
Plan* make_plan(const Input* input, const Operation* operations, int64_t count);
void free_plan(Plan* plan);

// fire.cpp: some steps of a segment that has all_steps, as many as patterns have bits.
void fire_steps(Session& session, int64_t k, int64_t N, int64_t start, int64_t steps, int64_t all_steps, bool fresh,
                bool goes_on);

// convolutions.cpp: the way that neurons are run, by what they are, and by what came; and those that a kernel of ../conv2d runs.
int64_t way_of(const Session& session, const Step& step, int64_t N, int64_t steps);
bool has_kernel(const Step& step, int64_t N, int64_t steps);  // whether there is one, where a layer reads spikes alone
int64_t kernel_room(const Step& step, int64_t N, int64_t steps, int64_t threads);  // memory of one thread, whichever it is
double pixel_tile_cycles(const Step& step, int64_t N, int64_t steps);  // of a sample by pixel tiles; infinite: it cannot be
void run_kernel(Session& session, int64_t way, int64_t k, int64_t N, int64_t steps, bool fresh, bool goes_on);

// scatter.cpp: runs an operation from a list of what fired, if it can be; else its inputs have bits.
bool run_listed(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh);

// pools_and_moves.cpp: what stands between neurons.
void run_between(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh, bool goes_on);

// recurrent.cpp: neurons whose spikes come back to them.
void run_recurrent(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh);
int64_t recurrent_room(const Step& step);  // memory of one thread

// changes.cpp: all operations of a network of sigma-delta neurons.
void run_change(Session& session, int64_t k, int64_t N, int64_t T, bool fresh, bool goes_on);
int64_t change_room(const Step& step, const Window& w, int64_t steps);  // memory that a thread needs for a window
int64_t mark_room(const Step& step, const Window& w);  // bytes that mark a row of its input

}  // namespace PK_TARGET
