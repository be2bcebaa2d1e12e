// Made by kernels/table.py: change the table there. A build writes this file anew.
// clang-format off: lists
#pragma once
#include <cstdint>

#define PK_TABLE "dd0cf3c926a6cd1ac6e3a8948436a00bc473021c3051fa94f79a549c30a7c1a1"  // a hash of the table, which Python compares

// The surrogate derivatives, which surrogates.h defines; Surrogate.shape is an index into this list.
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
    KIND(Delay, "delay")

namespace engine {
#define KIND(name, text) name,
enum : int64_t { PK_KINDS(KIND) };
#undef KIND
enum : int64_t { ByPatterns, ByDepthwise, BySlices, ByTables, ByTiles, ByScattering, ByPixelTiles };  // how neurons are run
enum : int64_t { PackedSpikes, HeldValues, Values };  // kinds of inputs
enum : int64_t { NotFinite, Ran, NoMemory, NoAnswer, Interrupted };  // of a run
constexpr int64_t tallies = 3;  // numbers that are counted of an operation
}  // namespace engine

// The most that a plan may have.
constexpr int64_t most_windows = 8;
constexpr int64_t most_inputs = 16777216;
constexpr int64_t most_moved = 1024;
constexpr int64_t most_delay = 4096;
constexpr int64_t most_size = 2147483648;
constexpr int64_t most_growth = 16384;
constexpr int64_t most_exponents = 12;
