// Makes a plan from the caller's operations. Everything that a run reads is copied, and weights are packed.
#include <algorithm>

#include "../sigma_delta/row_weights.h"
#include "kernel_weights.h"
#include "operations.h"

namespace PK_TARGET {

// Packs the weights of a window in rows, of integers if the weights are rounded and the operation reads only spikes. False if
// there is no memory.
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
    w.weight = w.matrix;  // the caller's weights may go away
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

// Whether a spike resets neurons to their start: neurons with one state then fire periodically under a constant current.
static bool neurons_restart(const Step& step) {
    const bool hard = step.neuron.model == models::HardReset || step.neuron.model == models::LeakyHardReset;
    for (int64_t c = 0; c < step.C && hard; c++)
        if (step.start[c] != step.neuron.scalars[0]) return false;
    return hard;
}

// Packs the weights of an operation's windows; false if there is no memory.
static bool pack_windows(Plan& plan, Step& step) {
    bool spikes = true;  // whether it reads only spikes, whatever the input of the network
    bool periodic = false;  // whether an input is periodic if the input of the network is constant
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

// Copies the parameters of an operation's neurons; false if there is no memory.
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
    step.states += step.kind == engine::Recur;
    const int64_t parameters = channelwise * ceil_div(step.C, block) * block, starts = step.states * step.C;
    if (!copy_of(step.neuron.channels, parameters, parameters, step.parameters)) return false;
    if (!copy_of(step.start, starts, starts, step.start_copy)) return false;
    if (!copy_of(step.bias, step.C, step.blocks() * columns, step.bias_copy)) return false;
    step.neuron.channels = step.parameters, step.start = step.start_copy;
    step.conv.bias = step.bias = step.bias_copy;
    return true;
}

// The same for recurrent neurons; their spikes are a state, too.
static bool copy_recurrent(Plan& plan, Step& step) {
    if (!copy_neurons(step)) return false;
    step.restarts = false;
    Window& back = step.back;
    back.weight = step.recurrent, back.C = back.rows = step.C, back.H = back.W = 1;
    back.kernel_h = back.kernel_w = 1;
    if (!step.recurrent_full) {
        back.rows = 1, back.bytes = ceil_div(step.C, block) * block * (int64_t)sizeof(float);
        if (!copy_of(step.recurrent, step.C, back.bytes / (int64_t)sizeof(float), back.matrix)) return false;
    } else if (!pack_matrix(back, step, true)) {
        return false;
    }
    plan.bytes += back.bytes;
    return true;
}

// Copies and packs the parameters of an operation of a sigma-delta network; false if there is no memory.
static bool copy_changes(Plan& plan, Step& step) {
    const bool pools = step.kind == engine::SendMaxima;
    int64_t most_inputs = -1;
    for (int64_t i = 0; i < step.count && step.kind == engine::Send; i++) {
        Window& w = step.windows[i];
        const int64_t inputs = w.weight ? w.C / w.groups * w.taps() : 0;
        if (!w.weight) w.groups = w.C;  // depthwise, with weights of 1
        w.by_channel = w.is_depthwise(step.C);
        const int64_t channels = w.by_channel ? ceil_div(w.C, block) * block : w.C * sigma_delta_filled(step.C / w.groups);
        const int64_t size = w.taps() * channels;
        w.matrix = allocate_large<float>(size);
        if (!w.matrix) return false;
        if (!w.weight) std::fill(w.matrix, w.matrix + size, 1.0f);
        else if (w.by_channel) pack_taps(w.weight, w.matrix, step.C, w.taps());
        else pack_sigma_delta(w.weight, w.matrix, step.C, w.C / w.groups, w.taps(), w.groups);
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

// Prepares scattering for a convolution of few channels. `weight`: as the caller gave it. False if there is no memory.
static bool make_reach(Step& step, const float* weight) {
    const Window& w = step.windows[0];
    if (step.real || step.count != 1 || !w.rows || step.P() == 1 || step.blocks() > 1) return true;
    if (!can_be_listed(w.C, w.H * w.W) || !can_be_listed(step.C, step.P())) return true;
    if (w.H * w.kernel_h > most_reached || w.W * w.kernel_w > most_reached) return true;
    Reach& reach = *(step.reach = new Reach);
    const int64_t row = w.kernel_w * w.C * step.C;  // weights of a row of taps
    int64_t *const of_column = try_allocate<int64_t>(w.kernel_w), *const of_row = try_allocate<int64_t>(w.kernel_h);
    reach.weights = try_allocate<float>(w.kernel_h * row);
    bool fits = of_column && of_row && reach.weights;
    if (fits) {
        place_taps(w.kernel_w, w.stride_w, w.dilation_w, of_column);
        for (int64_t i = 0; i < step.C * w.rows; i++) {
            const int64_t o = i / w.rows, c = i % w.rows / w.taps(), y = i % w.taps() / w.kernel_w, x = i % w.kernel_w;
            reach.weights[y * row + (c * w.kernel_w + of_column[x]) * step.C + o] = weight[i];
        }
        for (int64_t x = 0; x < w.kernel_w; x++) of_column[x] *= step.C;
        for (int64_t y = 0; y < w.kernel_h; y++) of_row[y] = y * row;
        fits = reach.rows.find(w.H, step.H, w.kernel_h, w.stride_h, w.padding_h, w.dilation_h, of_row, INT64_MAX / 4) &&
               reach.columns.find(w.W, step.W, w.kernel_w, w.stride_w, w.padding_w, w.dilation_w, of_column, step.C);
    }
    free(of_column), free(of_row);
    if (!fits) return false;
    reach.outputs = (double)(reach.rows.all * reach.columns.all) / (double)(w.H * w.W);
    reach.waits = neurons_wait(step.neuron, step.bias, step.C);
    reach.leaks = step.neuron.model != models::HardReset && step.neuron.model != models::SoftReset;
    reach.drifts = !reach.waits && !reach.leaks;
    int64_t parameters = 0;
    with_model(step.neuron, [&](auto model) { parameters = channelwise<decltype(model)>; });
    return repeat_channels(reach, step.neuron, parameters, step.bias, step.C);
}

// Makes operation k of a plan, after those before it. False if there is no memory.
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
    step.moves |= step.kind == engine::Fire || step.kind == engine::Recur || step.kind == engine::MaxRatePool ||
                  step.kind == engine::Delay;
    if (!copy_of(step.pixels, step.P(), step.P(), step.pixels_copy)) return false;
    if (!copy_of(step.channels, step.C, step.C, step.channels_copy)) return false;
    if (!copy_of(step.delays, step.C, step.C, step.delays_copy)) return false;
    step.pixels = step.pixels_copy, step.channels = step.channels_copy, step.delays = step.delays_copy;
    const Window& first = step.windows[0];
    if (step.kind == engine::MaxRatePool || step.kind == engine::RunningMaxPool)
        step.states = 1, step.state_P = first.H * first.W;
    if (step.kind == engine::Delay) {
        step.states = 1, step.state_P = step.P();
        for (int64_t c = 0; c < step.C; c++) step.states = most(step.states, step.delays[c]);
    }
    if (step.kind == engine::Fire && !(copy_neurons(step) && make_reach(step, operation.terms[0].weight))) return false;
    if (step.kind == engine::Recur && !copy_recurrent(plan, step)) return false;
    if (!step.changes) step.state_size = step.states * step.state_P * step.C;
    return true;
}

void free_plan(Plan* plan) {
    for (int64_t k = 0; k < plan->count; k++) {
        Step& step = plan->steps[k];
        for (int64_t i = 0; i < step.count && step.windows; i++)
            free(step.windows[i].matrix), free(step.windows[i].depthwise), free(step.windows[i].unit),
                free(step.windows[i].bias_copy);
        free(step.sliced), free(step.unit), free(step.tables), free(step.tiles), free(step.tile_unit), free(step.parameters),
            free(step.start_copy), free(step.bias_copy), free(step.pixels_copy), free(step.channels_copy),
            free(step.delays_copy), free(step.limit_copy), free(step.scale_copy), free(step.back.matrix), free(step.back.unit);
        delete[] step.windows;
        delete step.reach;
    }
    delete[] plan->steps;
    delete plan;
}

Plan* make_plan(const Input* input, const Operation* operations, int64_t count) {
    Plan* const plan = new Plan{new Step[count](), count, *input, 0};
    for (int64_t k = 0; k < count; k++)
        if (!make_step(*plan, operations[k], k)) {
            free_plan(plan);
            return nullptr;
        }
    return plan;
}

}  // namespace PK_TARGET
