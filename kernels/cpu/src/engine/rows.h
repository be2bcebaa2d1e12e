// Sums of chosen rows of weights, in registers.
#pragma once
#include "tasks.h"

namespace PK_TARGET {

constexpr int ahead = 8;  // rows that are asked for before they are added, where they are not near

template <int64_t width>
static inline void prefetch_row(const float* row) {
    for (int64_t i = 0; i < width; i += 16) __builtin_prefetch(row + i);
}

// Adds up the rows of each bucket in registers, and their sum to the sums [step][columns] of the steps of its pattern. Where
// few registers are summed, several sums go side by side: an addition waits for the last.
template <int vecs_, bool far_>
static void add_buckets(const float* matrix, const uint32_t* rows, const Bucket* bucket, const Bucket* stop, float* sums) {
    constexpr int sets = vecs_ <= 2 ? 4 : vecs_ <= 4 ? 2 : 1;
    constexpr int64_t width = vecs_ * Vec::width;
    for (; bucket < stop; bucket++) {
        const uint32_t* const row = rows + bucket->first;
        const int64_t n = bucket->last - bucket->first;
        Vec total[sets][vecs_];
        const auto from = [&](int64_t i) { return matrix + (int64_t)row[i] * width; };
        for (int s = 0; s < sets; s++)
            for (int j = 0; j < vecs_; j++) total[s][j] = s ? broadcast(0.0f) : load(from(0) + j * Vec::width);
        int64_t i = 1;
        for (; i + sets <= n; i += sets) {
            for (int s = 0; s < sets && far_; s++) prefetch_row<width>(from(i + s + ahead));  // of the next lists, too
            for (int s = 0; s < sets; s++)
                for (int j = 0; j < vecs_; j++) total[s][j] = total[s][j] + load(from(i + s) + j * Vec::width);
        }
        for (; i < n; i++) {
            if (far_) prefetch_row<width>(from(i + ahead));
            for (int j = 0; j < vecs_; j++) total[0][j] = total[0][j] + load(from(i) + j * Vec::width);
        }
        for (int j = 0; j < vecs_; j++)
            for (int s = 1; s < sets; s++) total[0][j] = total[0][j] + total[s][j];
        for (uint32_t steps = bucket->pattern; steps; steps &= steps - 1) {
            float* const sum = sums + __builtin_ctz(steps) * columns;
            for (int j = 0; j < vecs_; j++) store(sum + j * Vec::width, load(sum + j * Vec::width) + total[0][j]);
        }
    }
}

// Adds each row of a list to the sums of the steps of its own pattern.
template <int vecs_>
static void add_alone(const float* matrix, const uint32_t* row, const uint32_t* pattern, int64_t n, float* sums) {
    constexpr int64_t width = vecs_ * Vec::width;
    for (int64_t i = 0; i < n; i++) {
        prefetch_row<width>(matrix + (int64_t)row[i + ahead] * width);
        Vec own[vecs_];
        for (int j = 0; j < vecs_; j++) own[j] = load(matrix + (int64_t)row[i] * width + j * Vec::width);
        for (uint32_t steps = pattern[i]; steps; steps &= steps - 1) {
            float* const sum = sums + __builtin_ctz(steps) * columns;
            for (int j = 0; j < vecs_; j++) store(sum + j * Vec::width, load(sum + j * Vec::width) + own[j]);
        }
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

// Adds the rows of a list, each times its value, to a sum of doubles.
template <int vecs_>
static void add_exactly(const float* matrix, const uint32_t* row, const float* value, int64_t n, double* sum) {
    constexpr int lanes = Vec::width / 2, halves = 2 * vecs_;
    typedef double Doubles __attribute__((vector_size(lanes * sizeof(double))));
    typedef float Floats __attribute__((vector_size(lanes * sizeof(float))));
    Doubles total[halves];
    memcpy(total, sum, sizeof total);
    for (int64_t i = 0; i < n; i++) {
        const float* const from = matrix + (int64_t)row[i] * (vecs_ * Vec::width);
        for (int j = 0; j < halves; j++) {
            Floats weights;
            memcpy(&weights, from + j * lanes, sizeof weights);
            total[j] += (double)value[i] * __builtin_convertvector(weights, Doubles);
        }
    }
    memcpy(sum, total, sizeof total);
}

// The same as add_values of all rows, whose values lie at offsets from x.
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
    void (*buckets)(const float*, const uint32_t*, const Bucket*, const Bucket*, float*);
    void (*alone)(const float*, const uint32_t*, const uint32_t*, int64_t, float*);
    void (*values)(const float*, const uint32_t*, const float*, int64_t, float*);
    void (*exactly)(const float*, const uint32_t*, const float*, int64_t, double*);
    void (*inside)(const float*, const float*, const int64_t*, int64_t, float*);
};

static Adders adders(int vecs_wanted, bool far) {
    Adders found{};
    each<block_vecs>([&](auto i) {
        constexpr int n = decltype(i)::value + 1;
        if (n == vecs_wanted)
            found = {far ? add_buckets<n, true> : add_buckets<n, false>, add_alone<n>, add_values<n>, add_exactly<n>,
                     add_inside<n>};
    });
    return found;
}

}  // namespace PK_TARGET
