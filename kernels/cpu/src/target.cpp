// Compiled once for each instruction set (setup.py): -DPK_TARGET=amx, avx512, avx2 or portable, with the matching flags.
#if defined(__AMXINT8__) && !defined(__AMX_INT8__)  // as clang calls it before version 17
#define __AMX_INT8__ 1
#endif

#include "abi.h"
#include "conv2d/depthwise.h"
#include "conv2d/event.h"
#include "conv2d/im2col.h"
#include "dense_spikes.h"
#include "fingerprint.h"
#include "if_scan.h"
#include "conv2d/lookup.h"
#include "conv2d/period.h"
#include "conv2d/product.h"
#include "conv2d/weight_gradient.h"
#include "max_rate_pool.h"
#include "periods.h"
#include "rounding.h"
#include "scan_backward.h"
#include "sigma_delta/synapses.h"
#include "spike_bits.h"
#include "conv2d/amx.h"

namespace PK_TARGET {

#if !defined(__AVX512F__)
constexpr decltype(Kernels::lookup_conv2d) lookup_conv2d = nullptr;
#endif
#if !defined(__AMX_INT8__)
constexpr decltype(Kernels::tile_conv2d) tile_conv2d = nullptr;
constexpr decltype(Kernels::count_digits) count_digits = nullptr;
constexpr decltype(Kernels::pack_tiles) pack_tiles = nullptr;
constexpr decltype(Kernels::tiles_size) tiles_size = nullptr;
#endif

extern const Kernels kernels;
const Kernels kernels = {
#define KERNEL(result, name, ...) name,
#include "kernels.h"
#undef KERNEL
};

}  // namespace PK_TARGET
