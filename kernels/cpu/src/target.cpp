// The table of an instruction set's kernels. This file and those beside it are compiled once for each instruction set
// (setup.py): -DPK_TARGET=avx512, avx2 or portable, with the matching flags. Each kernel is defined in one of these files; the
// headers included here define the small ones. AMX is AVX-512 with additional kernels for matrix tiles: code is compiled once
// for both, and each has its own table.
#include "abi.h"
#include "conv2d/amx_weights.h"
#include "conv2d/input_lists.h"
#include "conv2d/slices.h"
#include "conv2d/weight_rows.h"
#include "fingerprint.h"
#include "packed_spikes.h"

namespace PK_TARGET {

#define KERNEL(result, name, ...) result name(__VA_ARGS__);
#include "kernels.h"
#undef KERNEL

uint64_t fingerprint(const uint8_t* bytes, int64_t n) {
    return n > worth_threads ? fingerprint_by_team(bytes, n, max_threads()) : fingerprint_alone(bytes, n);
}

}  // namespace PK_TARGET

#if defined(__AMX_INT8__)
namespace amx {
extern const Kernels kernels;
const Kernels kernels = {
#define KERNEL(result, name, ...) PK_TARGET::name,
#include "kernels.h"
#undef KERNEL
};
}  // namespace amx
#endif

namespace PK_TARGET {

#define count_digits nullptr

extern const Kernels kernels;
const Kernels kernels = {
#define KERNEL(result, name, ...) name,
#include "kernels.h"
#undef KERNEL
};

}  // namespace PK_TARGET
