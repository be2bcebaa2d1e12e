// The spike convolutions whose neurons are run by fire_sums.h: event, period and lookup kernels.
#include "conv2d/event.h"
#include "conv2d/lookup.h"
#include "conv2d/period.h"

#if defined(__AVX512F__)
namespace PK_TARGET {

void lookup_conv2d(const Conv2d* conv) {
    const Conv2d& c = *conv;
    const WindowWords words(c);
    const LookupCut cut(c, words, max_threads());
#pragma omp parallel
    {
        LookupLists lists;
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < cut.tasks; task++) run_lookup_task(c, words, cut, task, lists);
    }
}

}  // namespace PK_TARGET
#endif
