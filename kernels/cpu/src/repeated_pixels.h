// Pixels whose neurons get the same constant currents as those of the pixel before, as on a plain background: where these start
// alike, they fire alike. They are not computed but copied.
#pragma once
#include "work.h"

namespace PK_TARGET {

struct Repeats {
    const int64_t all;
    Memory<int64_t> first;  // of each pixel: the one that it repeats, or itself
    Memory<int64_t> pixels;  // those to compute
    int64_t count = 0;

    // like_the_last(i): whether pixel i does what the one before does.
    template <class Like>
    Repeats(int64_t all, Like like_the_last) : all(all), first(all), pixels(all) {
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < all; i++) first.data[i] = i && like_the_last(i) ? -1 : i;
        for (int64_t i = 0; i < all; i++) {
            if (first.data[i] < 0) first.data[i] = first.data[i - 1];
            else pixels.data[count++] = i;
        }
    }

    // Calls copy(from, to) for each of the others.
    template <class Copy>
    void each_copy(Copy copy) const {
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < all; i++)
            if (first.data[i] != i) copy(first.data[i], i);
    }
};

}  // namespace PK_TARGET
