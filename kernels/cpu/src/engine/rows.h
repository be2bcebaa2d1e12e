// Sums of chosen rows of weights, in registers.
#pragma once
#include "tasks.h"

namespace PK_TARGET {

constexpr int ahead = 8;                 // rows that are asked for before they are added, where they are not near

// Adds up the rows of a list in registers, and their sum to the sums [step][columns] of the steps whose bits are set. Where
// few registers are summed, several sums go side by side: an addition waits for the last.
template <int vecs_, bool far_>
static void add_rows(const float* matrix, const uint32_t* row, int64_t n, uint32_t steps, float* sums) {
    constexpr int sets = vecs_ <= 2 ? 4 : vecs_ <= 4 ? 2 : 1;
    constexpr int64_t width = vecs_ * Vec::width;
    Vec total[sets][vecs_];
    for (int s = 0; s < sets; s++)
        for (int j = 0; j < vecs_; j++) total[s][j] = broadcast(0.0f);
    const auto add = [&](int s, int64_t i) {
        const float* const from = matrix + (int64_t)row[i] * width;
        for (int j = 0; j < vecs_; j++) total[s][j] = total[s][j] + load(from + j * Vec::width);
    };
    int64_t i = 0;
    for (; i + sets <= n; i += sets) {
        if (far_)
            for (int s = 0; s < sets; s++) {  // of the next lists, too, which stand behind this one
                const float* const next = matrix + (int64_t)row[i + s + ahead] * width;
                for (int64_t byte = 0; byte < width * 4; byte += 64) __builtin_prefetch((const char*)next + byte);
            }
        for (int s = 0; s < sets; s++) add(s, i + s);
    }
    for (; i < n; i++) {
        if (far_) {
            const float* const next = matrix + (int64_t)row[i + ahead] * width;
            for (int64_t byte = 0; byte < width * 4; byte += 64) __builtin_prefetch((const char*)next + byte);
        }
        add(0, i);
    }
    for (int j = 0; j < vecs_; j++)
        for (int s = 1; s < sets; s++) total[0][j] = total[0][j] + total[s][j];
    for (; steps; steps &= steps - 1) {
        float* const sum = sums + __builtin_ctz(steps) * columns;
        for (int j = 0; j < vecs_; j++) store(sum + j * Vec::width, load(sum + j * Vec::width) + total[0][j]);
    }
}

// Adds the rows of a list, each times its value, to a sum.
template <int vecs_>
static void add_values(const float* matrix, const uint32_t* row, const float* value, int64_t n, float* sum) {
    Vec total[vecs_];
    for (int j = 0; j < vecs_; j++) total[j] = load(sum + j * Vec::width);
    for (int64_t i = 0; i < n; i++) {
        const float* const from = matrix + (int64_t)row[i] * (vecs_ * Vec::width);
        for (int j = 0; j < vecs_; j++) total[j] = multiply_add(broadcast(value[i]), load(from + j * Vec::width), total[j]);
    }
    for (int j = 0; j < vecs_; j++) store(sum + j * Vec::width, total[j]);
}

// The same of all rows, whose values lie at offsets from x.
template <int vecs_>
static void add_inside(const float* matrix, const float* x, const int64_t* offset, int64_t n, float* sum) {
    Vec total[2][vecs_];
    for (int j = 0; j < vecs_; j++) total[0][j] = load(sum + j * Vec::width), total[1][j] = broadcast(0.0f);
    const auto add = [&](int s, int64_t i) {
        const float* const from = matrix + i * (vecs_ * Vec::width);
        const Vec value = broadcast(x[offset[i]]);
        for (int j = 0; j < vecs_; j++) total[s][j] = multiply_add(value, load(from + j * Vec::width), total[s][j]);
    };
    int64_t i = 0;
    for (; i + 2 <= n; i += 2) add(0, i), add(1, i + 1);
    if (i < n) add(0, i);
    for (int j = 0; j < vecs_; j++) store(sum + j * Vec::width, total[0][j] + total[1][j]);
}

struct Adders {
    void (*rows)(const float*, const uint32_t*, int64_t, uint32_t, float*);
    void (*values)(const float*, const uint32_t*, const float*, int64_t, float*);
    void (*inside)(const float*, const float*, const int64_t*, int64_t, float*);
};

static Adders adders(int vecs_wanted, bool far) {
    Adders found{};
    each<block_vecs>([&](auto i) {
        constexpr int n = decltype(i)::value + 1;
        if (n == vecs_wanted) found = {far ? add_rows<n, true> : add_rows<n, false>, add_values<n>, add_inside<n>};
    });
    return found;
}

// Appends n entries: rows of weights, numbers plus base, and their patterns. Up to 15 more are written past them.
static inline int64_t append(const uint32_t* number, const uint32_t* pattern, int64_t n, uint32_t base, uint32_t* row,
                             uint32_t* row_pattern) {
    for (int64_t i = 0; i < n; i += 16) {
        for (int j = 0; j < 16; j++) row[i + j] = number[i + j] + base;
        for (int j = 0; j < 16; j++) row_pattern[i + j] = pattern[i + j];
    }
    return n;
}

}  // namespace PK_TARGET
