// Makes a plan of what is described. Everything that a run reads is copied, and weights are packed.
#include <algorithm>
#include <cmath>

#include "../cost_model.h"
#include "../sigma_delta/call.h"
#include "kernel_weights.h"
#include "tasks.h"

namespace PK_TARGET {

// Packs the weights of a window in rows, of integers if the weights are rounded and the operation reads only spikes. False if
// there is no memory.
static bool pack_matrix(Window& w, const Op& op, bool spikes) {
    const int64_t last = op.blocks() - 1;
    if (op.exact && spikes) {
        w.unit = allocate_zeros<float>((last + 1) * columns);
        if (!w.unit) return false;
        w.kind = row_kind_of(w.weight, op.C, w.rows, w.unit);
        if (w.kind == RowKind::Floats) free(w.unit), w.unit = nullptr;
    }
    for (int64_t b = 0; b <= last; b++)
        with_block_rows(w.kind, op.vecs_of(b), [&](auto rows) {
            w.row_bytes = b ? w.row_bytes : rows.bytes;
            w.bytes += (w.rows + 1) * rows.bytes;
        });
    w.matrix = (float*)allocate_large<char>(w.bytes);
    if (!w.matrix) return false;
    for (int64_t b = 0; b <= last; b++)
        with_block_rows(w.kind, op.vecs_of(b), [&](auto rows) {
            const int64_t first = b * columns;
            const float* const unit = w.unit ? w.unit + first : nullptr;
            pack_block<decltype(rows)>(w.weight + first * w.rows, least(columns, op.C - first), w.C, w.taps(), unit,
                                       w.block(b));
        });
    w.weight = w.matrix;  // the caller's weights may go away
    return w.matrix;
}

static bool pack_depthwise(Window& w, const Op& op) {
    w.bytes = w.taps() * ceil_div(op.C, block) * block * (int64_t)sizeof(float);
    w.depthwise = try_allocate<float>(w.bytes / (int64_t)sizeof(float));
    if (w.depthwise) pack_taps(w.weight, w.depthwise, op.C, w.taps());
    w.weight = w.depthwise;
    return w.depthwise;
}

static bool pack_groups(Window& w, const Op& op) {
    const int64_t taps = w.taps(), vecs = ceil_div(op.C, Vec::width), inputs = w.C / w.groups;
    for (int64_t j = 0; j < vecs; j++) w.span = most(w.span, w.last_input(j, op.C) - w.first_input(j, op.C));
    w.bytes = vecs * taps * w.span * Vec::width * (int64_t)sizeof(float);
    w.matrix = allocate_zeros<float>(w.bytes / (int64_t)sizeof(float));
    if (!w.matrix) return false;
    for (int64_t o = 0; o < op.C; o++) {
        const int64_t j = o / Vec::width, group = o / (op.C / w.groups), first = group * inputs - w.first_input(j, op.C);
        for (int64_t i = 0; i < inputs; i++)
            for (int64_t tap = 0; tap < taps; tap++)
                w.matrix[((j * taps + tap) * w.span + first + i) * Vec::width + o % Vec::width] =
                    w.weight[(o * inputs + i) * taps + tap];
    }
    w.weight = w.matrix;
    return true;
}

// Whether a spike resets neurons to their start: neurons with one state then fire periodically under a constant current.
static bool neurons_restart(const Op& op) {
    const bool hard = op.neuron.model == models::HardReset || op.neuron.model == models::LeakyHardReset;
    for (int64_t c = 0; c < op.C && hard; c++)
        if (op.neurons.start[c] != op.neuron.scalars[0]) return false;
    return hard;
}

// Makes Op::for_spikes of an operation of one window, except what make_op adds later. False if there is no memory.
static bool pack_for_spikes(Plan& plan, Op& op) {
    const Window& w = op.windows[0];
    const bool may_be_spikes = !op.is_layer && (!w.slot || plan.ops[w.slot - 1].of_input);
    if (!op.exact || op.P() > 1 || !may_be_spikes) return true;
    Window* const own = new Window[1]{w};
    const bool is_packed = pack_matrix(*own, op, true);
    if (is_packed && own->kind != RowKind::Floats) {
        op.for_spikes = new Op, op.for_spikes->windows = own;
        plan.bytes += own->bytes;
        return true;
    }
    free(own->matrix), free(own->unit);
    delete[] own;
    return is_packed;
}

// Packs the weights of an operation's windows; false if there is no memory.
static bool pack_windows(Plan& plan, Op& op) {
    bool spikes = true;  // whether it reads only spikes, whatever the input of the network
    bool periodic = false;  // whether an input is periodic if the input of the network is constant
    for (int64_t i = 0; i < op.count; i++) {
        const int64_t slot = op.windows[i].slot;
        if (op.is_layer) continue;
        periodic |= slot && plan.ops[slot - 1].restarts && !plan.ops[slot - 1].windows[0].slot;
        spikes &= slot && !plan.ops[slot - 1].real && !plan.ops[slot - 1].of_input;
    }
    if (!pack_for_kernels(plan, op, periodic || plan.input.is_periodic)) return false;
    for (int64_t i = 0; i < op.count; i++) {
        Window& w = op.windows[i];
        if (op.is_long && op.P() > 1 && op.sliced && w.weight && !w.is_depthwise(op.C)) {
            w.weight = (const float*)op.sliced;  // patterns do not run
        } else if (op.kind == engine::Fire && w.weight && w.groups > 1) {
            if (!(w.is_depthwise(op.C) ? pack_depthwise(w, op) : pack_groups(w, op))) return false;
            plan.bytes += w.bytes;
        } else if (op.kind == engine::Fire && w.weight) {
            if (op.count == 1 && !spikes && !pack_for_spikes(plan, op)) return false;
            if (!pack_matrix(w, op, spikes)) return false;
            plan.bytes += w.bytes;
        }
        op.rows += w.rows;
    }
    return true;
}

// A threshold rounded down to a power of two, so that the plan of a layer serves neurons whose thresholds differ by little.
static float least_threshold(float theta) { return std::isfinite(theta) ? std::ldexp(1.0f, std::ilogb(theta)) : theta; }

// Copies the parameters of an operation's neurons, for the kernels; false if there is no memory.
static bool copy_neurons(Op& op) {
    int64_t parameters = 0;
    op.neuron.model = op.neurons.model, op.neuron.stride = ceil_div(op.C, block) * block;
    const auto look = [&](auto model) { op.states = decltype(model)::states, parameters = channelwise<decltype(model)>; };
    if (!with_counting_model(op.neuron, look)) with_model_or_sums(op.neuron, look);
    if (op.is_layer) parameters = op.kind == engine::Fire;  // the least thresholds
    op.states += op.kind == engine::Recur;
    op.state_P = op.P();
    memcpy(op.neuron.scalars, op.neurons.scalars, sizeof op.neuron.scalars);
    float* const channels = allocate_zeros<float>(most(1, parameters) * op.neuron.stride);
    op.copies[op.copied++] = channels, op.neuron.channels = channels;
    if (!channels) return false;
    for (int64_t k = 0; k < parameters; k++)
        memcpy(channels + k * op.neuron.stride, op.neurons.channels + k * op.C, (size_t)op.C * sizeof(float));
    for (int64_t c = 0; c < op.C && op.is_layer && parameters; c++) channels[c] = least_threshold(channels[c]);
    for (int64_t c = op.C; c < op.neuron.stride && parameters; c++) channels[c] = INFINITY;  // the padding never fires
    op.neurons.channels = channels, op.neurons.scale = nullptr;
    if (!op.copy(op.neurons.start, op.states * op.C) || !op.copy(op.neurons.bias, op.C, op.blocks() * columns)) return false;
    op.conv.bias = op.neurons.bias;
    op.restarts = !op.is_layer && neurons_restart(op);
    return true;
}

// Packs what recurrent neurons send to each other; their spikes are a state, too.
static bool pack_recurrent(Plan& plan, Op& op) {
    op.restarts = false;
    Window& back = op.back;
    back.weight = op.recurrent, back.C = back.rows = op.C, back.H = back.W = 1;
    back.kernel_h = back.kernel_w = 1;
    if (!op.recurrent_full) {
        back.rows = 1, back.bytes = ceil_div(op.C, block) * block * (int64_t)sizeof(float);
        back.matrix = allocate_zeros<float>(back.bytes / (int64_t)sizeof(float));
        if (!back.matrix) return false;
        memcpy(back.matrix, op.recurrent, (size_t)op.C * sizeof(float));
    } else if (!pack_matrix(back, op, true)) {
        return false;
    }
    plan.bytes += back.bytes;
    return true;
}

// The unit of what an operation of a sigma-delta network gives, if that are codes of 8 bits times it; else infinity.
static float code_unit_of(const Plan& plan, const Op& op) {
    if (op.has_senders) return op.grid;
    if (op.is_layer || op.kind == engine::Send || op.kind == engine::AveragePool || op.kind == engine::Changes ||
        op.kind == engine::Sum || op.kind == engine::Function || op.kind == engine::Multiply)
        return INFINITY;
    const float unit = plan.ops[op.windows[0].slot - 1].code_unit;  // it moves values, or takes their largest
    for (int64_t i = 1; i < op.count; i++)
        if (plan.ops[op.windows[i].slot - 1].code_unit != unit) return INFINITY;
    return unit;
}

// Whether the weights of a window, [C, inputs], are whole multiples that bytes hold, of units that are written.
static bool fits_bytes(const Window& w, int64_t C, int64_t inputs, float* unit) {
    for (int64_t c = 0; c < C; c++) {
        unit[c] = unit_of(w.weight + c * inputs, inputs);
        if (unit[c] == 0 || largest_of(w.weight + c * inputs, inputs) > largest_byte_weight * unit[c]) return false;
    }
    return true;
}

// Packs the weights of a window in rows of bytes, if its input are codes; w.kind tells. False if there is no memory.
static bool pack_bytes(const Plan& plan, Window& w, const Op& op) {
    const Op& source = plan.ops[w.slot - 1];
    const int64_t inputs = w.C / w.groups, taps = w.taps(), filled = w.groups * ceil_div(op.C / w.groups, byte_row) * byte_row;
    if (!(source.code_unit < INFINITY) || !has_messages(source, w) || inputs * taps > most_byte_rows) return true;
    w.unit = allocate_zeros<float>(filled + byte_row);
    if (!w.unit) return false;
    if (!fits_bytes(w, op.C, inputs * taps, w.unit)) {
        free(w.unit), w.unit = nullptr;
        return true;
    }
    w.kind = RowKind::Bytes, w.bytes = filled * inputs * taps;
    w.matrix = (float*)allocate_large<char>(w.bytes);
    if (!w.matrix) return false;
    pack_byte_rows(w.weight, w.unit, (uint8_t*)w.matrix, op.C, inputs, taps, w.groups);
    for (int64_t c = 0; c < op.C; c++) w.unit[c] *= source.code_unit;
    return true;
}

// Whether a window reads the pixel where its output is, and no other.
static bool is_in_place(const engine::Window& w) {
    return w.kernel_h * w.kernel_w == 1 && w.stride_h * w.stride_w == 1 && !w.padding_h && !w.padding_w;
}

// The scale of Window::scale.
static float scale_of(const Window& w, int64_t C) {
    if (!w.by_channel || w.bias || !is_in_place(w)) return 0;
    for (int64_t c = 1; w.weight && c < C; c++)
        if (w.weight[c] != w.weight[0]) return 0;
    return w.weight ? w.weight[0] : 1;
}

// Packs the weights of a window of a sigma-delta network; false if there is no memory.
static bool pack_changes(Plan& plan, Window& w, const Op& op) {
    if (!w.weight) w.groups = w.C;  // depthwise, with weights of 1
    w.by_channel = w.is_depthwise(op.C), w.scale = scale_of(w, op.C);
    if (w.weight && !w.by_channel && !op.is_layer && !pack_bytes(plan, w, op)) return false;
    if (w.kind == RowKind::Floats) {
        const int64_t channels = w.by_channel ? ceil_div(w.C, block) * block : w.C * sigma_delta_filled(op.C / w.groups);
        const int64_t size = w.taps() * channels;
        w.bytes = size * (int64_t)sizeof(float);
        w.matrix = allocate_large<float>(size);
        if (!w.matrix) return false;
        if (!w.weight) std::fill(w.matrix, w.matrix + size, 1.0f);
        else if (w.by_channel) pack_taps(w.weight, w.matrix, op.C, w.taps());
        else pack_sigma_delta(w.weight, w.matrix, op.C, w.C / w.groups, w.taps(), w.groups);
    }
    w.weight = w.matrix;
    plan.bytes += w.bytes;
    return true;
}

// Copies and packs the parameters of an operation of a sigma-delta network; false if there is no memory.
static bool copy_sigma_delta(Plan& plan, Op& op) {
    const bool pools = op.kind == engine::SendMaxima;
    op.code_unit = code_unit_of(plan, op);
    int64_t most_inputs = -1;
    for (int64_t i = 0; i < op.count && op.kind == engine::Send; i++) {
        Window& w = op.windows[i];
        const int64_t inputs = w.weight ? w.C / w.groups * w.taps() : 0;
        if (!pack_changes(plan, w, op) || !op.copy(w.bias, op.C)) return false;
        if (inputs > most_inputs) most_inputs = inputs, op.main_window = i;
    }
    if (!op.has_senders) {
        float* const zeros = allocate_zeros<float>(op.C);
        op.copies[op.copied++] = zeros, op.senders.limit = zeros;
        if (!zeros) return false;
    } else if (!op.copy(op.senders.limit, op.C)) {
        return false;
    }
    if (op.is_layer) return true;  // its neurons and their states come with each run
    const Window& first = op.windows[0];
    const bool sends = op.kind == engine::Send && op.has_senders, ends = op.kind == engine::Changes || op.kind == engine::Sum;
    op.state_size = pools ? first.H * first.W * first.C : sends || ends ? op.P() * op.C : 0;
    op.sent_size = pools || sends ? op.P() * op.C : 0;
    if (op.kind == engine::Function) op.state_size = op.sent_size = op.P() * op.C;
    if (op.kind == engine::Multiply) {
        const Window& second = op.windows[1];
        op.state_size = first.H * first.W * first.C, op.sent_size = second.H * second.W * second.C;
    }
    return true;
}

// Finds what each input of a convolution reaches. `weight`: as the caller gave it. False if there is no memory.
static bool find_reached(Op& op, const float* weight) {
    const Window& w = op.windows[0];
    Reach& reach = *(op.reach = new Reach);
    const int64_t row = w.kernel_w * w.C * op.C;  // weights of a row of taps
    int64_t *const of_column = try_allocate<int64_t>(w.kernel_w), *const of_row = try_allocate<int64_t>(w.kernel_h);
    reach.weights = try_allocate<float>(w.kernel_h * row);
    bool fits = of_column && of_row && reach.weights;
    if (fits) {
        place_taps(w.kernel_w, w.stride_w, w.dilation_w, of_column);
        for (int64_t i = 0; i < op.C * w.rows; i++) {
            const int64_t o = i / w.rows, c = i % w.rows / w.taps(), y = i % w.taps() / w.kernel_w, x = i % w.kernel_w;
            reach.weights[y * row + (c * w.kernel_w + of_column[x]) * op.C + o] = weight[i];
        }
        for (int64_t x = 0; x < w.kernel_w; x++) of_column[x] *= op.C;
        for (int64_t y = 0; y < w.kernel_h; y++) of_row[y] = y * row;
        fits = reach.rows.find(w.H, op.H, w.kernel_h, w.stride_h, w.padding_h, w.dilation_h, of_row, INT64_MAX / 4) &&
               reach.columns.find(w.W, op.W, w.kernel_w, w.stride_w, w.padding_w, w.dilation_w, of_column, op.C);
    }
    free(of_column), free(of_row);
    reach.outputs = (double)(reach.rows.all * reach.columns.all) / (double)(w.H * w.W);
    return fits;
}

static bool can_be_reached(const Window& w) {
    return w.rows && w.H * w.kernel_h <= most_reached && w.W * w.kernel_w <= most_reached;
}

// Prepares scattering for a convolution of few channels. False if there is no memory.
static bool make_reach(Op& op, const float* weight) {
    const Window& w = op.windows[0];
    if (op.is_layer || op.real || op.count != 1 || op.P() == 1 || op.blocks() > 1 || !can_be_reached(w)) return true;
    if (!can_be_listed(w.C, w.H * w.W) || !can_be_listed(op.C, op.P())) return true;
    if (!find_reached(op, weight)) return false;
    Reach& reach = *op.reach;
    reach.waits = neurons_wait(op.neuron, op.neurons.bias, op.C);
    reach.leaks = op.neuron.model != models::HardReset && op.neuron.model != models::SoftReset;
    reach.drifts = !reach.waits && !reach.leaks;
    int64_t parameters = 0;
    with_model(op.neuron, [&](auto model) { parameters = channelwise<decltype(model)>; });
    return repeat_channels(reach, op.neuron, parameters, op.neurons.bias, op.C);
}

// Finds which groups of a window can be joined, and what kernels take for neurons with the weights of one input.
static void find_kernel_costs(Op& op, int64_t bits, bool has_tiles) {
    const Window* weighted = nullptr;
    int64_t count = 0;
    for (int64_t i = 0; i < op.count; i++) {
        Window& w = op.windows[i];
        if (!w.weight) continue;
        w.joined = costs::join_in_rows(op.C, w.C / w.groups, w.groups);
        weighted = &w, count++;
    }
    if (count != 1) return;
    const Window& w = *weighted;
    const costs::ConvSizes layer{1,          1,          op.P(),      op.C,         w.H,         w.W, w.C / w.groups,
                                 w.kernel_h, w.kernel_w, w.padding_w, w.dilation_h, w.dilation_w};
    const int64_t row = bits == 8 ? costs::byte_row : bits == 16 ? costs::short_row : costs::float_row;
    costs::find_costs(layer, w.groups, row, has_tiles, op.costs);
}

// Finds the operation that neurons read, if it is of that kind and nothing else reads it; null if it is not.
static const Operation* only_read(const Description& described, const Operation& by, int64_t kind, int64_t& number) {
    if (by.count != 1 || !by.reads[0].slot) return nullptr;
    number = by.reads[0].slot - 1;
    int64_t readers = 0;
    for (int64_t k = 0; k < described.count; k++)
        for (int64_t i = 0; i < described.operations[k].count; i++)
            readers += described.operations[k].reads[i].slot == number + 1;
    return readers == 1 && described.operations[number].kind == kind ? &described.operations[number] : nullptr;
}

// Whether the outputs of neurons are the currents of the step.
static bool gives_currents(const Operation& o) {
    const bool leaks = o.neurons.model == models::LeakyHardReset || o.neurons.model == models::LeakySoftReset;
    if (o.neurons.fires || !leaks || o.neurons.scalars[o.neurons.model == models::LeakyHardReset] != 0) return false;
    return std::all_of(o.neurons.channels + o.C, o.neurons.channels + 2 * o.C, [](float decay) { return decay == 0; });
}

// The most that an operation gives, if that are whole numbers from 0 on, whatever the network's input is; or 0.
static int64_t most_number_of(const Plan& plan, const Op& op, const Operation& described) {
    if (op.is_sigma_delta || op.is_layer) return 0;
    const bool fires = op.kind == engine::Fire && (!op.real || op.neuron.model == models::IntegerSoftReset);
    if (fires) return op.real ? (int64_t)op.neuron.scalars[0] : 1;
    const bool sums = op.kind == engine::Fire && gives_currents(described) &&
                      std::all_of(described.neurons.bias, described.neurons.bias + op.C, [](float bias) { return bias == 0; });
    if (!sums && (!op.passes_on() || op.kind == engine::Multiply)) return 0;
    int64_t sum = 0, largest = 0;
    for (int64_t i = 0; i < op.count; i++) {
        const Window& w = op.windows[i];
        const int64_t number = w.slot ? plan.ops[w.slot - 1].most_number : 0;
        if (!number || w.weight || (sums && w.taps() > 1)) return 0;
        sum += number, largest = most(largest, number);
    }
    return sums ? sum : largest;
}

// Finds Op.threshold_behind of all operations.
static void find_thresholds_behind(Plan& plan, const Description& described) {
    for (int64_t k = 0; k + 1 < plan.count; k++) plan.ops[k].threshold_behind = INFINITY;
    for (int64_t k = plan.count - 1; k >= 0; k--) {  // an operation reads earlier ones
        const Operation& o = described.operations[k];
        const bool fires = o.kind == engine::Fire && !gives_currents(o), adds = o.kind == engine::Fire;
        float& own = plan.ops[k].threshold_behind;
        if (std::isinf(own)) own = 0;
        float threshold = 0;
        if (fires) threshold = *std::min_element(o.neurons.channels, o.neurons.channels + o.C);
        else if (adds || (engine::passes_on(o.kind) && o.kind != engine::Multiply)) threshold = own;
        if (std::isinf(threshold)) threshold = 0;
        for (int64_t i = 0; i < o.count; i++) {
            const engine::Window& w = o.reads[i];
            if (!w.slot) continue;
            float& before = plan.ops[w.slot - 1].threshold_behind;
            before = adds && (w.weight || w.kernel_h * w.kernel_w > 1) ? 0 : std::min(before, threshold);
        }
    }
}

// Prepares neurons that read the largest currents of a convolution, under windows that do not overlap. False if there is no
// memory.
static bool find_maxima(Plan& plan, const Description& described, Op& op, int64_t k, bool has_tiles) {
    constexpr int64_t most_taps = 64;  // whose currents are in a cache together
    const Operation& neurons = described.operations[k];
    int64_t pool = 0, conv = 0;
    const Operation* const pooling = only_read(described, neurons, engine::MaxPool, pool);
    const Operation* const from = pooling ? only_read(described, *pooling, engine::Fire, conv) : nullptr;
    if (!from || pooling->adaptive || neurons.real || neurons.reads[0].weight || !is_in_place(neurons.reads[0]) ||
        !gives_currents(*from))
        return true;
    const engine::Window& w = pooling->reads[0];
    if (from->count != 1 || !from->reads[0].weight || from->H * from->W == 1 || w.kernel_h * w.kernel_w > most_taps)
        return true;
    if (w.kernel_h > w.stride_h || w.kernel_w > w.stride_w || w.dilation_h * w.dilation_w != 1) return true;
    if (std::any_of(neurons.neurons.bias, neurons.neurons.bias + op.C, [](float bias) { return bias != 0; })) return true;
    op.maxima = new Maxima{conv, pool, {}};
    plan.ops[conv].maxima_of = k;
    Op& packed = op.maxima->op;
    (Operation&)packed = *from;
    packed.reads = nullptr, packed.real = false, packed.exact = described.bits;
    packed.neurons = neurons.neurons, packed.neurons.bias = from->neurons.bias;
    packed.windows = new Window[1];
    Window& window = packed.windows[0] = Window{};
    const Window& before = plan.ops[conv].windows[0];
    (engine::Window&)window = from->reads[0];
    window.C = before.C, window.H = before.H, window.W = before.W, window.rows = before.rows;
    find_kernel_costs(packed, described.bits, has_tiles);
    if (!copy_neurons(packed)) return false;
    find_conv(packed);
    if (can_be_reached(window) && !find_reached(packed, window.weight)) return false;
    const int64_t slices = pack_slices(packed, false), tiles = slices == no_memory ? no_memory : pack_in_tiles(plan, packed);
    window.weight = nullptr;  // the caller's
    if (tiles == no_memory) return false;
    plan.bytes += slices + tiles;
    return true;
}

// Makes operation k of a plan, after those before it. False if there is no memory.
static bool make_op(Plan& plan, const Description& described, int64_t k, bool has_tiles) {
    const Operation& operation = described.operations[k];
    Op& op = plan.ops[k];
    (Operation&)op = operation;
    op.reads = nullptr, op.exact = described.bits;
    op.windows = new Window[op.count];
    for (int64_t i = 0; i < op.count; i++) {
        Window& w = op.windows[i];
        (engine::Window&)w = operation.reads[i];
        if (w.slot && plan.input.is_layer) w.C = op.C, w.H = op.H, w.W = op.W;
        else if (w.slot) w.C = plan.ops[w.slot - 1].C, w.H = plan.ops[w.slot - 1].H, w.W = plan.ops[w.slot - 1].W;
        else w.C = plan.input.C, w.H = plan.input.H, w.W = plan.input.W;
        if (i) w.channel = op.windows[i - 1].channel + op.windows[i - 1].C;
        if (op.kind == engine::Fire && w.weight) w.rows = w.groups > 1 ? 0 : w.C * w.taps();
    }
    op.is_sigma_delta = plan.is_sigma_delta(), op.is_layer = plan.input.is_layer, op.is_long = plan.input.is_long;
    if (op.kind == engine::Fire) find_kernel_costs(op, described.bits, has_tiles);
    if ((op.kind == engine::Fire || op.kind == engine::Recur) && !copy_neurons(op)) return false;
    if (op.is_sigma_delta && !copy_sigma_delta(plan, op)) return false;
    if (!op.is_sigma_delta && !pack_windows(plan, op)) return false;
    op.spikes_that_move = !(op.is_layer && plan.input.is_real);
    for (int64_t i = 0; i < op.count && !op.is_layer; i++) {
        const Op* const read = op.windows[i].slot ? &plan.ops[op.windows[i].slot - 1] : nullptr;
        op.moves |= read && read->moves;
        op.spikes_that_move &= read && read->moves && !read->real && !read->of_input;
        op.of_input |= op.passes_on() && (!read || read->of_input);
    }
    op.moves |= engine::changes_in_time(op.kind);
    op.most_number = most_number_of(plan, op, operation);
#define COPY(name, size) \
    if (!op.copy(op.name, op.size)) return false;
    PK_OPERATION_TENSORS(COPY, COPY)
#undef COPY
    const Window& first = op.windows[0];
    if (op.kind == engine::MaxRatePool || op.kind == engine::RunningMaxPool) op.states = 1, op.state_P = first.H * first.W;
    if (op.kind == engine::Delay) {
        op.states = 1, op.state_P = op.P();
        for (int64_t c = 0; c < op.C; c++) op.states = most(op.states, op.delays[c]);
    }
    if (op.kind == engine::Fire && !make_reach(op, operation.reads[0].weight)) return false;
    if (op.kind == engine::Recur && !pack_recurrent(plan, op)) return false;
    if (op.kind == engine::Fire && !op.is_layer && !find_maxima(plan, described, op, k, has_tiles)) return false;
    if (!op.is_sigma_delta) op.state_size = op.states * op.state_P * op.C;
    if (op.for_spikes) {
        Window* const own = op.for_spikes->windows;
        *op.for_spikes = op;
        op.for_spikes->windows = own, op.for_spikes->for_spikes = nullptr;
    }
    return true;
}

static void free_op(Op& op) {
    for (int64_t i = 0; i < op.count && op.windows; i++)
        free(op.windows[i].matrix), free(op.windows[i].depthwise), free(op.windows[i].unit);
    for (int64_t i = 0; i < op.copied; i++) free(op.copies[i]);
    free(op.sliced), free(op.unit), free(op.tables), free(op.tiles), free(op.tile_unit), free(op.back.matrix),
        free(op.back.unit);
    delete[] op.windows;
    delete op.reach;
    if (op.for_spikes) {
        free(op.for_spikes->windows[0].matrix), free(op.for_spikes->windows[0].unit);
        delete[] op.for_spikes->windows;
        delete op.for_spikes;
    }
    if (op.maxima) free_op(op.maxima->op);
    delete op.maxima;
}

void free_plan(Plan* plan) {
    for (int64_t k = 0; k < plan->count; k++) free_op(plan->ops[k]);
    delete[] plan->ops;
    delete plan;
}

Plan* make_plan(const Description* described, int64_t has_tiles) {
    const int64_t count = described->count;
    Plan* const plan = new Plan{new Op[count](), count, described->input, 0, has_tiles != 0};
    if (!plan->input.is_layer) find_thresholds_behind(*plan, *described);
    for (int64_t k = 0; k < count; k++)
        if (!make_op(*plan, *described, k, has_tiles)) {
            free_plan(plan);
            return nullptr;
        }
    return plan;
}

}  // namespace PK_TARGET
