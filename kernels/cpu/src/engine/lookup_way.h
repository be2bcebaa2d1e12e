// Convolutions by lookup tables (../conv2d/lookup.h); their time does not depend on the number of spikes.
#pragma once
#include "../conv2d/lookup.h"
#include "convolution.h"

namespace PK_TARGET {

#if defined(__AVX512F__)
struct LookedUp {
    static_assert(columns == matrix_columns && table_group == table_channels);
    const Conv2d c;
    const WindowWords words;
    const LookupCut cut;

    LookedUp(const Op& op, const Neurons& neurons, const View& x, const uint8_t* shortcut, int64_t threads)
        : c(conv_of(op, neurons, x, shortcut, op.tables)), words(c), cut(c, words, threads) {}

    static bool fits(const Op& op, int64_t N, int64_t steps) { return op.tables && is_enough(op, N, steps); }
    static int64_t room(const Op& op, int64_t N, int64_t steps, int64_t threads) {
        if (!fits(op, N, steps)) return 0;
        const LookedUp kernel(op, shape_of(op, N, steps), View{}, nullptr, threads);
        Carver carver{nullptr};
        LookupLists lists;
        lists.borrow(carver, kernel.c, kernel.words, kernel.cut);
        return carver.bytes;
    }
    int64_t tasks() const { return cut.tasks; }

    void run(const View& x, int64_t task, char* scratch, int64_t* tally) const {
        LookupLists lists;
        Carver carver{scratch};
        lists.borrow(carver, c, words, cut);
        run_lookup_task(c, words, cut, task, lists);
        const int64_t first = cut.first_channel(task), last = least(c.neurons.C, first + cut.channels);
        Region out = cut.part(c, task);
        out.steps = c.neurons.T;
        count_part(c, x, out, first, last, tally);
    }
};
#else
using LookedUp = NoKernel;  // registers are too short for a table
#endif

}  // namespace PK_TARGET
