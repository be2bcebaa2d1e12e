// How the kernels cut a layer into work: sizes, and memory that each thread owns.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unistd.h>
#include <utility>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "abi.h"

// Inner stages are compiled apart: inlined into one function, their loops run out of registers (5 % slower).
#define OUT_OF_LINE __attribute__((noinline))

// What must hold, whatever a caller passes: looked at in the checked build (tests/checked_build.py) only.
#if defined(PK_CHECKED)
#define PK_IS_CHECKED true
#define PK_ASSERT(condition) \
    ((condition) ? (void)0 : (fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition), abort()))
#else
#define PK_IS_CHECKED false
#define PK_ASSERT(condition) ((void)0)
#endif

namespace PK_TARGET {

static constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static constexpr int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Calls visit with each of 0 .. n - 1 as a constant of its own type.
template <class Visit, int... i>
static inline void each_of(std::integer_sequence<int, i...>, Visit visit) {
    (visit(std::integral_constant<int, i>{}), ...);
}
template <int n, class Visit>
static inline void each(Visit visit) {
    each_of(std::make_integer_sequence<int, n>{}, visit);
}

static inline int64_t rows_out(const Conv2d& c) { return c.neurons.P / c.W_out; }

// How many rows of the input lie under some output rows.
static inline int64_t input_rows(const Conv2d& c, int64_t rows) {
    return least(c.H, (rows - 1) * c.stride_h + (c.kernel_h - 1) * c.dilation_h + 1);
}

// Bytes of x from one step to the next, and from one image to the next.
static inline int64_t x_frame(const Conv2d& c) { return c.H * c.W * ((c.C_in + 7) / 8); }
static inline int64_t x_image(const Conv2d& c) { return c.x_image ? c.x_image : c.neurons.T * x_frame(c); }

// Packed spikes, of image n, step t and pixel p at data + n image + t step + p pixel.
struct SpikeFrames {
    const uint8_t* data;
    int64_t image, step, pixel;
    const uint8_t* at(int64_t n, int64_t t, int64_t p) const { return data + n * image + t * step + p * pixel; }
};
static inline SpikeFrames frames_of(const Conv2d& c) { return {c.x, x_image(c), x_frame(c), (c.C_in + 7) / 8}; }

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
    Place() = default;
    Place(const Conv2d& c, const Part& out, int64_t index)
        : image(out.image + index / (out.rows * c.W_out)), y(out.row + index / c.W_out % out.rows), x(index % c.W_out) {}
};

constexpr int64_t worth_threads = 1 << 17;  // bytes of a pass over memory, or as long a work, that a second thread shortens

inline int64_t max_threads() {
#if defined(_OPENMP)
    return omp_get_max_threads();
#else
    return 1;
#endif
}

// The number of the calling thread within its parallel region.
static inline int64_t thread_number() {
#if defined(_OPENMP)
    return omp_get_thread_num();
#else
    return 0;
#endif
}

// Some steps, and what a kernel keeps for them.
struct Segment {
    int64_t steps, uses;    // steps; pixels times steps that weights are used for before the next are fetched
    int64_t place_entries;  // of the lists, or words, of an output pixel
    int64_t pixel_lists, band_lists;  // lists, or words, of an input pixel; of the input of a task, at most
};

// How the work of a kernel is cut: bands of output rows of one image, or several whole images where these are small; where
// that is too little for the threads, spans of output channels.
struct Cut {
    int64_t steps, places;                 // of a segment; output pixels that weights are used for at a time
    int64_t images, batches, rows, bands;  // of a task; in all
    int64_t channels, spans;
    int64_t tasks;

    Cut(const Conv2d& c, const Segment& segment, int64_t block_channels, int64_t threads) : steps(segment.steps) {
        constexpr int64_t group_entries = 1 << 22;
        const Neurons& n = c.neurons;
        const int64_t wanted = 2 * threads, out_rows = rows_out(c);
        places = most(1, least(ceil_div(segment.uses, steps), group_entries / segment.place_entries));
        images = most(1, least(n.N, places / most(1, n.P)));
        batches = ceil_div(n.N, images);
        images = ceil_div(n.N, most(1, batches));
        const int64_t for_threads = ceil_div(out_rows, ceil_div(wanted, most(batches, 1)));
        const int64_t row_lists = segment.pixel_lists * c.W * least(c.stride_h, c.H);  // a stride may be any number
        const int64_t for_cache = segment.band_lists / most(1, row_lists);
        rows = images > 1 ? out_rows : most(1, least(for_threads, for_cache));
        bands = ceil_div(out_rows, rows);
        const int64_t blocks = ceil_div(n.C, block_channels);
        channels = ceil_div(blocks, least(blocks, ceil_div(wanted, most(1, batches * bands)))) * block_channels;
        spans = ceil_div(n.C, channels);
        tasks = batches * bands * spans;
    }
    Part part(const Conv2d& c, int64_t task) const {
        const int64_t band = task / spans % bands;
        Part out{task / spans / bands * images, 0, band * rows, 0, 0, 0};
        out.images = least(images, c.neurons.N - out.image);
        out.rows = least(rows, rows_out(c) - out.row);
        return out;
    }
    int64_t first_channel(int64_t task) const { return task % spans * channels; }
};

// Whether the machine has so many bytes. Systems promise more, and end the process that writes to them.
static inline bool machine_has(int64_t bytes) {
    constexpr int64_t little = 1 << 28;
    if (bytes > (int64_t)PTRDIFF_MAX) return false;  // of addresses of 32 bits
#if defined(_SC_PHYS_PAGES)
    if (bytes > little) {
        const int64_t pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
        return pages <= 0 || page <= 0 || bytes / page < pages;
    }
#endif
    return bytes >= 0;
}

// n elements on a cache line of their own; null if there is no memory. Whole lines, but exactly n in the checked build, which
// then finds what is read or written past the end.
template <class T>
static T* try_allocate(int64_t n) {
    if (n < 0 || n > INT64_MAX / 2 / (int64_t)sizeof(T) || !machine_has(n * (int64_t)sizeof(T))) return nullptr;
    const size_t size = (size_t)n * sizeof(T);
    void* data = nullptr;
#if defined(PK_CHECKED)
    if (posix_memalign(&data, 64, size)) return nullptr;
#else
    data = aligned_alloc(64, (size / 64 + 1) * 64);
#endif
    return (T*)data;
}

// The same inside a parallel region, where there is no caller to tell that memory is out.
template <class T>
static T* allocate(int64_t n) {
    T* const data = try_allocate<T>(n);
    if (!data) {
        fprintf(stderr, "proxykernels: no memory for %lld bytes of a thread\n", (long long)n * (long long)sizeof(T));
        abort();
    }
    return data;
}

// Memory of one thread, zero at first.
template <class T>
struct Memory {
    T* data;
    const int64_t size;
    explicit Memory(int64_t n) : data(allocate<T>(n)), size(n) { memset((void*)data, 0, n * sizeof(T)); }
    ~Memory() { free((void*)data); }
    Memory(const Memory&) = delete;
};

// Hands out parts of one piece of memory; without memory, only counts.
struct Carver {
    char* memory;
    int64_t bytes = 0;
    template <class T>
    T* take(int64_t n) {
        char* const at = memory ? memory + bytes : nullptr;
        bytes += ceil_div(n * (int64_t)sizeof(T), 64) * 64;
        return (T*)at;
    }
};

// Memory of one thread that grows when needed; what it held is lost then (in the checked build, always).
template <class T>
struct Grown {
    T* data = nullptr;
    int64_t size = 0, lent = 0;
    T* reserve(int64_t n) {
        PK_ASSERT(!lent || n <= lent);
        if (n > size || PK_IS_CHECKED) {
            give_back();
            data = allocate<T>(n);
            size = n;
        }
        return data;
    }
    // The same; null if there is no memory.
    T* try_reserve(int64_t n) {
        if (n > size || !data) {
            give_back();
            data = try_allocate<T>(n);
            size = data ? n : 0;
        }
        return data;
    }
    // Somebody else's memory, which is as much as will be asked for.
    void borrow(Carver& carver, int64_t n) {
        data = carver.take<T>(n);
        size = lent = n;
        is_lent = true;
    }
    Grown() = default;
    ~Grown() { give_back(); }
    Grown(const Grown&) = delete;

private:
    bool is_lent = false;

    void give_back() {
        if (!is_lent) free((void*)data);
        is_lent = false;
    }
};

}  // namespace PK_TARGET
