// The surrogate derivatives, which surrogates.h defines, by their names: what Surrogate.shape counts. abi.py compares the list
// with its own.
#pragma once
#include <cstdint>

#define PK_SURROGATES(SURROGATE) SURROGATE(ATan) SURROGATE(FastSigmoid) SURROGATE(Sigmoid) SURROGATE(Triangle)

namespace surrogates {
#define SURROGATE(name) name,
enum : int64_t { PK_SURROGATES(SURROGATE) };
#undef SURROGATE
}  // namespace surrogates
