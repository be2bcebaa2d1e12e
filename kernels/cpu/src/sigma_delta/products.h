// Products of dense values and rows of weights, several sums at a time in registers.
#pragma once
#include "call.h"

namespace PK_TARGET {

// The number of windows whose sums fit registers, with `vecs` vectors of channels; a divisor of dense_rows.
constexpr int rows_of_tile(int vecs) {
    int rows = 12;
    while (rows > 1 && (dense_rows % rows || (rows + 1) * vecs + 1 > (Vec::width == 16 ? 32 : 16))) rows--;
    return rows;
}

// For each window: adds the products of `depth` values and their weights to its sums.
template <int rows, int vecs>
static inline void multiply_tile(const float* values, int64_t stride, int64_t depth, const float* weight, int64_t row,
                                 float* sums, int64_t next_sums) {
    Vec sum[rows][vecs];
    each<rows>([&](auto r) { each<vecs>([&](auto v) { sum[r][v] = load(sums + r * next_sums + v * Vec::width); }); });
    for (int64_t k = 0; k < depth; k++, weight += row) {
        Vec weights[vecs];
        each<vecs>([&](auto v) { weights[v] = load(weight + v * Vec::width); });
        each<rows>([&](auto r) {
            const Vec value = broadcast(values[r * stride + k]);
            each<vecs>([&](auto v) { sum[r][v] = multiply_add(value, weights[v], sum[r][v]); });
        });
    }
    each<rows>([&](auto r) { each<vecs>([&](auto v) { store(sums + r * next_sums + v * Vec::width, sum[r][v]); }); });
}

// multiply_tile for `n` windows, and for `vecs` registers of channels, a few at a time. `is_last`: whether there is room for as many
// windows, and their sums, as a tile has, of which the others may be overwritten.
static OUT_OF_LINE void multiply_rows(int vecs, const float* values, int64_t stride, int64_t depth, const float* weight,
                                      float* sums, int64_t next_sums, int64_t n, bool is_last) {
    constexpr int most_vecs = Vec::width == 16 ? 4 : 2;  // fewer loads of weights than of values
    for (int first = 0; first < vecs; first += most_vecs)
        each<most_vecs>([&](auto i) {
            constexpr int here = decltype(i)::value + 1, rows = rows_of_tile(here);
            if (here != least(most_vecs, vecs - first)) return;
            const int64_t row = vecs * Vec::width, at = first * Vec::width;
            int64_t r = 0;
            for (; r + (rows > 1) < n && (is_last || r + rows <= n); r += rows)
                multiply_tile<rows, here>(values + r * stride, stride, depth, weight + at, row, sums + r * next_sums + at,
                                          next_sums);
            for (; r < n; r++)
                multiply_tile<1, here>(values + r * stride, stride, depth, weight + at, row, sums + r * next_sums + at,
                                       next_sums);
        });
}

}  // namespace PK_TARGET
