// Made by kernels/table.py: change the table there. A build writes this file anew.
// clang-format off: lists
#pragma once
#include <cstdint>

// The neuron models, which neurons.h defines; Neuron.model is an index into this list. Each has its name and the
// numbers of its states, parameters of a channel and scalars.
#define PK_MODELS(MODEL) \
    MODEL(HardReset, 1, 1, 1)  /* theta v_reset */ \
    MODEL(SoftReset, 1, 1, 0)  /* theta */ \
    MODEL(LeakyHardReset, 1, 2, 2)  /* theta decay v_reset v_rest */ \
    MODEL(LeakySoftReset, 1, 2, 1)  /* theta decay v_rest */ \
    MODEL(SynapticHardReset, 2, 3, 2)  /* theta decay current_decay v_reset v_rest */ \
    MODEL(SynapticSoftReset, 2, 3, 1)  /* theta decay current_decay v_rest */ \
    MODEL(AdaptiveHardReset, 2, 4, 2)  /* theta decay adaptation_decay adaptation v_reset v_rest */ \
    MODEL(AdaptiveSoftReset, 2, 4, 1)  /* theta decay adaptation_decay adaptation v_rest */ \
    MODEL(RefractoryHardReset, 2, 2, 3)  /* theta decay v_reset v_rest refractory */ \
    MODEL(RefractorySoftReset, 2, 2, 2)  /* theta decay v_rest refractory */ \
    MODEL(LoihiHardReset, 2, 4, 1)  /* theta decay current_decay v_bias v_reset */

// The models whose neurons fire several times in a step. Their indices follow. The last index is CurrentSums, which a
// convolution runs instead of neurons to sum up its currents.
#define PK_COUNTING_MODELS(MODEL) \
    MODEL(IntegerSoftReset, 1, 2, 2)  /* theta decay max_spike_count rounds */

namespace models {
#define MODEL(name, ...) name,
enum : int64_t { PK_MODELS(MODEL) PK_COUNTING_MODELS(MODEL) CurrentSums };
#undef MODEL
}  // namespace models
