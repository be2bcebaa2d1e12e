// A network as it is run: its operations, with their weights packed. Rows of weights, one for each input, are contiguous over
// the output channels of a block: as many as eight registers hold. So a spike costs one row, and nothing else is read.
#pragma once
#include <sys/mman.h>

#include "../conv2d/amx.h"
#include "../conv2d/depthwise.h"
#include "../neurons.h"
#include "engine.h"
#include "row_kinds.h"

namespace PK_TARGET {

using engine::Input;
using engine::Operation;
using engine::Run;
using engine::Sizes;

// Whether registers hold tables (lookup.h), and output channels of which a group then has a multiple.
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
    int64_t *pixels_copy = nullptr, *channels_copy = nullptr;
    float *limit_copy = nullptr, *scale_copy = nullptr;
    int64_t states = 0, state_P = 0, rows = 0;  // of a neuron; pixels of a state; of all windows without groups
    // Whether it is a convolution, of the window `weighted`, and at most one input that adds as it is; what kernels of ../conv2d
    // make of it, without its neurons; how many parts of its channels have inputs of their own, which are groups that are joined.
    bool is_conv = false;
    int64_t weighted = 0, parts = 1;
    Conv2d conv{};
    // The weights in slices (sliced.h), and their units; what tables are made of (lookup.h); or null.
    char* sliced = nullptr;
    float *unit = nullptr, *tables = nullptr;
    // In matrix tiles (tiles.h), or null; their units and digits.
    int8_t* tiles = nullptr;
    float* tile_unit = nullptr;
    int64_t digits = 0;
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
        return kind == engine::MaxPool || kind == engine::Flatten || kind == engine::Unflatten || kind == engine::Move;
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

// Weights [C][inputs][taps] as [block][tap][input][columns of the block]; null if there is no memory.
static float* columns_of(const float* weight, int64_t inputs, int64_t taps, const Step& step) {
    const int64_t rows = inputs * taps, last = step.blocks() - 1;
    float* const packed = allocate_large<float>((last * columns + step.vecs_of(last) * Vec::width) * rows);
    for (int64_t b = 0; b <= last && packed; b++) {
        const int64_t width = step.vecs_of(b) * Vec::width, first = b * columns;
        for (int64_t o = first; o < first + width; o += Vec::width) {  // the weights of few outputs stay in a cache
            const int64_t channels = most(0, least(Vec::width, step.C - o));
            float* to = packed + first * rows + o - first;
            for (int64_t tap = 0; tap < taps; tap++)
                for (int64_t c = 0; c < inputs; c++, to += width) {
                    const float* const from = weight + o * rows + c * taps + tap;
                    for (int64_t i = 0; i < channels; i++) to[i] = from[i * rows];
                    for (int64_t i = channels; i < Vec::width; i++) to[i] = 0;
                }
        }
    }
    return packed;
}

// Where a step reads spikes alone, rounded weights are rows of integers. False if there is no memory.
static bool pack_matrix(Window& w, const Step& step, bool spikes) {
    const int64_t last = step.blocks() - 1;
    if (step.exact && spikes) {
        w.unit = allocate_zeros<float>((last + 1) * columns);
        if (!w.unit) return false;
        w.kind = row_kind_of(w.weight, step.C, w.rows, w.unit);
        if (w.kind == RowKind::Floats) free(w.unit), w.unit = nullptr;
    }
    for (int64_t b = 0; b <= last; b++)
        with_block_rows(w.kind, step.vecs_of(b), [&](auto rows) {
            w.row_bytes = b ? w.row_bytes : rows.bytes;
            w.bytes += (w.rows + 1) * rows.bytes;
        });
    w.matrix = (float*)allocate_large<char>(w.bytes);
    if (!w.matrix) return false;
    for (int64_t b = 0; b <= last; b++)
        with_block_rows(w.kind, step.vecs_of(b), [&](auto rows) {
            const int64_t first = b * columns;
            const float* const unit = w.unit ? w.unit + first : nullptr;
            pack_block<decltype(rows)>(w.weight + first * w.rows, least(columns, step.C - first), w.C, w.taps(), unit,
                                       w.block(b));
        });
    w.weight = w.matrix;  // the caller's is not ours
    return w.matrix;
}

static bool pack_depthwise(Window& w, const Step& step) {
    w.bytes = w.taps() * ceil_div(step.C, block) * block * (int64_t)sizeof(float);
    w.depthwise = try_allocate<float>(w.bytes / (int64_t)sizeof(float));
    if (w.depthwise) pack_taps(w.weight, w.depthwise, step.C, w.taps());
    w.weight = w.depthwise;
    return w.depthwise;
}

static bool pack_groups(Window& w, const Step& step) {
    const int64_t taps = w.taps(), vecs = ceil_div(step.C, Vec::width), inputs = w.C / w.groups;
    for (int64_t j = 0; j < vecs; j++) w.span = most(w.span, w.last_input(j, step.C) - w.first_input(j, step.C));
    w.bytes = vecs * taps * w.span * Vec::width * (int64_t)sizeof(float);
    w.matrix = allocate_zeros<float>(w.bytes / (int64_t)sizeof(float));
    if (!w.matrix) return false;
    for (int64_t o = 0; o < step.C; o++) {
        const int64_t j = o / Vec::width, group = o / (step.C / w.groups), first = group * inputs - w.first_input(j, step.C);
        for (int64_t i = 0; i < inputs; i++)
            for (int64_t tap = 0; tap < taps; tap++)
                w.matrix[((j * taps + tap) * w.span + first + i) * Vec::width + o % Vec::width] =
                    w.weight[(o * inputs + i) * taps + tap];
    }
    w.weight = w.matrix;
    return true;
}

// Rows of a slice: those of all taps, of some taps that a row of the window is a multiple of, or of a part of one. `periodic`:
// whether few rows of each are added at a time.
static int64_t slice_rows_of(const Conv2d& c, bool periodic) {
    const int64_t most_rows = periodic ? most_slice_rows - 1 : 384;  // of 64 bytes
    if (c.kernel_h * c.kernel_w * c.C_in <= most_rows || c.C_in > most_rows) return most_rows;
    int64_t taps = c.kernel_w;
    while (c.kernel_w % taps || taps * c.C_in > most_rows) taps--;
    return taps * c.C_in;
}

// A part of the channels, for its inputs.
static Conv2d part_of(Conv2d c, int64_t parts) {
    c.C_in /= parts, c.groups = 1;
    return c;
}

constexpr int64_t no_memory = -1;

// Of groups that are joined the weights [C][inputs of a part][taps], those between groups zeros; null if there is no memory.
static float* join_groups(const Window& w, int64_t C) {
    const int64_t own = w.C / w.groups * w.taps();
    float* const weight = allocate_zeros<float>(C * w.joined * own);
    for (int64_t o = 0; o < C && weight; o++)
        memcpy(weight + (o * w.joined + o / (C / w.groups) % w.joined) * own, w.weight + o * own, own * sizeof(float));
    return weight;
}

// Packs the weights of a convolution in slices; returns their bytes, or no_memory.
static int64_t pack_slices(Step& step, bool periodic) {
    const Window& w = step.windows[step.weighted];
    if (!step.is_conv || step.P() == 1 || (w.groups > 1 && !w.joined)) return 0;
    Conv2d& c = step.conv;
    step.parts = w.groups > 1 ? w.groups / w.joined : 1;
    c.row_channels = row;
    if (step.exact) {
        c.unit = step.unit = allocate_zeros<float>(ceil_div(step.C, block) * block);
        if (!step.unit) return no_memory;
        c.row_channels = row_channels_of(w.weight, step.C, w.C / w.groups * w.taps(), step.unit);
        while (step.parts > 1 && step.C / step.parts % c.row_channels) c.row_channels /= 2;  // parts are whole blocks
    }
    if (c.row_channels == row) c.unit = nullptr;
    c.slice_rows = slice_rows_of(part_of(c, step.parts), periodic);
    const Conv2d part = part_of(c, step.parts);
    const int64_t bytes = ceil_div(step.C, c.row_channels) * rows_size(&part);
    float* const joined = w.groups > 1 ? join_groups(w, step.C) : nullptr;
    step.sliced = w.groups > 1 && !joined ? nullptr : try_allocate<char>(bytes);
    if (step.sliced) pack_rows(joined ? joined : w.weight, step.sliced, &part);
    free(joined);
    return step.sliced ? bytes : no_memory;
}

// Packs the weights in matrix tiles; returns their bytes, which are none where they do not fit, or no_memory.
static int64_t pack_in_tiles([[maybe_unused]] Step& step) {
#if defined(__AMX_INT8__)
    const Window& w = step.windows[step.weighted];
    if (!step.is_conv || step.P() == 1 || w.groups > 1) return 0;
    step.digits = count_digits(w.weight, step.neuron.channels, step.C, w.rows);
    if (!step.digits || std::isinf(step.lines[engine::Tiles + step.digits - 1].busy)) return 0;
    Conv2d c = step.conv;
    c.digits = step.digits;
    const int64_t bytes = ceil_div(step.C, tile_channels) * tiles_size(&c);
    step.tiles = allocate_zeros<int8_t>(bytes);
    step.tile_unit = allocate_zeros<float>(ceil_div(step.C, block) * block);
    if (!step.tiles || !step.tile_unit) return no_memory;
    pack_tiles(w.weight, step.tiles, step.tile_unit, &c);
    return bytes;
#else
    return 0;
#endif
}

// Packs what tables are made of, where they can be faster than rows; returns the bytes, or no_memory.
static int64_t pack_tables(Step& step) {
    const Window& w = step.windows[step.weighted];
    if (!has_tables || !step.is_conv || step.P() == 1 || step.tiles || w.is_depthwise(step.C)) return 0;
    if (w.groups > 1 && step.C / w.groups % table_group) return 0;
    if (step.sliced && step.lines[step.row_line()].busy <= step.lines[engine::Tables].busy) return 0;
    const int64_t inputs = w.C / w.groups;
    step.tables = columns_of(w.weight, inputs, w.taps(), step);
    return step.tables ? ceil_div(step.C, Vec::width) * Vec::width * inputs * w.taps() * (int64_t)sizeof(float) : no_memory;
}

static void find_conv(Step& step) {
    int64_t weighted = 0;
    for (int64_t i = 0; i < step.count; i++)
        if (step.windows[i].weight) step.weighted = i, weighted++;
    step.is_conv = step.kind == engine::Fire && !step.real && step.count <= 2 && weighted == 1;
    if (!step.is_conv) return;
    const Window& w = step.windows[step.weighted];
    Conv2d& c = step.conv;
    c.neurons.C = step.C, c.neurons.P = step.P(), c.groups = w.groups;
    c.C_in = w.C, c.H = w.H, c.W = w.W, c.W_out = step.W;
    c.kernel_h = w.kernel_h, c.kernel_w = w.kernel_w, c.stride_h = w.stride_h, c.stride_w = w.stride_w;
    c.padding_h = w.padding_h, c.padding_w = w.padding_w, c.dilation_h = w.dilation_h, c.dilation_w = w.dilation_w;
}

// What the kernels of ../conv2d read of a convolution; false if there is no memory.
static bool pack_for_kernels(Plan& plan, Step& step, bool periodic) {
    find_conv(step);
    const auto add = [&](int64_t bytes) {
        plan.bytes += bytes == no_memory ? 0 : bytes;
        return bytes != no_memory;
    };
    return add(pack_slices(step, periodic)) && add(pack_in_tiles(step)) && add(pack_tables(step));
}

// Neurons of one state that a spike puts back to where they start from: a constant current makes them fire in periods.
static bool neurons_restart(const Step& step) {
    const bool hard = step.neuron.model == models::HardReset || step.neuron.model == models::LeakyHardReset;
    for (int64_t c = 0; c < step.C && hard; c++)
        if (step.start[c] != step.neuron.scalars[0]) return false;
    return hard;
}

// Packs what an operation reads of its inputs; false if there is no memory.
static bool pack_windows(Plan& plan, Step& step) {
    bool spikes = true;  // whether it reads nothing else, whatever the network is given
    bool periodic = false;  // if the input of the network is constant
    for (int64_t i = 0; i < step.count; i++) {
        const int64_t slot = step.windows[i].slot;
        periodic |= slot && plan.steps[slot - 1].restarts && !plan.steps[slot - 1].windows[0].slot;
        spikes &= slot && !plan.steps[slot - 1].real && !plan.steps[slot - 1].of_input;
    }
    if (!pack_for_kernels(plan, step, periodic)) return false;
    for (int64_t i = 0; i < step.count; i++) {
        Window& w = step.windows[i];
        if (step.kind == engine::Fire && w.weight && w.groups > 1) {
            if (!(w.is_depthwise(step.C) ? pack_depthwise(w, step) : pack_groups(w, step))) return false;
            plan.bytes += w.bytes;
        } else if (step.kind == engine::Fire && w.weight) {
            if (!pack_matrix(w, step, spikes)) return false;
            plan.bytes += w.bytes;
        }
        step.rows += w.rows;
    }
    return true;
}

// The neurons of an operation; false if there is no memory.
static bool copy_neurons(Step& step) {
    step.state_P = step.P();
    step.restarts = neurons_restart(step);
    int64_t channelwise = 0;
    switch (step.neuron.model) {
#define MODEL(Name, states_, channels_, scalars_) \
    case models::Name: step.states = states_, channelwise = channels_; break;
        PK_MODELS(MODEL)
#undef MODEL
    }
    const int64_t parameters = channelwise * ceil_div(step.C, block) * block, starts = step.states * step.C;
    if (!copy_of(step.neuron.channels, parameters, parameters, step.parameters)) return false;
    if (!copy_of(step.start, starts, starts, step.start_copy)) return false;
    if (!copy_of(step.bias, step.C, step.blocks() * columns, step.bias_copy)) return false;
    step.neuron.channels = step.parameters, step.start = step.start_copy;
    step.conv.bias = step.bias = step.bias_copy;
    return true;
}

// What an operation of a network of sigma-delta neurons has; false if there is no memory.
static bool copy_changes(Plan& plan, Step& step) {
    const auto filled = [](int64_t channels) { return ceil_div(channels, 16) * 16; };
    const bool pools = step.kind == engine::SendMaxima;
    int64_t most_inputs = -1;
    for (int64_t i = 0; i < step.count && step.kind == engine::Send; i++) {
        Window& w = step.windows[i];
        const int64_t inputs = w.weight ? w.C / w.groups * w.taps() : 0;
        if (!w.weight) w.groups = w.C;  // each channel by itself, times 1
        w.by_channel = w.groups > 1 && w.groups == w.C && w.groups == step.C;
        const int64_t size = w.by_channel ? w.taps() * filled(w.C) : w.taps() * w.C * filled(step.C / w.groups);
        if (!w.weight && (w.matrix = allocate_large<float>(size)))
            for (int64_t c = 0; c < size; c++) w.matrix[c] = 1;
        if (w.weight ? !copy_of(w.weight, size, size, w.matrix) : !w.matrix) return false;
        if (!copy_of(w.bias, step.C, step.C, w.bias_copy)) return false;
        w.weight = w.matrix, w.bias = w.bias_copy;
        plan.bytes += size * (int64_t)sizeof(float);
        if (inputs > most_inputs) most_inputs = inputs, step.main_window = i;
    }
    if (!copy_of(step.limit, step.C, step.C, step.limit_copy)) return false;
    if (!copy_of(step.scale, step.C, step.C, step.scale_copy)) return false;
    step.limit = step.limit_copy, step.scale = step.scale_copy;
    const Window& first = step.windows[0];
    const bool sends = step.kind == engine::Send && !step.real, ends = step.kind == engine::Changes || step.kind == engine::Sum;
    step.state_size = pools ? first.H * first.W * first.C : sends || ends ? step.P() * step.C : 0;
    step.sent_size = pools || sends ? step.P() * step.C : 0;
    return true;
}

// Step k of a plan whose steps before it are made; false if there is no memory.
static bool make_step(Plan& plan, const Operation& operation, int64_t k) {
    Step& step = plan.steps[k];
    (Operation&)step = operation;
    step.terms = nullptr;
    step.windows = new Window[step.count];
    for (int64_t i = 0; i < step.count; i++) {
        Window& w = step.windows[i];
        (engine::Term&)w = operation.terms[i];
        if (w.slot) w.C = plan.steps[w.slot - 1].C, w.H = plan.steps[w.slot - 1].H, w.W = plan.steps[w.slot - 1].W;
        else w.C = plan.input.C, w.H = plan.input.H, w.W = plan.input.W;
        if (i) w.channel = step.windows[i - 1].channel + step.windows[i - 1].C;
        if (step.kind == engine::Fire && w.weight) w.rows = w.groups > 1 ? 0 : w.C * w.taps();
    }
    step.changes = plan.changes();
    if (step.changes && !copy_changes(plan, step)) return false;
    if (!step.changes && !pack_windows(plan, step)) return false;
    step.spikes_that_move = true;
    for (int64_t i = 0; i < step.count; i++) {
        const Step* const read = step.windows[i].slot ? &plan.steps[step.windows[i].slot - 1] : nullptr;
        step.moves |= read && read->moves;
        step.spikes_that_move &= read && read->moves && !read->real && !read->of_input;
        step.of_input |= step.passes_on() && (!read || read->of_input);
    }
    step.moves |= step.kind == engine::Fire || step.kind == engine::MaxRatePool;
    if (!copy_of(step.pixels, step.P(), step.P(), step.pixels_copy)) return false;
    if (!copy_of(step.channels, step.C, step.C, step.channels_copy)) return false;
    step.pixels = step.pixels_copy, step.channels = step.channels_copy;
    const Window& first = step.windows[0];
    if (step.kind == engine::MaxRatePool || step.kind == engine::RunningMaxPool)
        step.states = 1, step.state_P = first.H * first.W;
    if (step.kind == engine::Fire && !copy_neurons(step)) return false;
    if (!step.changes) step.state_size = step.states * step.state_P * step.C;
    return true;
}

static void free_plan(Plan* plan) {
    for (int64_t k = 0; k < plan->count; k++) {
        Step& step = plan->steps[k];
        for (int64_t i = 0; i < step.count && step.windows; i++)
            free(step.windows[i].matrix), free(step.windows[i].depthwise), free(step.windows[i].unit),
                free(step.windows[i].bias_copy);
        free(step.sliced), free(step.unit), free(step.tables), free(step.tiles), free(step.tile_unit), free(step.parameters),
            free(step.start_copy), free(step.bias_copy), free(step.pixels_copy), free(step.channels_copy),
            free(step.limit_copy), free(step.scale_copy);
        delete[] step.windows;
    }
    delete[] plan->steps;
    delete plan;
}

// Null if there is no memory.
static Plan* make_plan(const Input* input, const Operation* operations, int64_t count) {
    Plan* const plan = new Plan{new Step[count](), count, *input, 0};
    for (int64_t k = 0; k < count; k++)
        if (!make_step(*plan, operations[k], k)) {
            free_plan(plan);
            return nullptr;
        }
    return plan;
}

}  // namespace PK_TARGET
