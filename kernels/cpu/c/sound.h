// Whether what a tensor of a file holds can be used.
#pragma once
#include <algorithm>
#include <cmath>

#include "tensors.h"

namespace proxykernels {

static inline bool is_finite(const float* values, int64_t n) {
    return std::all_of(values, values + n, [](float value) { return std::isfinite(value); });
}
static inline bool is_finite(const Tensor& tensor) { return is_finite(tensor.floats(), tensor.size); }
static inline bool has_no_nan(const float* values, int64_t n) {
    return std::none_of(values, values + n, [](float value) { return std::isnan(value); });
}
// 2^27 such values stay finite.
static inline bool can_be_summed(const Tensor& tensor) {
    const float* const values = tensor.floats();
    return std::all_of(values, values + tensor.size, [](float value) { return std::fabs(value) <= 0x1p100f; });
}
static inline bool lie_within(const Tensor& tensor, int64_t least, int64_t end) {
    const int64_t* const values = tensor.whole();
    return std::all_of(values, values + tensor.size, [&](int64_t value) { return least <= value && value < end; });
}

}  // namespace proxykernels
