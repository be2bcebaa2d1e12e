// Pixels whose constant currents equal those of the pixel before, as on a plain background. If their neurons start from the
// same states too, they fire alike: they are copied instead of computed.
#pragma once
#include "work.h"

namespace PK_TARGET {

struct Repeats {
    const int64_t all;
    ThreadMemory<int64_t> first;  // [pixel]: the pixel that it repeats, or itself
    ThreadMemory<int64_t> pixels;  // the pixels to compute
    int64_t count = 0;

    // like_the_last(i): whether pixel i fires like the pixel before.
    template <class Like>
    Repeats(int64_t all, Like like_the_last) : all(all), first(all), pixels(all) {
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < all; i++) first.data[i] = i && like_the_last(i) ? -1 : i;
        for (int64_t i = 0; i < all; i++) {
            if (first.data[i] < 0) first.data[i] = first.data[i - 1];
            else pixels.data[count++] = i;
        }
    }

    // Calls copy(from, to) for each pixel that repeats another.
    template <class Copy>
    void each_copy(Copy copy) const {
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < all; i++)
            if (first.data[i] != i) copy(first.data[i], i);
    }
};

}  // namespace PK_TARGET
