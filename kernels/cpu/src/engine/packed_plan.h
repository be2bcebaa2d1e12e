// A network prepared for running: its operations with packed weights. A block is as many output channels as eight registers
// hold. For each input there is a contiguous row of weights to the channels of a block, so a spike reads one row and nothing
// else.
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

// Whether a register can hold a lookup table (lookup_way.h); a group then needs a multiple of `table_group` output channels.
constexpr int64_t table_group = 8;
#if defined(__AVX512F__)
constexpr bool has_tables = true;
#else
constexpr bool has_tables = false;
#endif
constexpr int64_t overhang = 64;  // spare elements behind lists, which are read and written in whole vectors

// Large arrays go on huge pages, if the system has them, since rows are read in random order and each page needs a TLB entry.
// Null if there is no memory; like every allocation of the engine, it never ends the process.
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
// Copies n elements and pads them with zeros up to `size`. If `from` is null, so is the copy. False if there is no memory.
template <class T>
static bool copy_of(const T* from, int64_t n, int64_t size, T*& copy) {
    if (!from) return true;
    copy = allocate_zeros<T>(size);
    if (copy) memcpy((void*)copy, from, (size_t)n * sizeof(T));
    return copy;
}

// A Term with packed weights. Without groups: row tap * C_in + channel. With groups, each register of output channels has its
// own rows, for the inputs of its groups only.
struct Window : engine::Term {
    int64_t C, H, W;  // of the slot
    int64_t channel = 0;  // first channel of this input among the concatenated inputs of a move
    int64_t rows = 0;
    float* matrix = nullptr;  // [block][row][columns of the block]; with groups [register][tap][span][width]
    float* depthwise = nullptr;  // instead of `matrix`, for depthwise windows: [tap][C, padded to a multiple of 32]
    RowKind kind = RowKind::Floats;
    float* unit = nullptr;  // weight units of the channels, if rows are integers; [blocks * columns]
    int64_t span = 0;         // with groups: the largest number of inputs of a register
    int64_t bytes = 0, row_bytes = 0;  // of the matrix; of a row of the first block
    float* bias_copy = nullptr;
    bool by_channel = false;  // sigma-delta neurons: whether the window is depthwise

    int64_t taps() const { return kernel_h * kernel_w; }
    bool is_depthwise(int64_t C_out) const { return groups > 1 && groups == C && C == C_out; }
    // The rows of a block; behind them is one row that adds nothing.
    char* block(int64_t b) const { return (char*)matrix + b * (rows + 1) * row_bytes; }
    // With groups: the range of inputs of register `vec` of output channels.
    int64_t first_input(int64_t vec, int64_t C_out) const { return vec * Vec::width / (C_out / groups) * (C / groups); }
    int64_t last_input(int64_t vec, int64_t C_out) const {
        return (least((vec + 1) * Vec::width, C_out) - 1) / (C_out / groups) * (C / groups) + C / groups;
    }
};

struct Op : Operation {
    Window* windows = nullptr;
    float *parameters = nullptr, *start_copy = nullptr, *bias_copy = nullptr;  // bias: [blocks * columns]
    int64_t *pixels_copy = nullptr, *channels_copy = nullptr, *delays_copy = nullptr;
    float *limit_copy = nullptr, *scale_copy = nullptr;
    Window back{};  // recurrent neurons: the weights of their own spikes; one row of floats unless `recurrent_full`
    int64_t states = 0, state_P = 0, rows = 0;  // states per neuron; pixels of a state; rows of all windows without groups
    // Whether it is a convolution of the window `weighted` plus at most one input without weights. If so, `conv` describes it
    // to the kernels of ../conv2d, without its neurons, and `parts` counts the parts (joined groups) that have separate inputs.
    bool is_conv = false;
    int64_t weighted = 0, parts = 1;
    Conv2d conv{};
    // The weights in slices (sliced_way.h) with their units, and the columns for lookup tables (lookup_way.h); or null.
    char* sliced = nullptr;
    float *unit = nullptr, *tables = nullptr;
    // The weights in matrix tiles (tiles_way.h), or null; their units, and the number of digits.
    int8_t* tiles = nullptr;
    float* tile_unit = nullptr;
    int64_t digits = 0;
    Reach* reach = nullptr;  // for a convolution that can be scattered (scatter.h)
    bool restarts = false;  // whether a spike resets the neurons to the state in which a run starts
    bool moves = false,
         spikes_that_move = false;  // whether its output is never held; whether all its inputs are spikes that are never held
    bool changes = false;  // whether it belongs to a network of sigma-delta neurons
    int64_t main_window = 0;  // sigma-delta neurons: the window with the most weights per neuron
    int64_t state_size = 0, sent_size = 0;  // floats per sample: of the potentials, or of z; of a
    bool of_input = false;  // whether it passes on the network's input, which is spikes or values depending on the run

    // Whether its output is of the kind of its input: spikes for spikes, values for values.
    bool passes_on() const {
        if (changes) return false;
        return kind == engine::MaxPool || kind == engine::Flatten || kind == engine::Unflatten || kind == engine::Move ||
               kind == engine::Delay;
    }
    int64_t row_line() const {  // the index in `lines` of the rows that its slices have
        if (conv.row_channels == FloatRows::channels) return engine::FloatRow;
        return conv.row_channels == ShortRows::channels ? engine::ShortRow : engine::ByteRow;
    }
    int64_t P() const { return H * W; }
    int64_t bytes() const { return changes ? C : (C + 7) / 8; }
    int64_t blocks() const { return ceil_div(C, columns); }
    // Registers of block `number`; the last block may have fewer.
    int vecs_of(int64_t number) const { return (int)least(block_vecs, ceil_div(C - number * columns, Vec::width)); }
};

struct Plan {
    Op* ops;
    int64_t count;
    Input input;
    int64_t bytes;  // of packed weights

    bool changes() const { return ops[0].kind == engine::Changes; }
};

// The convolution with the inputs of one of `parts` parts, and without groups.
static Conv2d part_of(Conv2d c, int64_t parts) {
    c.C_in /= parts, c.groups = 1;
    return c;
}

}  // namespace PK_TARGET
