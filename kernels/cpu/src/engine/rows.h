// Sums of chosen rows of weights, in registers.
#pragma once
#include "plan.h"

namespace PK_TARGET {

constexpr int64_t near_bytes = 1 << 19;  // of a matrix, or a part of one, that stays in a second-level cache
constexpr int ahead = 8;                 // rows that are asked for before they are added, where they are not near

// Adds the rows of a list to a sum of vecs registers; values: times these (real_), else once each. Where few registers are
// summed, several sums go side by side: an addition waits for the last.
template <int vecs_, bool real_, bool far_>
static void add_rows(const float* matrix, const uint32_t* row, const float* value, int64_t n, float* sum) {
    constexpr int sets = vecs_ <= 2 ? 4 : vecs_ <= 4 ? 2 : 1;
    constexpr int64_t width = vecs_ * Vec::width;
    Vec sums[sets][vecs_];
    for (int j = 0; j < vecs_; j++) {
        sums[0][j] = load(sum + j * Vec::width);
        for (int s = 1; s < sets; s++) sums[s][j] = broadcast(0.0f);
    }
    const auto add = [&](int s, int64_t i) {
        const float* const from = matrix + (int64_t)row[i] * width;
        for (int j = 0; j < vecs_; j++) {
            const Vec weights = load(from + j * Vec::width);
            sums[s][j] = real_ ? multiply_add(broadcast(value[i]), weights, sums[s][j]) : sums[s][j] + weights;
        }
    };
    int64_t i = 0;
    for (; i + sets <= n; i += sets) {
        if (far_)
            for (int s = 0; s < sets; s++) {
                const float* const next = matrix + (int64_t)row[least(i + s + ahead, n - 1)] * width;
                for (int64_t byte = 0; byte < width * 4; byte += 64) __builtin_prefetch((const char*)next + byte);
            }
        for (int s = 0; s < sets; s++) add(s, i + s);
    }
    for (; i < n; i++) add(0, i);
    for (int j = 0; j < vecs_; j++) {
        for (int s = 1; s < sets; s++) sums[0][j] = sums[0][j] + sums[s][j];
        store(sum + j * Vec::width, sums[0][j]);
    }
}

using AddRows = void (*)(const float*, const uint32_t*, const float*, int64_t, float*);

static AddRows adder(int vecs_wanted, bool real, bool far) {
    AddRows found = nullptr;
    each<block_vecs>([&](auto i) {
        constexpr int n = decltype(i)::value + 1;
        if (n != vecs_wanted) return;
        if (real) found = far ? add_rows<n, true, true> : add_rows<n, true, false>;
        else found = far ? add_rows<n, false, true> : add_rows<n, false, false>;
    });
    return found;
}

// Writes the numbers of the channels that are set in a pixel's bytes, plus base; returns the end. Up to `overhang` more are
// written past it.
static inline uint32_t* widen(const uint16_t* from, int64_t n, uint32_t base, uint32_t* to) {
    int64_t i = 0;
    do {
        for (int j = 0; j < 16; j++) to[i + j] = from[i + j] + base;
        i += 16;
    } while (i < n);
    return to + n;
}
static inline uint32_t* list_pixel(const uint8_t* bytes, int64_t n, uint32_t base, uint32_t* to) {
    constexpr int64_t piece = 512;  // bytes
    uint16_t found[8 * piece + overhang];
    for (int64_t i = 0; i < n; i += piece) {
        const int64_t count = append_set_bits(bytes + i, least(piece, n - i), 1, -1, found);
        to = widen(found, count, base + (uint32_t)(8 * i), to);
    }
    return to;
}

}  // namespace PK_TARGET
