// How the kernels cut a layer into work: sizes, and memory that each thread owns.
#pragma once
#include <cstdint>
#include <cstdlib>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "cpu_kernels.h"

// Inner stages are compiled apart: inlined into one function, their loops run out of registers (5 % slower).
#define OUT_OF_LINE __attribute__((noinline))

namespace PK_TARGET {

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static inline int64_t rows_out(const Conv2d& c) { return c.neurons.P / c.W_out; }

// How many rows of the input lie under some output rows.
static inline int64_t input_rows(const Conv2d& c, int64_t rows) {
    return least(c.H, (rows - 1) * c.stride_h + (c.kernel_h - 1) * c.dilation_h + 1);
}

static inline int max_threads() {
#if defined(_OPENMP)
    return omp_get_max_threads();
#else
    return 1;
#endif
}

// Memory of one thread, on whole cache lines and zero at first.
template <class T>
struct Memory {
    T* data;
    explicit Memory(int64_t n) {
        const int64_t bytes = ceil_div(n * (int64_t)sizeof(T), 64) * 64;
        data = (T*)aligned_alloc(64, bytes);
        if (!data) abort();  // out of memory, and no caller inside a parallel region to tell
        memset((void*)data, 0, bytes);
    }
    ~Memory() { free((void*)data); }
    Memory(const Memory&) = delete;
};

}  // namespace PK_TARGET
