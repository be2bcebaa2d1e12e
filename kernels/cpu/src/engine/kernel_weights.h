// Packs the weights of a convolution for the kernels of ../conv2d: as slices of rows, as matrix tiles, and as the columns that
// lookup tables are built from.
#pragma once
#include "../conv2d/amx_weights.h"
#include "packed_plan.h"

namespace PK_TARGET {

// Weights [C][inputs][taps] as [block][tap][input][columns of the block]; null if there is no memory.
static float* columns_of(const float* weight, int64_t inputs, int64_t taps, const Step& step) {
    const int64_t rows = inputs * taps, last = step.blocks() - 1;
    float* const packed = allocate_large<float>((last * columns + step.vecs_of(last) * Vec::width) * rows);
    for (int64_t b = 0; b <= last && packed; b++) {
        const int64_t width = step.vecs_of(b) * Vec::width, first = b * columns;
        for (int64_t o = first; o < first + width; o += Vec::width) {  // few outputs at a time, whose weights stay in a cache
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

// Whether rows may be stored with their negations (../conv2d/steady_inputs.h) and then still fit the caches. Subtracting a
// float row from a sum again leaves a relative error of 2^-24, too much if thresholds are small compared with the sum. Integer
// rows leave none, but sums of byte rows must fit 16 bits on the way. kernels/cpu/rows.py has the same rule.
static bool can_negate(const Step& step, const Conv2d& c, int64_t part_inputs) {
    constexpr int64_t most_bytes = 1 << 23;
    constexpr float most_thresholds = 1 << 12;
    const Window& w = step.windows[step.weighted];
    if (2 * row_line * ceil_div(step.C, c.row_channels) * part_inputs > most_bytes) return false;
    if (c.row_channels == ShortRows::channels) return true;
    const int64_t inputs = w.C / w.groups * w.taps();
    for (int64_t o = 0; o < step.C; o++) {
        double sum = 0;
        for (int64_t i = 0; i < inputs; i++) sum += fabs(w.weight[o * inputs + i]);
        const float most = c.unit ? (float)largest_byte_sum * c.unit[o] : most_thresholds * step.neuron.channels[o];
        if (sum > most) return false;
    }
    return true;
}

// Packs the weights of a convolution in slices; returns their bytes, or no_memory.
static int64_t pack_slices(Step& step, bool periodic) {
    const Window& w = step.windows[step.weighted];
    if (!step.is_conv || (w.groups > 1 && (!w.joined || step.P() == 1))) return 0;
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
    c.negated = !periodic && step.P() > 1 && can_negate(step, c, part_of(c, step.parts).C_in * w.taps());
    const Conv2d part = part_of(c, step.parts);
    const int64_t bytes = ceil_div(step.C, c.row_channels) * rows_size(&part);
    if (step.P() == 1) {
        const bool tiled = step.tiles && !periodic;  // tiles are as fast wherever slices are faster than patterns
        if (tiled || !slices_can_pay(bytes)) return 0;
    }
    float* const joined = w.groups > 1 ? join_groups(w, step.C) : nullptr;
    step.sliced = w.groups > 1 && !joined ? nullptr : try_allocate<char>(bytes);
    if (step.sliced) pack_rows(joined ? joined : w.weight, step.sliced, &part);
    free(joined);
    return step.sliced ? bytes : no_memory;
}

// Packs the weights in matrix tiles; returns their bytes, 0 if tiles cannot hold them, or no_memory.
static int64_t pack_in_tiles([[maybe_unused]] Step& step) {
#if defined(__AMX_INT8__)
    const Window& w = step.windows[step.weighted];
    if (!step.is_conv || w.groups > 1 || std::isinf(step.lines[engine::Tiles].busy)) return 0;
    step.digits = count_digits(w.weight, step.neuron.channels, step.C, w.rows);
    if (!step.digits || std::isinf(step.lines[engine::Tiles + step.digits - 1].busy)) return 0;
    Conv2d c = step.conv;
    c.digits = step.digits;
    const int64_t bytes = ceil_div(step.C, tile_channels) * tiles_size(&c);
    if (step.P() == 1 && !tiles_can_pay(bytes)) return 0;
    step.tiles = allocate_zeros<int8_t>(bytes);
    step.tile_unit = allocate_zeros<float>(ceil_div(step.C, block) * block);
    if (!step.tiles || !step.tile_unit) return no_memory;
    pack_tiles(w.weight, step.tiles, step.tile_unit, &c);
    return bytes;
#else
    return 0;
#endif
}

// Packs the columns that lookup tables are built from, if tables can be faster than rows; returns their bytes, or no_memory.
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

// Packs the weights of a convolution for all kernels of ../conv2d that can run it; false if there is no memory.
static bool pack_for_kernels(Plan& plan, Step& step, bool periodic) {
    find_conv(step);
    const auto add = [&](int64_t bytes) {
        plan.bytes += bytes == no_memory ? 0 : bytes;
        return bytes != no_memory;
    };
    return add(pack_in_tiles(step)) && add(pack_slices(step, periodic)) && add(pack_tables(step));
}

}  // namespace PK_TARGET
