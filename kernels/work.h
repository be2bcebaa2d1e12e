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

static constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static constexpr int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static inline int64_t rows_out(const Conv2d& c) { return c.neurons.P / c.W_out; }

// How many rows of the input lie under some output rows.
static inline int64_t input_rows(const Conv2d& c, int64_t rows) {
    return least(c.H, (rows - 1) * c.stride_h + (c.kernel_h - 1) * c.dilation_h + 1);
}

// A part of some images at some time: output rows or the input rows under them, and steps.
struct Part {
    int64_t image, images, row, rows, t, steps;
};

static inline Part input_of(const Conv2d& c, const Part& out) {
    const int64_t first = out.row * c.stride_h - c.padding_h;
    const int64_t last = first + (out.rows - 1) * c.stride_h + (c.kernel_h - 1) * c.dilation_h + 1;
    Part in = out;
    in.row = least(most(first, 0), c.H);
    in.rows = most(least(last, c.H) - in.row, 0);
    return in;
}

// An output pixel of a part, by its number there.
struct Place {
    int64_t image, y, x;
    Place(const Conv2d& c, const Part& out, int64_t index)
        : image(out.image + index / (out.rows * c.W_out)), y(out.row + index / c.W_out % out.rows), x(index % c.W_out) {}
};

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

// Memory of one thread that grows when needed; what it held is lost then.
template <class T>
struct Grown {
    T* data = nullptr;
    int64_t size = 0;
    T* reserve(int64_t n) {
        if (n > size) {
            free((void*)data);
            data = (T*)aligned_alloc(64, ceil_div(n * (int64_t)sizeof(T), 64) * 64);
            if (!data) abort();  // as above
            size = n;
        }
        return data;
    }
    Grown() = default;
    ~Grown() { free((void*)data); }
    Grown(const Grown&) = delete;
};

}  // namespace PK_TARGET
