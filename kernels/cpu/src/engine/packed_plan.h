// A network prepared for running: its operations with packed weights. A block is as many output channels as eight registers
// hold. For each input there is a contiguous row of weights to the channels of a block, so a spike reads one row and nothing
// else.
#pragma once
#if __has_include(<sys/mman.h>) && !defined(__wasm__)
#include <sys/mman.h>
#endif

#include "../conv2d/slices.h"
#include "../conv2d/weight_rows.h"
#include "../neurons.h"
#include "engine.h"
#include "../conv2d/pixel_by_pixel.h"

namespace PK_TARGET {

// The kinds of rows in which the weights of a layer are packed (../conv2d/weight_rows.h): floats, or 16-bit or 8-bit integers
// if the weights are integer multiples of a unit, as rounded weights are. Sums of integers are no less exact than sums of
// floats. A row holds the channels of a block: as many as eight registers of floats hold.

constexpr int block_vecs = 8, columns = block_vecs * Vec::width;  // registers and output channels of a block of rows

enum class RowKind { Floats, Shorts, Bytes };

// Rows for a block of as many channels as n registers of floats hold, or a few more. `group_`: rows added at a time. Block
// sizes whose rows are equally long share a type, so that the code exists once.
template <class Rows, int group_>
struct BlockRows : Rows {
    static constexpr int group = group_;
};
constexpr int float_group(int n) { return n <= 2 ? 4 : n <= 4 ? 2 : 1; }  // more sums hide the latency of the addition
template <int n>
using BlockFloats = BlockRows<FloatRowsOf<n>, float_group(n)>;
template <int n>
using BlockShorts = BlockRows<ShortRowsOf<(n + 1) / 2>, 4>;
template <int n>
using BlockBytes = BlockRows<ByteRowsOf<(n + 3) / 4>, 4>;
constexpr int most_group = 4;

// Calls visit with a value of the type of rows of that kind, for a block of `vecs_wanted` registers of floats.
template <class Visit>
static void with_block_rows(RowKind kind, int vecs_wanted, Visit visit) {
    each<block_vecs>([&](auto i) {
        constexpr int n = decltype(i)::value + 1;
        if (n != vecs_wanted) return;
        if (kind == RowKind::Bytes) visit(BlockBytes<n>{});
        else if (kind == RowKind::Shorts) visit(BlockShorts<n>{});
        else visit(BlockFloats<n>{});
    });
}

// Packs weights [channels, C, taps] in rows tap * C + c, followed by one row that adds nothing. `unit`: the units of the
// channels; null for rows of floats.
template <class Rows>
OUT_OF_LINE static void pack_block(const float* weight, int64_t channels, int64_t C, int64_t taps, const float* unit,
                                   char* to) {
    constexpr int64_t together = 16;  // channels at a time, whose weights stay in a cache
    const int64_t inputs = C * taps, filled = channels == Rows::channels ? inputs : 0;
    memset(to + filled * Rows::bytes, Rows::nothing, (inputs + 1 - filled) * Rows::bytes);
    for (int64_t o = 0; o < channels; o += together) {
        const int64_t some = least(together, channels - o);
        float scale[together];
        for (int64_t k = 0; k < some; k++) scale[k] = unit ? 1.0f / unit[o + k] : 1.0f;  // units are powers of two: exact
        const float *from = weight + o * inputs, *const stop = from + inputs;
        for (int64_t row = 0; from < stop; from++) {
#if !defined(__clang__)  // GCC would unroll it fully
#pragma GCC unroll 8
#endif
            for (int64_t k = 0; k < some; k++) Rows::put(to + row * Rows::bytes, (int)(o + k), from[k * inputs] * scale[k]);
            row += row + C < inputs ? C : C + 1 - inputs;
        }
    }
}

// The kind of rows for given weights. Integers are used only if their row then takes fewer registers than a row of floats.
static RowKind row_kind_of(const float* weight, int64_t C, int64_t inputs, float* unit) {
    const int64_t channels = C > Vec::width ? row_channels(weight, C, inputs, unit) : FloatRows::channels;
    return channels == ByteRows::channels    ? RowKind::Bytes
           : channels == ShortRows::channels ? RowKind::Shorts
                                             : RowKind::Floats;
}

// Bytes of the sum of one block of rows.
static int64_t sum_bytes(const Conv2d& c) {
    int64_t bytes = 0;
    with_rows(c, [&](auto rows) {
        using Rows = decltype(rows);
        bytes = Rows::channels * (int64_t)sizeof(typename Rows::Number);
    });
    return bytes;
}

// Precomputed facts about a layer for scattering (scatter.cpp): the outputs that each input reaches, and whether neurons without
// input change.

constexpr int64_t most_reached = 1 << 21;  // limit of inputs * kernel size, per axis

// n adjacent outputs along one axis, from `at` on, and the offset of the weights of the first.
struct Reached {
    int64_t at, n, weights;
};

// The outputs reached by each input along one axis.
struct Side {
    uint32_t* first = nullptr;  // [inputs + 1]
    Reached* reached = nullptr;  // ascending for each input
    int64_t all = 0;  // outputs reached, summed over all inputs

    // `weights`: the offset of each tap's weights; `next`: from the weights of an output to those of the next output. False if
    // there is no memory.
    bool find(int64_t inputs, int64_t outputs, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation,
              const int64_t* weights, int64_t next) {
        first = try_allocate<uint32_t>(inputs + 1), reached = try_allocate<Reached>(inputs * kernel);
        if (!first || !reached) return false;
        uint32_t n = 0;
        for (int64_t i = 0; i < inputs; i++) {
            first[i] = n;
            for (int64_t tap = kernel - 1; tap >= 0; tap--) {
                const int64_t from = i + padding - tap * dilation, at = from / stride;
                if (from < 0 || from % stride || at >= outputs) continue;
                all++;
                Reached* const last = n > first[i] ? reached + n - 1 : nullptr;
                if (last && last->at + last->n == at && last->weights + last->n * next == weights[tap]) last->n++;
                else reached[n++] = {at, 1, weights[tap]};
            }
        }
        first[inputs] = n;
        return true;
    }
};

struct Reach {
    Side rows, columns;
    // [1 + parameters of a channel + 1][period]: bias, neuron parameters and calm potential (calm_below), repeated channel by
    // channel
    float* pattern = nullptr;
    int64_t period = 0;  // the least multiple of the channels that is a multiple of a register
    const float* calm = nullptr;  // [period]
    // [row of taps][input][tap][output]; the taps of a row are ordered so that adjacent outputs have adjacent weights.
    float* weights = nullptr;
    double outputs = 0;  // reached by an input, on average
    // Whether neurons without input cannot fire, unless they were already above threshold; whether their potentials decay.
    bool waits = false, leaks = false;
    bool drifts = false;  // whether neurons without input change only by their biases

    ~Reach() { free(rows.first), free(rows.reached), free(columns.first), free(columns.reached), free(pattern), free(weights); }
};

// Bits of a channel's number: an entry of a list is pixel << bits | channel.
static inline int64_t channel_bits(int64_t C) {
    int64_t bits = 0;
    while (int64_t(1) << bits < C) bits++;
    return bits;
}
static inline bool can_be_listed(int64_t C, int64_t P) { return C <= 1 << 16 && P << channel_bits(C) <= UINT32_MAX; }

// Whether only input can move neurons over their thresholds: biases are zero, and potentials stay or decay to 0.
static inline bool neurons_wait(const Neuron& n, const float* bias, int64_t C) {
    const bool leaks = n.model == models::LeakyHardReset || n.model == models::LeakySoftReset;
    if (!leaks && n.model != models::HardReset && n.model != models::SoftReset) return false;
    if (leaks && n.scalars[n.model == models::LeakyHardReset] != 0) return false;  // v_rest
    for (int64_t c = 0; c < C; c++) {
        if (bias[c] != 0) return false;
        const float decay = leaks ? n.channels[n.stride + c] : 1;
        if (leaks && !(n.channels[c] > 0 && decay >= 0 && decay <= 1)) return false;
    }
    return true;
}

// Orders the taps of a row so that an output's tap comes right after that of the output before it.
static inline void place_taps(int64_t kernel, int64_t stride, int64_t dilation, int64_t* place) {
    int64_t apart = 1;  // distance between successive taps of one input
    while (apart * dilation % stride) apart++;
    int64_t n = 0;
    for (int64_t phase = 0; phase < least(apart, kernel); phase++)
        for (int64_t tap = (kernel - 1 - phase) / apart * apart + phase; tap >= 0; tap -= apart) place[tap] = n++;
}

constexpr uint32_t nap =
    PK_IS_CHECKED ? 2 : 16;  // steps, a power of two; few in the checked build, whose tests have large biases

// A neuron whose potential is below the returned one cannot fire within `nap` steps in which only its bias is added. Rounded
// addition is monotonic, so it is enough to check the highest such potential.
static inline float calm_below(float theta, float bias) {
    if (bias <= 0) return theta;
    const float calm = theta - (float)(nap + 1) * bias;
    float v = nextafterf(calm, -INFINITY);
    for (uint32_t t = 0; t < nap; t++) v += bias;
    return v < theta ? calm : -INFINITY;
}

// Fills `pattern`, so that it lines up with the channels of adjacent pixels. False if there is no memory.
static inline bool repeat_channels(Reach& reach, const Neuron& n, int64_t parameters, const float* bias, int64_t C) {
    reach.period = C;
    while (reach.period % Vec::width) reach.period += C;
    reach.pattern = try_allocate<float>((2 + parameters) * reach.period);
    for (int64_t i = 0; i < reach.period && reach.pattern; i++) {
        float* const to = reach.pattern + i;
        *to = bias[i % C];
        for (int64_t k = 0; k < parameters; k++) to[(1 + k) * reach.period] = n.channels[k * n.stride + i % C];
        to[(1 + parameters) * reach.period] = calm_below(n.channels[i % C], bias[i % C]);
    }
    reach.calm = reach.pattern + (1 + parameters) * reach.period;
    return reach.pattern;
}

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
    int64_t span = 0;  // with groups: the largest number of inputs of a register
    int64_t bytes = 0, row_bytes = 0;  // of the matrix; of a row of the first block
    int64_t joined = 0;  // groups that can be run as one, with zeros between them; 0: none can
    bool by_channel = false;  // sigma-delta neurons: whether the window is depthwise
    float scale = 0;  // likewise: of a window that passes on its input times it; 0: of others

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
    bool has_one_conv = false;  // the same of neurons of any kind, with any number of inputs without weights
    int64_t most_number = 0;  // what it gives are whole numbers from 0 to this one; 0: not known
    float threshold_behind = 0;  // the least threshold of the neurons that what it gives is added to; 0: anything else reads it
    int64_t weighted = 0, parts = 1;
    Conv2d conv{};
    // The weights in slices (ways.h) with their units, and the columns for lookup tables (ways.h); or null.
    char* sliced = nullptr;
    float *unit = nullptr, *tables = nullptr;
    // The weights in matrix tiles (ways.h), or null; their units, and the number of digits.
    int8_t* tiles = nullptr;
    float* tile_unit = nullptr;
    int64_t digits = 0;
    // This operation with rows of integers, for runs whose input is spikes, if the network's input may also be values, which take
    // rows of floats. It has windows of its own, and shares everything else. Null: there is none.
    Op* for_spikes = nullptr;
    Reach* reach = nullptr;  // for a convolution that can be scattered (scatter.cpp)
    // The convolution and the pooling whose largest currents these neurons take, and a convolution with these neurons, for
    // slices. A run need not write what the two give (fire.cpp). Null for other operations.
    struct Maxima* maxima = nullptr;
    int64_t maxima_of = -1;  // of such a convolution: the number of the neurons
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

struct Maxima {
    int64_t conv = 0, pool = 0;
    Op op;
};

struct Plan {
    Op* ops;
    int64_t count;
    Input input;
    int64_t bytes;  // of packed weights
    bool has_tiles;  // whether the processor multiplies matrix tiles

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
