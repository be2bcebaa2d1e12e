// The neuron models, which neurons.h defines, by their names: what Neuron.model counts. abi.py compares the list with its own.
#pragma once
#include <cstdint>

#define PK_MODELS(MODEL) MODEL(HardReset) MODEL(SoftReset)

namespace models {
#define MODEL(name) name,
enum : int64_t { PK_MODELS(MODEL) };
#undef MODEL
}  // namespace models
