// A network as it is run: its operations, with their weights packed. Rows of weights, one for each input, are contiguous over
// the output channels of a block: as many as eight registers hold. So a spike costs one row, and nothing else is read.
#pragma once
#if __has_include(<sys/mman.h>) && !defined(__wasm__)
#include <sys/mman.h>
#endif

#include "../conv2d/depthwise.h"
#include "../neurons.h"
#include "engine.h"
#include "reach.h"
#include "row_kinds.h"

namespace PK_TARGET {

using engine::Input;
using engine::Operation;
using engine::Run;
using engine::Sizes;

// Whether registers hold tables (lookup_way.h), and output channels of which a group then has a multiple.
constexpr int64_t table_group = 8;
#if defined(__AVX512F__)
constexpr bool has_tables = true;
#else
constexpr bool has_tables = false;
#endif
constexpr int64_t overhang = 64;  // elements past the end of lists, which are read and written in whole vectors

// Large ones on huge pages, where the system has them: rows lie everywhere, and each page has its cost. Null if there is no
// memory, like all that allocates here: nothing in the engine ends the process.
template <class T>
static T* allocate_large(int64_t n) {
    constexpr int64_t huge = 1 << 21;
    const int64_t size = n * (int64_t)sizeof(T);
    if (size < huge || PK_IS_CHECKED) return try_allocate<T>(n);
    if (!machine_has(size)) return nullptr;
    void* data = aligned_alloc(huge, (size_t)(ceil_div(size, huge) * huge));
#if defined(MADV_HUGEPAGE)
    if (data) madvise(data, (size_t)size, MADV_HUGEPAGE);
#endif
    return (T*)data;
}
template <class T>
static T* allocate_zeros(int64_t n) {
    T* const data = allocate_large<T>(n);
    if (data) memset((void*)data, 0, (size_t)n * sizeof(T));
    return data;
}
// A copy of n elements, with zeros behind them up to `size`; of null null. False if there is no memory.
template <class T>
static bool copy_of(const T* from, int64_t n, int64_t size, T*& copy) {
    if (!from) return true;
    copy = allocate_zeros<T>(size);
    if (copy) memcpy((void*)copy, from, (size_t)n * sizeof(T));
    return copy;
}

// A Term, with its weights in rows: row tap * C_in + channel. With groups each register of output channels has rows of its
// own, of the inputs of its groups alone.
struct Window : engine::Term {
    int64_t C, H, W;  // of the slot
    int64_t channel = 0;  // of a move: how many the windows before it have
    int64_t rows = 0;
    float* matrix = nullptr;  // [block][row][columns of the block]; with groups [register][tap][span][width]
    float* depthwise = nullptr;  // in its place, of groups of one channel: [tap][C, a multiple of 32]
    RowKind kind = RowKind::Floats;
    float* unit = nullptr;  // of the channels, if rows are of integers; [blocks * columns]
    int64_t span = 0;         // with groups: inputs of a register, at most
    int64_t bytes = 0, row_bytes = 0;  // of the matrix; of a row of the first block
    float* bias_copy = nullptr;
    bool by_channel = false;  // of sigma-delta neurons

    int64_t taps() const { return kernel_h * kernel_w; }
    bool is_depthwise(int64_t C_out) const { return groups > 1 && groups == C && C == C_out; }
    // The rows of a block, and one more that adds nothing.
    char* block(int64_t b) const { return (char*)matrix + b * (rows + 1) * row_bytes; }
    // With groups: the inputs of a register of output channels, of C_out in all.
    int64_t first_input(int64_t vec, int64_t C_out) const { return vec * Vec::width / (C_out / groups) * (C / groups); }
    int64_t last_input(int64_t vec, int64_t C_out) const {
        return (least((vec + 1) * Vec::width, C_out) - 1) / (C_out / groups) * (C / groups) + C / groups;
    }
};

struct Step : Operation {
    Window* windows = nullptr;
    float *parameters = nullptr, *start_copy = nullptr, *bias_copy = nullptr;  // bias [blocks * columns]
    int64_t *pixels_copy = nullptr, *channels_copy = nullptr, *delays_copy = nullptr;
    float *limit_copy = nullptr, *scale_copy = nullptr;
    Window back{};  // of recurrent neurons: their own spikes, and its rows; without `recurrent_full` one row of floats
    int64_t states = 0, state_P = 0, rows = 0;  // of a neuron; pixels of a state; of all windows without groups
    // Whether it is a convolution, of the window `weighted`, and at most one input that adds as it is; what kernels of ../conv2d
    // make of it, without its neurons; how many parts of its channels have inputs of their own, which are groups that are joined.
    bool is_conv = false;
    int64_t weighted = 0, parts = 1;
    Conv2d conv{};
    // The weights in slices (sliced_way.h), and their units; what tables are made of (lookup_way.h); or null.
    char* sliced = nullptr;
    float *unit = nullptr, *tables = nullptr;
    // In matrix tiles (tiles_way.h), or null; their units and digits.
    int8_t* tiles = nullptr;
    float* tile_unit = nullptr;
    int64_t digits = 0;
    Reach* reach = nullptr;  // of a convolution that can be scattered (scatter.h)
    bool restarts = false;  // whether neurons begin each run as they begin anew after a spike
    bool moves = false,
         spikes_that_move = false;  // whether what it gives is never held; whether all that it reads is such spikes
    bool changes = false;  // whether it is one of a network of sigma-delta neurons
    int64_t main_window = 0;  // of those: that with the most weights of a neuron
    int64_t state_size = 0, sent_size = 0;  // of a sample: potentials, or z; and a
    bool of_input = false;  // whether it passes on what the network is given: spikes or values, as a run has them

    // Whether it gives spikes where it reads spikes, and values where it reads values.
    bool passes_on() const {
        if (changes) return false;
        return kind == engine::MaxPool || kind == engine::Flatten || kind == engine::Unflatten || kind == engine::Move ||
               kind == engine::Delay;
    }
    int64_t row_line() const {  // of engine::Line: of its slices
        if (conv.row_channels == FloatRows::channels) return engine::FloatRow;
        return conv.row_channels == ShortRows::channels ? engine::ShortRow : engine::ByteRow;
    }
    int64_t P() const { return H * W; }
    int64_t bytes() const { return changes ? C : (C + 7) / 8; }
    int64_t blocks() const { return ceil_div(C, columns); }
    // Registers of a block: the last has fewer.
    int vecs_of(int64_t number) const { return (int)least(block_vecs, ceil_div(C - number * columns, Vec::width)); }
};

struct Plan {
    Step* steps;
    int64_t count;
    Input input;
    int64_t bytes;  // of weights

    bool changes() const { return steps[0].kind == engine::Changes; }
};

// A part of the channels, for its inputs.
static Conv2d part_of(Conv2d c, int64_t parts) {
    c.C_in /= parts, c.groups = 1;
    return c;
}

}  // namespace PK_TARGET
