// The neuron models, which neurons.h defines; Neuron.model is an index into this list. Each has its name and the numbers of its
// states, parameters of a channel and scalars. kernels/neuron_models.py has the same list; a test compares them. The last index
// is CurrentSums, which a convolution runs instead of neurons to sum up its currents.
#pragma once
#include <cstdint>

// clang-format off: a list
#define PK_MODELS(MODEL) \
    MODEL(HardReset, 1, 1, 1) MODEL(SoftReset, 1, 1, 0) \
    MODEL(LeakyHardReset, 1, 2, 2) MODEL(LeakySoftReset, 1, 2, 1) \
    MODEL(SynapticHardReset, 2, 3, 2) MODEL(SynapticSoftReset, 2, 3, 1) \
    MODEL(AdaptiveHardReset, 2, 4, 2) MODEL(AdaptiveSoftReset, 2, 4, 1) \
    MODEL(RefractoryHardReset, 2, 2, 3) MODEL(RefractorySoftReset, 2, 2, 2) \
    MODEL(LoihiHardReset, 2, 4, 1)
// clang-format on

namespace models {
#define MODEL(name, ...) name,
enum : int64_t { PK_MODELS(MODEL) CurrentSums };
#undef MODEL
}  // namespace models
