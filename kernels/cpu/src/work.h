// How the kernels cut a layer into tasks, and the memory that each thread owns.
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

// For inner stages: inlined into one function, their loops would run out of registers (5 % slower).
#define OUT_OF_LINE __attribute__((noinline))

// A condition that must hold whatever a caller passes. Only the checked build (tests/checked_build.py) tests it.
#if defined(PK_CHECKED)
#define PK_IS_CHECKED true
#define PK_ASSERT(condition) \
    ((condition) ? (void)0 : (fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition), abort()))
#else
#define PK_IS_CHECKED false
#define PK_ASSERT(condition) ((void)0)
#endif

namespace PK_TARGET {

#if defined(__ANDROID__) && __ANDROID_API__ < 28  // before its version 9 there was none; Termux compiles for version 7
static inline void* aligned_alloc(size_t alignment, size_t size) {
    void* data = nullptr;
    return posix_memalign(&data, alignment, size) ? nullptr : data;
}
#endif

static constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static constexpr int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Calls visit for each of 0 .. n - 1, passed as an integral constant.
template <class Visit, int... i>
static inline void each_of(std::integer_sequence<int, i...>, Visit visit) {
    (visit(std::integral_constant<int, i>{}), ...);
}
template <int n, class Visit>
static inline void each(Visit visit) {
    each_of(std::make_integer_sequence<int, n>{}, visit);
}

static inline int64_t rows_out(const Conv2d& c) { return c.neurons.P / c.W_out; }

// Max pooling of a convolution's currents [H, W], whose windows do not overlap: the largest current under a window goes to its
// neuron. Without pooling each window is one pixel.
struct Pooling {
    int64_t kernel_h = 1, kernel_w = 1, stride_h = 1, stride_w = 1, padding_h = 0, padding_w = 0, H = 0, W = 0;

    int64_t taps() const { return kernel_h * kernel_w; }
    bool is_whole(const Conv2d& c) const {  // whether all windows lie inside the image
        return !padding_h && !padding_w && (rows_out(c) - 1) * stride_h + kernel_h <= H &&
               (c.W_out - 1) * stride_w + kernel_w <= W;
    }
    // The first of the rows that the windows of output row y, and later ones, look at. The last rows may be in no window.
    int64_t row_of(int64_t y, int64_t rows) const { return y < rows ? most(0, least(H, y * stride_h - padding_h)) : H; }
    // Calls visit(y, x) for the pixels under a window.
    template <class Visit>
    void each_under(int64_t y, int64_t x, Visit visit) const {
        const int64_t top = y * stride_h - padding_h, left = x * stride_w - padding_w;
        for (int64_t i = most(top, 0); i < least(top + kernel_h, H); i++)
            for (int64_t k = most(left, 0); k < least(left + kernel_w, W); k++) visit(i, k);
    }
    // The convolution `c` with the windows of its inputs that outputs of the pooling have, and the sizes of these.
    Conv2d over(Conv2d c, int64_t pooled_W) const {
        c.W_out = pooled_W;
        c.kernel_h = (kernel_h - 1) * c.stride_h + (c.kernel_h - 1) * c.dilation_h + 1, c.dilation_h = 1;
        c.kernel_w = (kernel_w - 1) * c.stride_w + (c.kernel_w - 1) * c.dilation_w + 1, c.dilation_w = 1;
        c.padding_h += padding_h * c.stride_h, c.padding_w += padding_w * c.stride_w;
        c.stride_h *= stride_h, c.stride_w *= stride_w;
        return c;
    }
};

// How many input rows `rows` output rows read.
static inline int64_t input_rows(const Conv2d& c, int64_t rows) {
    return least(c.H, (rows - 1) * c.stride_h + (c.kernel_h - 1) * c.dilation_h + 1);
}

// Bytes of x from one step to the next, and from one image to the next.
static inline int64_t x_frame(const Conv2d& c) { return c.H * c.W * ((c.C_in + 7) / 8); }
static inline int64_t x_image(const Conv2d& c) { return c.x_image ? c.x_image : c.neurons.T * x_frame(c); }

// Packed spikes in memory: those of image n, step t and pixel p are at data + n * image + t * step + p * pixel.
struct SpikeFrames {
    const uint8_t* data;
    int64_t image, step, pixel;
    const uint8_t* at(int64_t n, int64_t t, int64_t p) const { return data + n * image + t * step + p * pixel; }
};

// A region of a layer's output or input: some images, rows and steps; the first of each and their number.
struct Region {
    int64_t image, images, row, rows, t, steps;
};

static inline Region input_of(const Conv2d& c, const Region& out) {
    const int64_t first = out.row * c.stride_h - c.padding_h;
    const int64_t last = first + (out.rows - 1) * c.stride_h + (c.kernel_h - 1) * c.dilation_h + 1;
    Region in = out;
    in.row = least(most(first, 0), c.H);
    in.rows = most(least(last, c.H) - in.row, 0);
    return in;
}

// An output pixel, by its index within a region.
struct Place {
    int64_t image, y, x;
    Place() = default;
    Place(const Conv2d& c, const Region& out, int64_t index)
        : image(out.image + index / (out.rows * c.W_out)), y(out.row + index / c.W_out % out.rows), x(index % c.W_out) {}
};

constexpr int64_t worth_threads = 1 << 17;  // from that many bytes on (or work that takes as long), more threads are faster

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

// How a kernel handles a segment, which is a number of successive steps: sizes from which the work is cut.
struct Segment {
    int64_t steps, uses;    // steps; pixels times steps for which weights are used before the next ones are fetched
    int64_t place_entries;  // entries of the lists (or words) of an output pixel
    int64_t pixel_lists, band_lists;  // lists (or words) of an input pixel; the most of the input of a task
};

// How the work of a kernel is cut into tasks: bands of output rows of one image, or several whole images if images are small;
// if these are too few for the threads, also spans of output channels.
struct Cut {
    int64_t steps, places;                 // steps of a segment; output pixels for which weights are used at a time
    int64_t images, batches, rows, bands;  // images of a task; batches of images; output rows of a task; bands of an image
    int64_t channels, spans;               // output channels of a task; spans of them
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
    Region part(const Conv2d& c, int64_t task) const {
        const int64_t band = task / spans % bands;
        Region out{task / spans / bands * images, 0, band * rows, 0, 0, 0};
        out.images = least(images, c.neurons.N - out.image);
        out.rows = least(rows, rows_out(c) - out.row);
        return out;
    }
    int64_t first_channel(int64_t task) const { return task % spans * channels; }
};

// Whether the machine has that much memory. Systems allocate more than they have, and kill a process that writes to it.
static inline bool machine_has(int64_t bytes) {
    constexpr int64_t little = 1 << 28;
    if (bytes > (int64_t)PTRDIFF_MAX) return false;  // where addresses have 32 bits
#if defined(_SC_PHYS_PAGES)
    if (bytes > little) {
        const int64_t pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
        return pages <= 0 || page <= 0 || bytes / page < pages;
    }
#endif
    return bytes >= 0;
}

// Allocates n elements, aligned to a cache line; null if there is no memory. The size is a multiple of a line, except in the
// checked build, which allocates exactly n and so finds accesses past the end.
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

// The same inside a parallel region, which cannot report to a caller that memory has run out: it ends the process.
template <class T>
static T* allocate(int64_t n) {
    T* const data = try_allocate<T>(n);
    if (!data) {
        fprintf(stderr, "proxykernels: no memory for %lld bytes of a thread\n", (long long)n * (long long)sizeof(T));
        abort();
    }
    return data;
}

// Memory of one thread, zero-initialised.
template <class T>
struct ThreadMemory {
    T* data;
    const int64_t size;
    explicit ThreadMemory(int64_t n) : data(allocate<T>(n)), size(n) { memset((void*)data, 0, n * sizeof(T)); }
    ~ThreadMemory() { free((void*)data); }
    ThreadMemory(const ThreadMemory&) = delete;
};

// Hands out parts of one block of memory. Without a block it only counts the bytes that are needed.
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

// Memory of one thread that grows when needed; growing discards its contents (in the checked build, every call does).
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
    // Uses memory of the carver, as much as will ever be asked for, instead of its own.
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
