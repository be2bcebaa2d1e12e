// A call of a sigma-delta kernel, cut into tasks, for all output pixels or for the listed ones. The caller distributes the
// tasks over threads, and provides the scratch memory of each. The tasks are in rows.cpp, byte_rows.cpp, byte_products.cpp,
// scattered.cpp, dense.cpp and senders.cpp.
#pragma once
#include <cmath>
#include <cstdint>

#include "../simd.h"
#include "../work.h"

namespace PK_TARGET {

// Lists of the values of a slot that are not 0.

// A value that is not 0, and the number of its channel within its group.
struct Message {
    uint32_t input;
    float value;
};

// The messages of an input with float values, in the order of the channels.
struct Messages {
    Message* of = nullptr;  // [N, T_in, H * W, C_in]: of a pixel's group as many as there are, from its first channel on
    uint32_t* count = nullptr;  // [N, T_in, H * W, groups]
};

// Rows of weights in bytes, for values that are whole multiples of a unit: codes of 8 bits with sign. A byte is a weight in
// units of its channel plus byte_zero, so that it has no sign; codes times that are summed up in 32 bits, which is exact.

// A pair of products must fit 16 bits with sign, and a sum 32 bits.
constexpr int byte_zero = 64;
constexpr float largest_byte_weight = 63;
constexpr int64_t byte_row = 64;  // bytes of a row, and the most channels of it
constexpr int64_t most_byte_rows = 1 << 16;  // of a window, whose numbers have 16 bits

constexpr int byte_chunk = 4 * Vec::width;  // channels whose sums are four vectors of 32-bit integers
// The channel, within its chunk, of a byte: bytes of four rows are interleaved within 128 bits (byte_rows.cpp).
constexpr int channel_of_byte(int byte) { return Vec::width * (byte % 16 / 4) + 4 * (byte / 16) + byte % 4; }

// The weights of a window.
struct ByteWeights {
    const uint8_t* weight = nullptr;  // [group][block of byte_row channels][tap][input][byte_row]
    const float* unit = nullptr;  // [channels rounded up to whole rows]: what 1 stands for in a sum of codes times weights
    float code = 0;  // the unit of the values
};

// What is not 0 among the values of each pixel and group of channels, in the order of the channels. A list has room for
// list_room(inputs of a group) entries. Three entries with the code 0 stand behind its end. For products of bytes there
// are all codes instead, [N, H * W, C_in], and no lists.
struct CodeLists {
    uint16_t* row = nullptr;  // [lists][room]: the input, within its group
    int8_t* code = nullptr;  // [lists][room]
    uint32_t* count = nullptr;  // [lists]
    int32_t* sum = nullptr;  // [lists]: of the codes
};
constexpr int64_t codes_at_once = 32;  // entries that are copied at a time, also beyond the end of a list
constexpr int64_t codes_behind = 96;  // spare entries behind all lists, which are copied, or read to prefetch their rows
static inline int64_t list_room(int64_t inputs) { return ceil_div(inputs + 3, 16) * 16; }

// Packs weights [C, inputs of a group, taps], which are multiples of `unit` [C].
inline void pack_byte_rows(const float* weight, const float* unit, uint8_t* packed, int64_t C, int64_t inputs, int64_t taps,
                           int64_t groups) {
    const int64_t outputs = C / groups;
    for (int64_t group = 0; group < groups; group++)
        for (int64_t first = 0; first < outputs; first += byte_row) {
            const int64_t channels = least(byte_row, outputs - first);
            for (int64_t k = 0; k < byte_row; k++) {
                const int64_t c = k / byte_chunk * byte_chunk + channel_of_byte((int)(k % byte_chunk));
                for (int64_t i = 0; i < inputs; i++)
                    for (int64_t tap = 0; tap < taps; tap++)
                        packed[(tap * inputs + i) * byte_row + k] =
                            c < channels ? (uint8_t)(int)(weight[(c * inputs + i) * taps + tap] / unit[c] + byte_zero)
                                         : byte_zero;
            }
            weight += channels * inputs * taps, unit += channels, packed += byte_row * inputs * taps;
        }
}

// Channels of a pass, whose sums are in registers: of some steps together, or of one.
constexpr int row_pass = Vec::width == 16 ? 64 : 32, message_pass = 64;
constexpr int64_t place_group = 16;  // output pixels of a task

// The number of spikes in all steps, and in the last one.
struct Fired {
    int64_t all = 0, last = 0;
};

// The counts of a task: spikes, and weights that were added to a sum.
struct Counted {
    int64_t spikes = 0, additions = 0;
};

// Whether there are no neurons, so that all that arrives is passed on.
static inline bool passes_on(const SigmaDelta& s) { return s.arrived && s.threshold == INFINITY; }

struct SigmaDeltaCall {
    const SigmaDelta& s;
    Messages messages;
    ByteWeights bytes;  // instead of s.weight, for an input that is listed in `codes`; or none
    CodeLists codes;
    bool has_tiles = false;  // whether the processor multiplies matrix tiles
    const int64_t* places = nullptr;  // the output pixels, as image * P + pixel, ascending; null: all
    int64_t count;  // the number of output pixels
    uint8_t *sent = nullptr, *last = nullptr;  // [N, P] or null: set to 1 where anything is sent, or is sent at the last step

    explicit SigmaDeltaCall(const SigmaDelta& s) : s(s), count(s.N * s.P) {}
    int64_t place(int64_t i) const { return places ? places[i] : i; }
    // Marks that some channels of this pixel sent something. Several threads may write the marks of one pixel.
    void note(int64_t place, const Fired& fired) const {
        if (sent && (fired.all || passes_on(s))) __atomic_store_n(sent + place, 1, __ATOMIC_RELAXED);
        if (last && fired.last) __atomic_store_n(last + place, 1, __ATOMIC_RELAXED);
    }
};

// The number of channels from `channel` to the end of its group.
static inline int64_t channels_left(const SigmaDelta& s, int64_t channel) {
    return s.groups == 1 ? s.C - channel : s.C / s.groups - channel % (s.C / s.groups);
}

// The passes of a call. Each computes up to `most` output channels of one group.
struct Passes {
    int64_t most, of_group, count;
    explicit Passes(const SigmaDelta& s, int64_t most = row_pass)
        : most(most), of_group(ceil_div(s.C / s.groups, most)), count(of_group * s.groups) {}
    int64_t channel(const SigmaDelta& s, int64_t pass) const {
        return pass / of_group * (s.C / s.groups) + pass % of_group * most;
    }
};

// The taps of a window that lie inside the image, as offsets of their values (relative to `first`) and of their weights.
struct SigmaDeltaTaps {
    int64_t *x, *pixel, *weight;
    // `inside`: the tap_weights for which the taps of a whole window were listed, and can be reused; -1: they were not.
    int64_t first = 0, first_pixel = 0, count = 0, inside = -1;
    SigmaDeltaTaps(const SigmaDelta& s, Carver& carver) {
        for (int64_t** list : {&x, &pixel, &weight}) *list = carver.take<int64_t>(s.kernel_h * s.kernel_w);
    }
    void find(const SigmaDelta& s, int64_t row, int64_t column, int64_t tap_weights) {
        const int64_t top = row * s.stride_h - s.padding_h, left = column * s.stride_w - s.padding_w;
        const bool whole = top >= 0 && top + (s.kernel_h - 1) * s.dilation_h < s.H && left >= 0 &&
                           left + (s.kernel_w - 1) * s.dilation_w < s.W;
        first_pixel = top * s.W + left, first = first_pixel * s.C_in;
        if (whole && inside == tap_weights) return;
        inside = whole ? tap_weights : -1;
        count = 0;
        for (int64_t ky = 0, y = 0; ky < s.kernel_h; ky++, y += s.dilation_h) {
            if (top + y < 0 || top + y >= s.H) continue;
            for (int64_t kx = 0, x_ = 0; kx < s.kernel_w; kx++, x_ += s.dilation_w) {
                if (left + x_ < 0 || left + x_ >= s.W) continue;
                pixel[count] = y * s.W + x_, x[count] = pixel[count] * s.C_in;
                weight[count++] = (ky * s.kernel_w + kx) * tap_weights;
            }
        }
        PK_ASSERT(count <= s.kernel_h * s.kernel_w);
    }
};

static inline int64_t place_tasks(const SigmaDeltaCall& call, int64_t most = row_pass) {
    return ceil_div(call.count, place_group) * Passes(call.s, most).count;
}

// Runs a task of a convolution (rows_task; or, after list_messages, messages_task), or of a depthwise convolution
// (depthwise_task).
void rows_task(const SigmaDeltaCall& call, int64_t task, SigmaDeltaTaps& taps, Counted& counted);
void messages_task(const SigmaDeltaCall& call, int64_t task, SigmaDeltaTaps& taps, Counted& counted);
void depthwise_task(const SigmaDeltaCall& call, int64_t task, SigmaDeltaTaps& taps, Counted& counted);

constexpr int64_t dense_rows = 24;  // output pixels of a task, and windows that are multiplied together
constexpr int64_t dense_depth = 1024;  // values of a window that are multiplied at a time

// The scratch memory of a thread.
struct DenseScratch {
    static constexpr int64_t stride = dense_depth + 64 + Vec::width;  // the last 64 values may exceed the depth; whole vectors
    float *values, *sums;  // [dense_rows][stride]; [place, step][channels]
    DenseScratch(const SigmaDelta& s, Carver& carver)
        : values(carver.take<float>(dense_rows * stride)), sums(carver.take<float>((s.T_in + 1) * dense_rows * row_pass)) {}
};

static inline int64_t dense_tasks(const SigmaDeltaCall& call) {
    return ceil_div(call.count, dense_rows) * Passes(call.s).count;
}

// The same as rows_task for one group of channels, by a matrix product.
void dense_task(const SigmaDeltaCall& call, int64_t task, DenseScratch& scratch, Counted& counted);

// The scratch memory of a thread.
struct ScatterScratch {
    float* sums;  // [step][pixel][channels]
    ScatterScratch(const SigmaDelta& s, Carver& carver);
};

// The same as rows_task for one group of channels and a small window. Tasks of their own number.
bool can_scatter(const SigmaDelta& s);
int64_t scatter_tasks(const SigmaDeltaCall& call);
void scatter_task(const SigmaDeltaCall& call, int64_t task, ScatterScratch& scratch, Counted& counted);

// The share of active inputs above which matrix products are faster; and that share, estimated from a sample of the inputs.
double dense_rate(const SigmaDeltaCall& call);
double rate_of(const SigmaDelta& s);

// Lists the messages of the input pixels first .. last - 1, numbered (image * T_in + t) * H * W + pixel.
void list_messages(const SigmaDeltaCall& call, int64_t first, int64_t last);

// Lists the codes of the input pixels first .. last - 1, numbered as for list_messages; or writes all of them.
void list_codes(const SigmaDeltaCall& call, int64_t first, int64_t last);
void write_all_codes(const SigmaDeltaCall& call, int64_t first, int64_t last);

// The scratch memory of a thread: the entries of the windows of a task; those of a window of one tap lie in a list already.
struct ByteScratch {
    SigmaDeltaTaps taps;
    uint16_t* row;
    int8_t* code;
    ByteScratch(const SigmaDelta& s, Carver& carver) : taps(s, carver) {
        const int64_t of_window = s.kernel_h * s.kernel_w, windows = of_window > 1 ? place_group : 0;
        const int64_t most_entries = windows * of_window * (s.C_in / s.groups) + 3 * place_group + codes_behind;
        row = carver.take<uint16_t>(most_entries), code = carver.take<int8_t>(most_entries);
    }
};

// The same as messages_task, after list_codes. Tasks of their own number.
int64_t byte_row_tasks(const SigmaDeltaCall& call);
void byte_rows_task(const SigmaDeltaCall& call, int64_t task, ByteScratch& scratch, Counted& counted);

constexpr int64_t byte_places = 48;  // output pixels of a task of products, a multiple of those of each tile
constexpr int64_t byte_depth = 512;  // rows of weights that are interleaved at a time, a multiple of 64

// The scratch memory of a thread.
struct ByteProductScratch {
    const int64_t stride;  // codes of a window, with zeros up to a multiple of 64; an odd multiple, for the cache's sets
    int8_t* codes;  // [byte_places][stride]
    int32_t *code_sums, *counts;  // [byte_places]: of the codes of a window; of those that are not 0
    uint8_t* weights;  // [vector of channels][group of four rows][channel][4]
    int32_t* sums;  // [vector of channels][byte_places][channel]
    ByteProductScratch(const SigmaDelta& s, Carver& carver)
        : stride((ceil_div(s.kernel_h * s.kernel_w * (s.C_in / s.groups), 64) | 1) * 64) {
        codes = carver.take<int8_t>(byte_places * stride + 64);
        code_sums = carver.take<int32_t>(byte_places), counts = carver.take<int32_t>(byte_places);
        weights = carver.take<uint8_t>(byte_depth * message_pass);
        sums = carver.take<int32_t>(byte_places * message_pass);
    }
};

// The same as byte_rows_task, for a run of one step, after write_all_codes. Tasks of their own number.
int64_t byte_product_tasks(const SigmaDeltaCall& call);
void byte_products_task(const SigmaDeltaCall& call, int64_t task, ByteProductScratch& scratch, Counted& counted);
// The share of active inputs above which products are faster than rows; above 1 where no instruction adds up products of bytes.
double byte_product_rate(const SigmaDeltaCall& call);

// The scratch memory of a thread.
struct MaximumScratch {
    SigmaDeltaTaps taps;
    float* sums;  // [taps][row_pass]
    MaximumScratch(const SigmaDelta& s, Carver& carver)
        : taps(s, carver), sums(carver.take<float>(s.kernel_h * s.kernel_w * row_pass)) {}
};

// Max pooling: a task; and, after all tasks, adding the inputs to the sums z, for input pixels first .. last - 1, numbered
// image * H * W + pixel.
void maximum_task(const SigmaDeltaCall& call, int64_t task, MaximumScratch& scratch, Counted& counted);
void add_up_sent(const SigmaDelta& s, int64_t first, int64_t last);

// The layout of the weights of sigma-delta convolutions.
constexpr int64_t sigma_delta_row = 64;  // the most channels of a row of weights

// The number of channels of rows, including padding.
static inline int64_t sigma_delta_filled(int64_t channels) { return ceil_div(channels, 16) * 16; }

// Packs weights [C, inputs of a group, taps]. For each group: rows [tap][input][channel] of its first 64 output channels, then
// of the next 64, and so on; the last rows are padded to a multiple of 16 channels.
inline void pack_sigma_delta(const float* weight, float* packed, int64_t C, int64_t inputs, int64_t taps, int64_t groups) {
    const int64_t outputs = C / groups;
    for (int64_t group = 0; group < groups; group++)
        for (int64_t first = 0; first < outputs; first += sigma_delta_row) {
            const int64_t channels = least(sigma_delta_row, outputs - first), row = sigma_delta_filled(channels);
            for (int64_t i = 0; i < inputs; i++)
                for (int64_t tap = 0; tap < taps; tap++)
                    for (int64_t c = 0; c < row; c++)
                        packed[(tap * inputs + i) * row + c] = c < channels ? weight[(c * inputs + i) * taps + tap] : 0;
            weight += channels * inputs * taps, packed += row * inputs * taps;
        }
}

struct SigmaDeltaRows {
    int64_t inputs, row;  // inputs of a group; weights of a row
    int64_t first_input = 0;
    const float* weight;
    SigmaDeltaRows(const SigmaDelta& s, int64_t channel) : inputs(s.C_in / s.groups) {
        const int64_t outputs = s.C / s.groups, taps = s.kernel_h * s.kernel_w, group = channel / outputs;
        const int64_t within = channel - group * outputs, block = within / sigma_delta_row * sigma_delta_row;
        row = least(sigma_delta_row, sigma_delta_filled(outputs - block));
        first_input = group * inputs;
        weight = s.weight + (group * sigma_delta_filled(outputs) + block) * taps * inputs + (within - block);
    }
};

}  // namespace PK_TARGET
