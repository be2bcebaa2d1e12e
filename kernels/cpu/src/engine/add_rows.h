// Sums of chosen rows of weights, in registers.
#pragma once
#include "tasks.h"

namespace PK_TARGET {

// Prefetches a row some entries before it is added. Used where the matrix is too large for the second-level cache.
template <class Rows>
static inline void prefetch_row(const char* matrix, const uint32_t* entry) {
    constexpr int64_t ahead = least(32, (1 << 13) / Rows::bytes);  // rows; may reach into the next list
    static_assert(ahead + Rows::group <= overhang);
    const char* const row = matrix + entry[ahead] * Rows::bytes;
    for (int64_t i = 0; i < Rows::bytes; i += 64) prefetch(row + i);
}

// Sums the rows of each bucket in registers, then adds that sum to `sums` [step][columns] at each step of the bucket's pattern.
// Rows are added in groups, so lists are padded with a row that adds nothing. Not static: all files that take its address share
// one copy.
template <class Rows, bool far>
void add_buckets(const char* matrix, const uint32_t* rows, const Bucket* bucket, const Bucket* stop, void* sums) {
    constexpr int group = Rows::group;
    for (; bucket < stop; bucket++) {
        const uint32_t *entry = rows + bucket->first, *const end = rows + bucket->last;
        const char* chosen[group];
        const auto choose = [&] {
            for (int i = 0; i < group; i++) chosen[i] = matrix + entry[i] * Rows::bytes;
            for (int i = 0; i < group && far; i++) prefetch_row<Rows>(matrix, entry + i);
            entry += group;
        };
        choose();
        typename Rows::template Adder<group> adder(nullptr, chosen);
        while (entry < end) {
            choose();
            adder.add(chosen);
        }
        const typename Rows::Sums total = adder.total(entry - rows - bucket->first);
        for (uint32_t steps = bucket->pattern; steps; steps &= steps - 1) {
            typename Rows::Number* const at = (typename Rows::Number*)sums + __builtin_ctz(steps) * columns;
            typename Rows::Sums sum;
            load_sums(at, sum);
            add(sum, total);
            store_sums(at, sum);
        }
    }
}

// Converts the sums of a block to floats, scales them by their units and adds them to the currents.
template <class Rows>
void add_whole(const void* sums, const float* unit, float* currents) {
    for (int first = 0; first < Rows::channels; first += Vec::width) {
        const Vec sum = Rows::current((const typename Rows::Number*)sums, first / Vec::width);
        store(currents + first, multiply_add(sum, load(unit + first), load(currents + first)));
    }
}

struct RowAdder {
    void (*buckets)(const char*, const uint32_t*, const Bucket*, const Bucket*, void*);
    void (*whole)(const void*, const float*, float*);
    int64_t number_bytes;  // size of one channel's sum
};

static RowAdder row_adder(RowKind kind, int vecs_wanted, bool far) {
    RowAdder found{};
    with_block_rows(kind, vecs_wanted, [&](auto rows) {
        using Rows = decltype(rows);
        found = {far ? add_buckets<Rows, true> : add_buckets<Rows, false>, add_whole<Rows>, sizeof(typename Rows::Number)};
    });
    return found;
}

// Adds the rows of each bucket, each times its value, to the sum at the bucket's step.
template <int vecs_>
static void add_values(const float* matrix, const uint32_t* row, const float* value, const Bucket* bucket, const Bucket* stop,
                       float* sums) {
    for (; bucket < stop; bucket++) {
        float* const sum = sums + __builtin_ctz(bucket->pattern) * columns;
        Vec total[vecs_];
        for (int j = 0; j < vecs_; j++) total[j] = load(sum + j * Vec::width);
        for (uint32_t i = bucket->first; i < bucket->last; i++) {
            const float* const from = matrix + (int64_t)row[i] * (vecs_ * Vec::width);
            const Vec times = broadcast(value[i]);
            for (int j = 0; j < vecs_; j++) total[j] = multiply_add(times, load(from + j * Vec::width), total[j]);
        }
        for (int j = 0; j < vecs_; j++) store(sum + j * Vec::width, total[j]);
    }
}

// Adds the listed rows, each times its value, to a sum in double.
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

// Several pixels are summed in double together, so that the weights of a row are converted once for all of them.
constexpr int exact_pixels = Vec::width >= 16 ? 8 : 4, exact_halves = 2;  // limited by the number of registers

typedef double Doubles __attribute__((vector_size(Vec::width / 2 * sizeof(double))));
static inline Doubles to_doubles(const float* from) {
#if defined(__AVX512F__)  // compilers would convert in two halves
    return (Doubles)_mm512_cvtps_pd(_mm256_loadu_ps(from));
#else
    typedef float Floats __attribute__((vector_size(Vec::width / 2 * sizeof(float))));
    Floats values;
    memcpy(&values, from, sizeof values);
    return __builtin_convertvector(values, Doubles);
#endif
}
// The product of two floats is exact in double, so a fused multiply-add gives the same sum as a separate product.
static inline Doubles add_exact_product(double a, Doubles b, Doubles sum) {
#if defined(__AVX512F__)
    return (Doubles)_mm512_fmadd_pd(_mm512_set1_pd(a), (__m512d)b, (__m512d)sum);
#elif defined(__AVX2__)
    return (Doubles)_mm256_fmadd_pd(_mm256_set1_pd(a), (__m256d)b, (__m256d)sum);
#else
    return sum + a * b;
#endif
}

// sum_exactly for `exact_halves` half registers of channels. The sums of successive pixels lie `columns` apart.
template <int vecs_>
static inline void sum_pixels_exactly(const float* matrix, const float* bias, const double* value, int64_t rows, int64_t n,
                                      float* sums) {
    constexpr int lanes = Vec::width / 2;
    Doubles total[exact_pixels][exact_halves];
    for (int j = 0; j < exact_halves; j++) {
        const Doubles start = to_doubles(bias + j * lanes);
        for (int i = 0; i < exact_pixels; i++) total[i][j] = start;
    }
    for (int64_t row = 0; row < rows; row++, value += exact_pixels, matrix += vecs_ * Vec::width)
        for (int j = 0; j < exact_halves; j++) {
            const Doubles weights = to_doubles(matrix + j * lanes);
            for (int i = 0; i < exact_pixels; i++) total[i][j] = add_exact_product(value[i], weights, total[i][j]);
        }
    for (int64_t i = 0; i < n; i++)
        for (int j = 0; j < exact_halves; j++) {
            typedef float Floats __attribute__((vector_size(lanes * sizeof(float))));
            const Floats rounded = __builtin_convertvector(total[i][j], Floats);
            memcpy(sums + i * columns + j * lanes, &rounded, sizeof rounded);
        }
}

// Adds all rows, each times its value [row][pixel], to the biases; each sum is rounded once.
template <int vecs_>
static void sum_exactly(const float* matrix, const float* bias, const double* value, int64_t rows, int64_t n, float* sums) {
    constexpr int lanes = Vec::width / 2;
    for (int j = 0; j < 2 * vecs_; j += exact_halves)
        sum_pixels_exactly<vecs_>(matrix + j * lanes, bias + j * lanes, value, rows, n, sums + j * lanes);
}

// Adds all n rows in order to a sum, each times its value x[offset[i]].
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
    void (*values)(const float*, const uint32_t*, const float*, const Bucket*, const Bucket*, float*);
    void (*exactly)(const float*, const uint32_t*, const float*, int64_t, double*);
    void (*inside)(const float*, const float*, const int64_t*, int64_t, float*);
    void (*all_exactly)(const float*, const float*, const double*, int64_t, int64_t, float*);
};

static Adders adders(int vecs_wanted) {
    Adders found{};
    each<block_vecs>([&](auto i) {
        constexpr int n = decltype(i)::value + 1;
        if (n == vecs_wanted) found = {add_values<n>, add_exactly<n>, add_inside<n>, sum_exactly<n>};
    });
    return found;
}

}  // namespace PK_TARGET
