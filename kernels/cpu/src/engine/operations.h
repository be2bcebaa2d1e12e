// The functions that run the operations of a plan, for N samples and the steps of a segment. Each kind of operation has a
// source file of its own. k: index of the operation. `fresh`: starts from rest. `goes_on`: the states are needed after the
// segment.
#pragma once
#include "session.h"

namespace PK_TARGET {

// packed_plan.cpp. Null if there is no memory.
Plan* make_plan(const Description* described, int64_t has_tiles);
void free_plan(Plan* plan);

// fire.cpp: neurons by patterns, for `steps` of the `all_steps` steps of a segment; at most as many steps as a pattern has
// bits.
void fire_steps(Session& session, int64_t k, int64_t N, int64_t start, int64_t steps, int64_t all_steps, bool fresh,
                bool goes_on);

// convolutions.cpp: chooses the way in which neurons are run, from the layer and its current input, and runs the kernels of
// ../conv2d.
int64_t way_of(const Session& session, const Op& op, int64_t N, int64_t steps);
bool has_kernel(const Op& op, int64_t N, int64_t steps);  // for a layer that reads only spikes
int64_t kernel_room(const Op& op, int64_t N, int64_t steps, int64_t threads);  // memory per thread, for any of the kernels
double pixel_tile_cycles(const Op& op, int64_t N, int64_t steps);  // per sample; infinite if pixel tiles do not fit
void run_kernel(Session& session, int64_t way, int64_t k, int64_t N, int64_t steps, bool fresh, bool goes_on);

// scatter.cpp: runs an operation from the list of its input's spikes and returns true; or makes the bits of its inputs and
// returns false.
bool run_listed(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh);

// pools_and_moves.cpp: operations between neurons.
void run_between(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh, bool goes_on);

// recurrent.cpp: recurrent neurons.
void run_recurrent(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh);
int64_t recurrent_room(const Op& op);  // memory per thread

// sigma_delta.cpp: all operations of a network of sigma-delta neurons.
void run_sigma_delta(Session& session, int64_t k, int64_t N, int64_t T, bool fresh, bool goes_on);
int64_t sigma_delta_room(const Op& op, const Window& w, int64_t steps);  // memory per thread
int64_t mark_room(const Op& op, const Window& w);  // bytes of marks for one row of the window's input
bool has_messages(const Op& source, const Window& w);  // whether what is not 0 in the window's input may be listed

}  // namespace PK_TARGET
