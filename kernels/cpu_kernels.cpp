// Compiled once for each instruction set (setup.py): -DPK_TARGET=avx512, avx2 or portable, with the matching flags.
#include "cpu_kernels.h"
#include "if_conv2d.h"
#include "if_scan.h"
#include "if_scan_backward.h"
#include "spike_bits.h"

namespace PK_TARGET {

extern const Kernels kernels;
const Kernels kernels = {if_scan, if_conv2d, max_pool2d, pack_weight, pack, unpack, count, flatten, total, if_scan_backward};

}  // namespace PK_TARGET
