// A network as it is run: its operations, with their weights packed. Rows of weights, one for each input, are contiguous over
// the output channels of a block: as many as eight registers hold. So a spike costs one row, and nothing else is read.
#pragma once
#include <sys/mman.h>

#include "../neurons.h"
#include "engine.h"
#include "row_kinds.h"

namespace PK_TARGET {

using engine::Input;
using engine::Operation;
using engine::Run;
using engine::Sizes;

constexpr int block_vecs = 8, columns = block_vecs * Vec::width;  // registers and output channels of a block of rows
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
    int64_t span = 0;         // with groups: inputs of a register, at most
    float* bias_copy = nullptr;
    bool is_depthwise = false;  // of sigma-delta neurons

    int64_t taps() const { return kernel_h * kernel_w; }
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
    // Of a convolution of more than one pixel: its weights in slices (sliced.h), or null, and their units; the window that has
    // them.
    char* sliced = nullptr;
    float* unit = nullptr;
    int64_t sliced_window = 0;
    bool restarts = false;  // whether neurons begin each run as they begin anew after a spike
    bool moves = false,
         spikes_that_move = false;  // whether what it gives is never held; whether all that it reads is such spikes
    bool changes = false;  // whether it is one of a network of sigma-delta neurons
    int64_t main_window = 0;  // of those: that with the most weights of a neuron
    int64_t state_size = 0, sent_size = 0;  // of a sample: potentials, or z; and a
    bool of_input = false;  // whether it passes on what the network is given: spikes or values, as a run has them
    Conv2d conv{};  // without its neurons

    // Whether it gives spikes where it reads spikes, and values where it reads values.
    bool passes_on() const {
        if (changes) return false;
        return kind == engine::MaxPool || kind == engine::Flatten || kind == engine::Unflatten || kind == engine::Move;
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

static bool pack_matrix(Window& w, const Step& step) {
    const int64_t taps = w.taps(), last = step.blocks() - 1;
    w.matrix = allocate_large<float>((last * columns + step.vecs_of(last) * Vec::width) * w.rows);
    if (!w.matrix) return false;
    for (int64_t b = 0; b <= last; b++) {
        const int64_t width = step.vecs_of(b) * Vec::width, first = b * columns;
        for (int64_t o = first; o < first + width; o += Vec::width) {  // the weights of few outputs stay in a cache
            const int64_t channels = most(0, least(Vec::width, step.C - o));
            float* to = w.matrix + first * w.rows + o - first;
            for (int64_t tap = 0; tap < taps; tap++)
                for (int64_t c = 0; c < w.C; c++, to += width) {
                    const float* const from = w.weight + o * w.rows + c * taps + tap;
                    for (int64_t i = 0; i < channels; i++) to[i] = from[i * w.rows];
                    for (int64_t i = channels; i < Vec::width; i++) to[i] = 0;
                }
        }
    }
    w.weight = w.matrix;  // the caller's is not ours
    return true;
}

static bool pack_groups(Window& w, const Step& step) {
    const int64_t taps = w.taps(), vecs = ceil_div(step.C, Vec::width), inputs = w.C / w.groups;
    for (int64_t j = 0; j < vecs; j++) w.span = most(w.span, w.last_input(j, step.C) - w.first_input(j, step.C));
    w.matrix = allocate_zeros<float>(vecs * taps * w.span * Vec::width);
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
static int64_t slice_rows_of(const Window& w, bool periodic) {
    const int64_t most_rows = periodic ? most_slice_rows - 1 : 384;  // of 64 bytes
    if (w.rows <= most_rows || w.C > most_rows) return most_rows;
    int64_t taps = w.kernel_w;
    while (w.kernel_w % taps || taps * w.C > most_rows) taps--;
    return taps * w.C;
}

constexpr int64_t no_memory = -1;

// Packs the weights of a convolution in slices; returns their bytes, or no_memory. The others of its inputs, one at most, add
// as they are.
static int64_t pack_slices(Step& step, bool periodic) {
    if (step.kind != engine::Fire || step.real || step.P() == 1 || step.count > 2) return 0;
    int64_t weighted = 0;
    for (int64_t i = 0; i < step.count; i++)
        if (step.windows[i].weight) step.sliced_window = i, weighted++;
    const Window& w = step.windows[step.sliced_window];
    if (weighted != 1 || w.groups > 1) return 0;
    Conv2d& c = step.conv;
    c.neurons.C = step.C, c.neurons.P = step.P();
    c.row_channels = row, c.slice_rows = slice_rows_of(w, periodic), c.groups = 1;
    if (step.exact) {
        c.unit = step.unit = allocate_zeros<float>(ceil_div(step.C, block) * block);
        if (!step.unit) return no_memory;
        c.row_channels = row_channels_of(w.weight, step.C, w.rows, step.unit);
    }
    if (c.row_channels == row) c.unit = nullptr;
    c.C_in = w.C, c.H = w.H, c.W = w.W, c.W_out = step.W;
    c.kernel_h = w.kernel_h, c.kernel_w = w.kernel_w, c.stride_h = w.stride_h, c.stride_w = w.stride_w;
    c.padding_h = w.padding_h, c.padding_w = w.padding_w, c.dilation_h = w.dilation_h, c.dilation_w = w.dilation_w;
    const int64_t bytes = ceil_div(step.C, c.row_channels) * rows_size(&c);
    c.weight = step.sliced = try_allocate<char>(bytes);
    if (!step.sliced) return no_memory;
    pack_rows(w.weight, step.sliced, &c);
    return bytes;
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
    bool periodic = false;  // if the input of the network is constant
    for (int64_t i = 0; i < step.count; i++) {
        const int64_t slot = step.windows[i].slot;
        periodic |= slot && plan.steps[slot - 1].restarts && !plan.steps[slot - 1].windows[0].slot;
    }
    const int64_t bytes = pack_slices(step, periodic);
    if (bytes == no_memory) return false;
    plan.bytes += bytes;
    for (int64_t i = 0; i < step.count; i++) {
        Window& w = step.windows[i];
        if (step.kind == engine::Fire && w.weight && w.groups > 1) {
            if (!pack_groups(w, step)) return false;
            plan.bytes += ceil_div(step.C, Vec::width) * w.taps() * w.span * Vec::width * (int64_t)sizeof(float);
        } else if (step.kind == engine::Fire && w.weight) {
            if (!pack_matrix(w, step)) return false;
            plan.bytes += w.rows * ceil_div(step.C, Vec::width) * Vec::width * (int64_t)sizeof(float);
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
        w.is_depthwise = w.groups > 1 && w.groups == w.C && w.groups == step.C;
        const int64_t size = w.is_depthwise ? w.taps() * filled(w.C) : w.taps() * w.C * filled(step.C / w.groups);
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
        for (int64_t i = 0; i < step.count && step.windows; i++) free(step.windows[i].matrix), free(step.windows[i].bias_copy);
        free(step.sliced), free(step.unit), free(step.parameters), free(step.start_copy), free(step.bias_copy),
            free(step.pixels_copy), free(step.channels_copy), free(step.limit_copy), free(step.scale_copy);
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
