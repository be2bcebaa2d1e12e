// Packs the weights of a convolution for the kernels of ../conv2d: as slices of rows, as matrix tiles, and as the columns that
// lookup tables are built from.
#pragma once
#include "../conv2d/amx_weights.h"
#include "packed_plan.h"

namespace PK_TARGET {

// Weights [C][inputs][taps] as [block][tap][input][columns of the block]; null if there is no memory.
static float* columns_of(const float* weight, int64_t inputs, int64_t taps, const Op& op) {
    const int64_t rows = inputs * taps, last = op.blocks() - 1;
    float* const packed = allocate_large<float>((last * columns + op.vecs_of(last) * Vec::width) * rows);
    for (int64_t b = 0; b <= last && packed; b++) {
        const int64_t width = op.vecs_of(b) * Vec::width, first = b * columns;
        for (int64_t o = first; o < first + width; o += Vec::width) {  // few outputs at a time, whose weights stay in a cache
            const int64_t channels = most(0, least(Vec::width, op.C - o));
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

// Number of rows per slice: the rows of all taps; or of a number of taps that divides a row of the window, so that windows
// share lists; or of a part of one tap. `periodic`: inputs are periodic, so that few rows of a slice are added at a time.
static int64_t slice_rows_of(const Conv2d& c, bool periodic) {
    const int64_t most_rows = periodic ? most_slice_rows - 1 : 384;  // rows have 64 bytes
    const bool whole = c.kernel_h * c.kernel_w * c.C_in <= most_rows, alone = c.neurons.P == 1;
    if (whole || alone || c.C_in > most_rows) return most_rows;
    int64_t taps = c.kernel_w;
    while (c.kernel_w % taps || taps * c.C_in > most_rows) taps--;
    return taps * c.C_in;
}

constexpr int64_t no_memory = -1;

// The weights of joined groups, [C][inputs of a part][taps], with zeros between different groups; null if there is no memory.
static float* join_groups(const Window& w, int64_t C) {
    const int64_t own = w.C / w.groups * w.taps();
    float* const weight = allocate_zeros<float>(C * w.joined * own);
    for (int64_t o = 0; o < C && weight; o++)
        memcpy(weight + (o * w.joined + o / (C / w.groups) % w.joined) * own, w.weight + o * own, own * sizeof(float));
    return weight;
}

// Whether packing weights of that many bytes for another kernel can pay in a layer of one pixel. Its weights are packed for
// patterns in any case, and very large ones are not stored twice.
constexpr int64_t most_kept_twice = 1 << 27;
static bool slices_can_pay(int64_t bytes) { return bytes >= (PK_IS_CHECKED ? 1 << 12 : 1 << 17) && bytes <= most_kept_twice; }
static bool tiles_can_pay(int64_t bytes) { return bytes >= (PK_IS_CHECKED ? 1 << 12 : 1 << 21) && bytes <= most_kept_twice; }

// Whether rows may be stored with their negations (../conv2d/input_lists.h) and then still fit the caches. Subtracting a
// float row from a sum again leaves a relative error of 2^-24, too much if thresholds are small compared with the sum. Integer
// rows leave none, but sums of byte rows must fit 16 bits on the way.
static bool can_negate(const Op& op, const Conv2d& c, int64_t part_inputs) {
    constexpr int64_t most_bytes = 1 << 23;
    constexpr float most_thresholds = 1 << 12;
    const Window& w = op.windows[op.weighted];
    if (2 * row_line * ceil_div(op.C, c.row_channels) * part_inputs > most_bytes) return false;
    if (c.row_channels == ShortRows::channels) return true;
    const int64_t inputs = w.C / w.groups * w.taps();
    for (int64_t o = 0; o < op.C; o++) {
        double sum = 0;
        for (int64_t i = 0; i < inputs; i++) sum += fabs(w.weight[o * inputs + i]);
        const float most = c.unit ? (float)largest_byte_sum * c.unit[o] : most_thresholds * op.neuron.channels[o];
        if (sum > most) return false;
    }
    return true;
}

// Packs the weights of a convolution in slices; returns their bytes, or no_memory.
static int64_t pack_slices(Op& op, bool periodic) {
    const Window& w = op.windows[op.weighted];
    if (!op.is_conv || (w.groups > 1 && (!w.joined || op.P() == 1))) return 0;
    Conv2d& c = op.conv;
    op.parts = w.groups > 1 ? w.groups / w.joined : 1;
    c.row_channels = row;
    if (op.exact) {
        c.unit = op.unit = allocate_zeros<float>(ceil_div(op.C, block) * block);
        if (!op.unit) return no_memory;
        c.row_channels = row_channels(w.weight, op.C, w.C / w.groups * w.taps(), op.unit);
        while (op.parts > 1 && op.C / op.parts % c.row_channels) c.row_channels /= 2;  // parts are whole blocks
    }
    if (c.row_channels == row) c.unit = nullptr;
    c.slice_rows = slice_rows_of(part_of(c, op.parts), periodic);
    c.negated = !periodic && op.P() > 1 && can_negate(op, c, part_of(c, op.parts).C_in * w.taps());
    const Conv2d part = part_of(c, op.parts);
    const int64_t bytes = ceil_div(op.C, c.row_channels) * rows_size(&part);
    if (op.P() == 1) {
        const bool tiled = op.tiles && !periodic;  // tiles are as fast wherever slices are faster than patterns
        if (tiled || !slices_can_pay(bytes)) return 0;
    }
    float* const joined = w.groups > 1 ? join_groups(w, op.C) : nullptr;
    op.sliced = w.groups > 1 && !joined ? nullptr : try_allocate<char>(bytes);
    if (op.sliced) pack_rows(joined ? joined : w.weight, op.sliced, &part);
    free(joined);
    return op.sliced ? bytes : no_memory;
}

// The thresholds to which the rounding of an operation's weights is compared: its own or, if it gives its currents, the least
// threshold behind. They are divided by the largest input, as an input of n adds n times the rounding error of its weight.
[[maybe_unused]] static void find_tile_thresholds(const Plan& plan, const Op& op, float* thresholds) {
    const int64_t slot = op.windows[op.weighted].slot, number = slot && !op.is_layer ? plan.ops[slot - 1].most_number : 0;
    for (int64_t c = 0; c < op.C; c++) {
        const float own = op.neuron.channels[c], threshold = std::isinf(own) ? op.threshold_behind : own;
        thresholds[c] = threshold / (float)most(number, 1);
    }
}

// Packs the weights in matrix tiles; returns their bytes, 0 if tiles cannot hold them, or no_memory.
static int64_t pack_in_tiles([[maybe_unused]] const Plan& plan, [[maybe_unused]] Op& op) {
#if defined(__AMX_INT8__)
    const Window& w = op.windows[op.weighted];
    const bool gives_currents = !op.is_layer && !op.exact && op.P() > 1;  // to neurons of any kind (behind.h)
    if (!(op.is_conv || (op.has_one_conv && gives_currents)) || w.groups > 1) return 0;
    if (std::isinf(op.costs[engine::Tiles].busy)) return 0;
    if (op.is_layer && std::isinf(op.neuron.channels[0])) return 0;  // its currents are wanted, which tiles do not write
    float* const thresholds = try_allocate<float>(op.C);
    if (!thresholds) return no_memory;
    find_tile_thresholds(plan, op, thresholds);
    op.digits = count_digits(w.weight, thresholds, op.C, w.rows);
    free(thresholds);
    if (!op.digits || std::isinf(op.costs[engine::Tiles + op.digits - 1].busy)) return 0;
    Conv2d c = op.conv;
    c.digits = op.digits;
    const int64_t bytes = ceil_div(op.C, tile_channels) * tiles_size(&c);
    if (op.P() == 1 && !tiles_can_pay(bytes)) return 0;
    op.tiles = allocate_zeros<int8_t>(bytes);
    op.tile_unit = allocate_zeros<float>(ceil_div(op.C, block) * block);
    if (!op.tiles || !op.tile_unit) return no_memory;
    pack_tiles(w.weight, op.tiles, op.tile_unit, &c);
    return bytes;
#else
    return 0;
#endif
}

// Packs the columns that lookup tables are built from, if tables can be faster than rows; returns their bytes, or no_memory.
static int64_t pack_tables(Op& op) {
    const Window& w = op.windows[op.weighted];
    if (!has_tables || !op.is_conv || op.P() == 1 || op.tiles || w.is_depthwise(op.C)) return 0;
    if (w.groups > 1 && op.C / w.groups % table_group) return 0;
    if (op.sliced && op.costs[op.row_cost()].busy <= op.costs[engine::Tables].busy) return 0;
    const int64_t inputs = w.C / w.groups;
    op.tables = columns_of(w.weight, inputs, w.taps(), op);
    return op.tables ? ceil_div(op.C, Vec::width) * Vec::width * inputs * w.taps() * (int64_t)sizeof(float) : no_memory;
}

static void find_conv(Op& op) {
    int64_t weighted = 0;
    for (int64_t i = 0; i < op.count; i++)
        if (op.windows[i].weight) op.weighted = i, weighted++;
    op.has_one_conv = op.kind == engine::Fire && weighted == 1;
    op.is_conv = op.has_one_conv && !op.real && op.count <= 2;
    if (!op.has_one_conv) return;
    const Window& w = op.windows[op.weighted];
    Conv2d& c = op.conv;
    c.neurons.C = op.C, c.neurons.P = op.P(), c.groups = w.groups;
    c.C_in = w.C, c.H = w.H, c.W = w.W, c.W_out = op.W;
    c.kernel_h = w.kernel_h, c.kernel_w = w.kernel_w, c.stride_h = w.stride_h, c.stride_w = w.stride_w;
    c.padding_h = w.padding_h, c.padding_w = w.padding_w, c.dilation_h = w.dilation_h, c.dilation_w = w.dilation_w;
}

// Packs the weights of a convolution for all kernels of ../conv2d that can run it; false if there is no memory.
static bool pack_for_kernels(Plan& plan, Op& op, bool periodic) {
    find_conv(op);
    if (op.is_layer && plan.input.is_real) return true;  // the matrix serves its kernel
    const auto add = [&](int64_t bytes) {
        plan.bytes += bytes == no_memory ? 0 : bytes;
        return bytes != no_memory;
    };
    if (!add(pack_in_tiles(plan, op))) return false;
    if (op.is_layer && !op.is_long && op.P() > 1) return true;
    return add(pack_slices(op, periodic)) && add(pack_tables(op));
}

}  // namespace PK_TARGET
