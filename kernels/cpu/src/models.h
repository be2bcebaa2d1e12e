// The neuron models, which neurons.h defines: what Neuron.model counts. For each its name and how many states, parameters
// of a channel and scalars it has. kernels/neuron_models.py has the same list; a test compares them. After them comes what stands in
// the place of neurons in a convolution: the sums of its currents.
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
