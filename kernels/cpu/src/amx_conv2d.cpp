// The convolution by matrix tiles; empty for instruction sets without them.
#include "conv2d/amx.h"

#if defined(__AMX_INT8__)
namespace PK_TARGET {

void tile_conv2d(const Conv2d* conv) {
    const Conv2d& c = *conv;
    const Tiling tiling(c, max_threads());
    with_digits(c.digits, [&](auto digits) {
#pragma omp parallel
        {
            TileSession session;
            TileMemory<decltype(digits)::value> memory;
            memory.begin(tiling, c);
#pragma omp for schedule(dynamic)
            for (int64_t task = 0; task < tiling.units * tiling.spans; task++) run_unit(c, tiling, task, memory);
        }
    });
}

}  // namespace PK_TARGET
#endif
