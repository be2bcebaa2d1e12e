// The C interface of the engine: a network compiled once, and run by one function. library.py reads the structs as they stand here.
//
// A network is a list of operations on slots. A slot holds what an operation gives at each step: spikes, packed as in
// ../abi.h, [N, steps, P, ceil(C / 8)], or real values, float [N, steps, P, C]; in a network of sigma-delta neurons, whose first
// operation is Changes, their codes int8 [N, steps, P, C], or values. Slot 0 is the network's input. Weights are
// copied when the plan is made, and everything that a run writes to lies in the session, which belongs to one caller at a
// time; a plan may serve many sessions at once. Nothing here knows Python or torch.
#pragma once
#include "../abi.h"
#include "description.h"

namespace engine {

// ../table.h has the kinds of operations and inputs, the ways that neurons are run, and the outcomes of a run;
// kernels/table.py describes them.

// What is compared by its time: kernels of ../conv2d that add rows of weights, by what a row holds; tables; matrix tiles, of 1 to
// 4 digits; the same of few steps; and patterns of few steps.
enum : int64_t { FloatRow, ShortRow, ByteRow, Tables, Tiles, PixelTiles = Tiles + 4, Patterns = PixelTiles + 4 };

// What a kernel takes for a segment of cost_steps steps of a sample, in cycles: if nothing fires, and if all inputs do at each
// step. Between them it is as much as rows are added (../cost_model.h).
constexpr int64_t cost_steps = 64, cost_count = Patterns + 1;
struct Cost {
    double silent, busy;
};

// Where the states of an operation go, [N, states, P, C], those of a sample at its end; null: nowhere.
struct Kept {
    float* v;
};

// Where what an operation gives goes as well, one of them as it is: spikes [N, T, P, bytes], of sigma-delta neurons codes
// [N, T, P, C], or values [T, N, P, C]; both null: nowhere.
struct Shown {
    uint8_t* spikes;
    float* values;
};

// A logit is what proxykernels/running/result.py defines: of spikes [C, P], potentials [P, C], and steps.
struct Readout {
    const float *theta, *start, *scale;  // [C]: of the neurons threshold and potential at the start; of the logits
    int64_t C, P;
    float lowest, highest;  // logits are not below or above these
};

struct Run {
    const void* x;  // spikes uint8 [N, T, P, bytes], values held float [N, C, P], or of each step float [T, N, C, P]
    int64_t kind;  // of x
    int64_t rounds;  // whether values are taken in 24 bits of the largest one of their sample
    int64_t scaled;  // whether values are spikes times a scale: what they add is counted
    int64_t T, N;
    int64_t threads;
    int64_t fresh;  // start at rest, rather than from where the last run of the session ended
    int64_t goes_on;  // whether states are wanted after the run
    uint8_t* spikes;  // [N, T, P, bytes] of the last operation, written; of one that gives values null
    float* values;  // [T, N, P, C], likewise
    int32_t* counts;  // [N, C, P], added to: spikes of the last operation; or null
    const Kept* kept;  // null, or of each operation
    int64_t* tally;  // [operations][tallies], added to: spikes; additions of a weight for a spike; of sigma-delta for a value
    // Null, or a rule that is asked which samples are decided, and end: it writes 1 to their `decided` [n], and 0 to that of the
    // others. counts [n, C, P]: of the n `samples` that have not ended, after t steps. It is asked every `stop_every` steps. Of
    // sigma-delta neurons counts are null: the rule looks at `values`, and is not asked after the last step.
    void (*stop)(void* context, const int32_t* counts, const float* v, const int64_t* samples, int64_t n, int64_t t,
                 uint8_t* decided);
    int64_t stop_every;  // or, if `stops` is not 0 and `stop_reads` is: after the steps `stop_at`, the last of which is T
    // 0, or 1 + an operation of `kept`, with one state: the rule is given its `v`, [n, C, P]. Then it is asked after each of
    // the runs of stop_at[stops] steps but the last one, of T, and samples that are not decided start again from rest: to go on,
    // every sample would have to keep the states of all layers. Tallies have all steps that ran.
    int64_t stop_reads;
    const int64_t* stop_at;
    int64_t stops;
    void* context;  // of the rule, and of the question
    int64_t* steps;  // [N], with a rule: of those that it ends their steps, written
    // Null, or a question that is asked once in a while, by the thread that runs: 1 lets the run go on, all else ends it.
    int64_t (*may_go_on)(void* context);
    int64_t* steps_so_far;  // null, or added to: T, of a run that has ended
    const Shown* shown;  // null, or of each operation
    int64_t* took;  // null, or of each operation, added to: nanoseconds
    // [N, C, P], written once the run has ended: what `readout` reads from `counts`, and from `kept` of the operation `logits_of`.
    // Of a run from rest; or null.
    float* logits;
    const Readout* readout;
    int64_t logits_of;
    // Of a layer that is called by itself, else null: its neurons, the states before the first step, and where spikes and the
    // last states go. Of the results above none is looked at, and the tally may be null.
    const Neurons* neurons;
    const uint8_t*
        shortcut;  // [N, T, P, ceil(C / 8)]: spikes that add 1 to the current of their own neuron, of layers with two terms
    const SigmaDelta* changes;  // the same for a layer of sigma-delta neurons; the plan has its weights and sizes
};

// A sample is decided if the largest of its logits, times the steps, is ahead of all others by so much.
struct Lead {
    Readout of;
    float least;
};

struct Sizes {
    int64_t weights, arena;  // bytes: of the plan; of the session, as far as its runs have written to it
    int64_t refused;  // of the session: what there was no memory for
};

// Some memory, of at most 2^24 bytes.
struct Piece {
    const uint8_t* bytes;
    int64_t size;
};

struct Plan;
struct Session;

// A tensor of a plan that Python hands over (../../c/network.cpp): its name in the description, and where it lies.
struct Handed {
    const char* name;
    const void* data;
    int64_t type, dims, shape[4];  // type: a proxykernels::Type
};

// How a call of a layer is run (../../c/layer.cpp).
struct LayerChoice {
    int64_t runner;  // a Runner of ../table.h
    int64_t is_long;  // Input.is_long of its plan
    int64_t thresholds;  // two calls share a plan only if these numbers are equal
};

struct Functions {
    // Copies and packs all that is described; null: there is no memory. `has_tiles`: whether the instruction set has matrix tiles.
    Plan* (*make_plan)(const Description*, int64_t has_tiles);
    void (*free_plan)(Plan*);
    Session* (*make_session)(const Plan*);
    void (*free_session)(Session*);
    // An outcome; NotFinite and NoMemory leave states as they were. Interrupted does so with states, counts and tallies, if the
    // run goes on; of a fresh run states are lost. What else is written is looked at after Ran alone.
    int64_t (*run)(Session*, const Run*);
    // The states of an operation, [N, states, P, C], read (to) or written (from); N is that of the last run. An outcome. Of
    // sigma-delta neurons z of all samples, [N, P, C], and behind it a.
    int64_t (*states)(Session*, int64_t operation, float* to, const float* from, int64_t N);
    void (*sizes)(const Session*, Sizes*);
    uint64_t (*fingerprint)(const uint8_t* bytes, int64_t n);  // a hash, by which a file tells that it is damaged
    // A hash of all bytes of some pieces. With a session, which nobody else uses now, its threads help where there is much.
    uint64_t (*hash)(Session*, const Piece* pieces, int64_t count, int64_t threads);
    int64_t (*way)(const Session*, int64_t operation);  // of neurons: the one that they were run in last
    // A rule, whose context is a Lead.
    void (*leads)(void* context, const int32_t* counts, const float* v, const int64_t* samples, int64_t n, int64_t t,
                  uint8_t* decided);
};

}  // namespace engine
