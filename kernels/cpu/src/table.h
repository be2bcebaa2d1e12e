// Made by kernels/table.py: change the table there. A build writes this file anew.
// clang-format off: lists
#pragma once
#include <cmath>
#include <cstdint>

#define PK_TABLE "e83441a7c036ca1e2f5c91e18734bfefa54355e865e24e50158d69c132a5a5d6"  // a hash of the table, which Python compares

// The surrogate derivatives, which scan_backward.h defines; Surrogate.shape is an index into this list.
#define PK_SURROGATES(SURROGATE) \
    SURROGATE(ATan) \
    SURROGATE(FastSigmoid) \
    SURROGATE(Sigmoid) \
    SURROGATE(Triangle)

namespace surrogates {
#define SURROGATE(name) name,
enum : int64_t { PK_SURROGATES(SURROGATE) };
#undef SURROGATE
}  // namespace surrogates

// The operations of a plan, and their names in a file.
#define PK_KINDS(KIND) \
    KIND(Fire, "neurons") \
    KIND(MaxPool, "max pool") \
    KIND(AveragePool, "average pool") \
    KIND(MaxRatePool, "max rate pool") \
    KIND(RunningMaxPool, "running max pool") \
    KIND(Flatten, "flatten") \
    KIND(Unflatten, "unflatten") \
    KIND(Move, "move") \
    KIND(Recur, "recurrent neurons") \
    KIND(Changes, "changes of the input") \
    KIND(Send, "sigma-delta") \
    KIND(SendMaxima, "sigma-delta maxima") \
    KIND(Sum, "sum of changes") \
    KIND(Delay, "delay") \
    KIND(Attention, "attention") \
    KIND(Multiply, "product") \
    KIND(Function, "function of sums")

namespace engine {
#define KIND(name, text) name,
enum : int64_t { PK_KINDS(KIND) };
#undef KIND
enum : int64_t { ByPatterns, ByDepthwise, BySlices, ByTables, ByTiles, ByScattering, ByPixelTiles, ByValues };  // how neurons are run
enum : int64_t { ByPlan, ByGatheredPlan, ByTorch };  // who runs a call of a layer
enum : int64_t { PackedSpikes, HeldValues, Values };  // kinds of inputs
enum : int64_t { NotFinite, Ran, NoMemory, NoAnswer, Interrupted };  // of a run
enum : int64_t { SigmoidFunction = 1, HardsigmoidFunction = 2, HardswishFunction = 3, SiluFunction = 4, TanhFunction = 5, EluFunction = 6, SoftplusFunction = 7, MishFunction = 8 };  // of sums
constexpr int64_t tallies = 3;  // numbers that are counted of an operation

constexpr bool passes_on(int64_t kind) { return 41186 >> kind & 1; }
constexpr bool gives_values(int64_t kind) { return 16404 >> kind & 1; }
constexpr bool keeps_size(int64_t kind) { return 78592 >> kind & 1; }
constexpr bool changes_in_time(int64_t kind) { return 8457 >> kind & 1; }
}  // namespace engine

// The most that a plan may have.
constexpr int64_t most_windows = 8;
constexpr int64_t most_inputs = 16777216;
constexpr int64_t most_moved = 1024;
constexpr int64_t most_delay = 4096;
constexpr int64_t most_size = 2147483648;
constexpr int64_t most_growth = 16384;
constexpr int64_t most_exponents = 12;
constexpr int64_t most_code = 127;
constexpr int64_t most_signed_code = 63;

// The fields of a plan's description, and how its reader takes them: TYPE(name, least, may be missing, may be null,
// kinds that have it, as bits; 0: all).
#define PK_WINDOW_MEMBERS \
    int64_t slot = 0; \
    int64_t kernel_h = 1, kernel_w = 1; \
    int64_t stride_h = 1, stride_w = 1; \
    int64_t padding_h = 0, padding_w = 0; \
    int64_t dilation_h = 1, dilation_w = 1; \
    int64_t groups = 1; \
    int64_t averages = 0;  /* of spikes, part of the weight: what a neuron reads */ \
    const float* weight = nullptr;  /* [C_out, C_in / groups, kernel_h, kernel_w]; null: the input itself */ \
    const float* bias = nullptr;  /* [C_out], of sigma-delta neurons; or null */
#define PK_WINDOW_FIELDS(WHOLE, PAIR, TRUTH, LIMIT, FLOATS, INTEGERS) \
    WHOLE(slot, 0, 0, 0, 0) \
    PAIR(kernel, 1, 0, 0, 0) \
    PAIR(stride, 1, 0, 0, 0) \
    PAIR(padding, 0, 0, 0, 0) \
    PAIR(dilation, 1, 0, 0, 0) \
    WHOLE(groups, 1, 0, 0, 0) \
    WHOLE(averages, 1, 1, 0, 0) \
    FLOATS(weight, 0, 0, 1, 0) \
    FLOATS(bias, 0, 1, 1, 0)
#define PK_NEURONS_MEMBERS \
    bool fires = true;  /* or their potentials are what is given */ \
    bool rectifies = false;  /* whether they stand for neurons with a ReLU */ \
    float limit = INFINITY;  /* of that ReLU */ \
    const float* channels = nullptr;  /* [parameters of a channel, C], thresholds first */ \
    const float* bias = nullptr;  /* [C] */ \
    const float* start = nullptr;  /* [states, C]: of a run from rest; of RECUR then the spikes before the first step */ \
    const float* scale = nullptr;  /* what a spike a step stands for: [C], or one number; null: not converted */
#define PK_NEURONS_FIELDS(WHOLE, PAIR, TRUTH, LIMIT, FLOATS, INTEGERS) \
    TRUTH(fires, 0, 0, 0, 0) \
    TRUTH(rectifies, 0, 0, 0, 0) \
    LIMIT(limit, 0, 0, 1, 0) \
    FLOATS(channels, 0, 0, 0, 0) \
    FLOATS(bias, 0, 0, 0, 0) \
    FLOATS(start, 0, 0, 0, 0) \
    FLOATS(scale, 0, 0, 1, 0)
#define PK_SENDERS_MEMBERS \
    int64_t exponents = 1; \
    bool rectifies = true; \
    const float* limit = nullptr;  /* [C] */ \
    float threshold = INFINITY;  /* of graded neurons, which send values; null: they send powers of two */
#define PK_SENDERS_FIELDS(WHOLE, PAIR, TRUTH, LIMIT, FLOATS, INTEGERS) \
    WHOLE(exponents, 1, 0, 0, 0) \
    TRUTH(rectifies, 0, 0, 0, 0) \
    FLOATS(limit, 0, 0, 0, 0) \
    LIMIT(threshold, 0, 1, 1, 0)
#define PK_OPERATION_MEMBERS \
    bool real = false;  /* whether it gives values, and not spikes */ \
    int64_t divisor = 0;  /* of an average; 0: the size of the window, */ \
    bool count_padding = true;  /* with the pixels of the padding */ \
    bool adaptive = false;  /* windows divide the image as evenly as they can, and have no sizes of their own */ \
    const int64_t* pixels = nullptr;  /* [P]: the pixel of the inputs that each is, -1: zeros; null: as they lie */ \
    const int64_t* channels = nullptr;  /* [C]: the same, counted on through all inputs */ \
    const float* recurrent = nullptr;  /* [C, C], row i: what neuron i receives; or [C], what it receives of itself */ \
    const float* scale = nullptr;  /* [C], of SUM: what 1 stands for */ \
    float grid = INFINITY;  /* of CHANGES and graded neurons: what values are rounded to multiples of; null: of nothing */ \
    const int64_t* delays = nullptr;  /* [C]: steps */ \
    int64_t heads = 0;  /* of ATTENTION */ \
    int64_t function = 0;  /* of FUNCTION: its number */
#define PK_OPERATION_FIELDS(WHOLE, PAIR, TRUTH, LIMIT, FLOATS, INTEGERS) \
    TRUTH(real, 0, 0, 0, 0) \
    WHOLE(divisor, -2147483647, 0, 0, 0) \
    TRUTH(count_padding, 0, 0, 0, 0) \
    TRUTH(adaptive, 0, 0, 0, 0) \
    INTEGERS(pixels, 0, 0, 1, 128) \
    INTEGERS(channels, 0, 0, 1, 128) \
    FLOATS(recurrent, 0, 0, 0, 256) \
    FLOATS(scale, 0, 1, 1, 0) \
    LIMIT(grid, 0, 1, 1, 0) \
    INTEGERS(delays, 0, 0, 0, 8192) \
    WHOLE(heads, 1, 1, 0, 0) \
    WHOLE(function, 1, 1, 0, 0)

// The tensors of an operation that have one number for each of its C channels or P() pixels.
#define PK_OPERATION_TENSORS(FLOATS, INTEGERS) \
    INTEGERS(pixels, P()) \
    INTEGERS(channels, C) \
    FLOATS(scale, C) \
    INTEGERS(delays, C)
