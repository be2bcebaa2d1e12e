// The names of the surrogate derivatives, which surrogates.h defines; Surrogate.shape is an index into this list.
// kernels/surrogates.py has the same list; a test compares them.
#pragma once
#include <cstdint>

#define PK_SURROGATES(SURROGATE) SURROGATE(ATan) SURROGATE(FastSigmoid) SURROGATE(Sigmoid) SURROGATE(Triangle)

namespace surrogates {
#define SURROGATE(name) name,
enum : int64_t { PK_SURROGATES(SURROGATE) };
#undef SURROGATE
}  // namespace surrogates
