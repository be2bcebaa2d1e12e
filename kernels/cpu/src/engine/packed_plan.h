// A network prepared for running: its operations with packed weights. A block is as many output channels as eight registers
// hold. For each input there is a contiguous row of weights to the channels of a block, so a spike reads one row and nothing
// else.
#pragma once
#if __has_include(<sys/mman.h>) && !defined(__wasm__)
#include <sys/mman.h>
#endif

#include "../conv2d/pixel_by_pixel.h"
#include "../neurons.h"
#include "engine.h"
#include "reach.h"
#include "row_kinds.h"

namespace PK_TARGET {

using engine::Description;
using engine::Input;
using engine::Operation;
using engine::Run;
using engine::Sizes;

// Whether a register can hold a lookup table (ways.h); a group then needs a multiple of `table_group` output channels.
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
// What an operation reads, with packed weights. Without groups: row tap * C_in + channel. With groups, each register of output channels has its
// own rows, for the inputs of its groups only.
struct Window : engine::Window {
    int64_t C, H, W;  // of the slot
    int64_t channel = 0;  // first channel of this input among the concatenated inputs of a move
    int64_t rows = 0;
    float* matrix = nullptr;  // [block][row][columns of the block]; with groups [register][tap][span][width]
    float* depthwise = nullptr;  // instead of `matrix`, for depthwise windows: [tap][C, padded to a multiple of 32]
    RowKind kind = RowKind::Floats;
    float* unit = nullptr;  // weight units of the channels, if rows are integers; [blocks * columns]
    int64_t span = 0;         // with groups: the largest number of inputs of a register
    int64_t bytes = 0, row_bytes = 0;  // of the matrix; of a row of the first block
    int64_t joined = 0;  // groups that can be run as one, with zeros between them; 0: none can
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

// An operation as it is described, whose tensors are copies, and what it takes to run it. Its bias is [blocks * columns], with
// zeros behind C.
struct Op : Operation {
    Window* windows = nullptr;  // instead of `reads`
    Neuron neuron{};  // the neurons for the kernels: parameters [stride] of each channel, of which the padding never fires
    bool exact = false;  // whether real values times weights are summed in double, and rounded once
    engine::Cost costs[engine::cost_count] = {};  // of Fire with weights of one input, by the kernel; infinite: it cannot run
    void* copies[most_windows + 3] = {};  // what the pointers of the description point to
    int64_t copied = 0;
    Window back{};  // recurrent neurons: the weights of their own spikes; one row of floats unless `recurrent_full`
    int64_t states = 0, state_P = 0, rows = 0;  // states per neuron; pixels of a state; rows of all windows without groups
    // Whether it is a convolution of the window `weighted` plus at most one input without weights. If so, `conv` describes it
    // to the kernels of ../conv2d, without its neurons, and `parts` counts the parts (joined groups) that have separate inputs.
    bool is_conv = false;
    int64_t weighted = 0, parts = 1;
    Conv2d conv{};
    // The weights in slices (ways.h) with their units, and the columns for lookup tables (ways.h); or null.
    char* sliced = nullptr;
    float *unit = nullptr, *tables = nullptr;
    // The weights in matrix tiles (ways.h), or null; their units, and the number of digits.
    int8_t* tiles = nullptr;
    float* tile_unit = nullptr;
    int64_t digits = 0;
    Reach* reach = nullptr;  // for a convolution that can be scattered (scatter.h)
    bool restarts = false;  // whether a spike resets the neurons to the state in which a run starts
    bool moves = false,
         spikes_that_move = false;  // whether its output is never held; whether all its inputs are spikes that are never held
    bool is_sigma_delta = false;  // whether it belongs to a network of sigma-delta neurons
    float code_unit = INFINITY;  // likewise: of values that are codes of 8 bits times it; infinity: of others
    int64_t main_window = 0;  // sigma-delta neurons: the window with the most weights per neuron
    int64_t state_size = 0, sent_size = 0;  // floats per sample: of the potentials, or of z; of a
    bool is_long = false;  // Input.is_long
    bool is_layer = false;  // Input.is_layer
    bool of_input = false;  // whether it passes on the network's input, which is spikes or values depending on the run

    // Replaces the pointer to n elements by one to a copy, padded with zeros up to `size`. If it is null, so it remains. False if
    // there is no memory.
    template <class T>
    bool copy(const T*& pointer, int64_t n, int64_t size) {
        if (!pointer) return true;
        T* const to = allocate_zeros<T>(size);
        if (to) memcpy((void*)to, pointer, (size_t)n * sizeof(T));
        copies[copied++] = to, pointer = to;
        return to;
    }
    template <class T>
    bool copy(const T*& pointer, int64_t n) {
        return copy(pointer, n, n);
    }
    // Whether its output is of the kind of its input: spikes for spikes, values for values.
    bool passes_on() const { return !is_sigma_delta && engine::passes_on(kind); }
    int64_t row_cost() const {  // the index in `costs` of the rows that its slices have
        if (conv.row_channels == FloatRows::channels) return engine::FloatRow;
        return conv.row_channels == ShortRows::channels ? engine::ShortRow : engine::ByteRow;
    }
    int64_t P() const { return H * W; }
    int64_t bytes() const { return is_sigma_delta ? C : (C + 7) / 8; }
    int64_t blocks() const { return ceil_div(C, columns); }
    // Registers of block `number`; the last block may have fewer.
    int vecs_of(int64_t number) const { return (int)least(block_vecs, ceil_div(C - number * columns, Vec::width)); }
};

struct Plan {
    Op* ops;
    int64_t count;
    Input input;
    int64_t bytes;  // of packed weights

    bool is_sigma_delta() const {
        return ops[0].kind == engine::Changes || ops[0].kind == engine::Send || ops[0].kind == engine::SendMaxima;
    }
};

// The convolution with the inputs of one of `parts` parts, and without groups.
static Conv2d part_of(Conv2d c, int64_t parts) {
    c.C_in /= parts, c.groups = 1;
    return c;
}

}  // namespace PK_TARGET
