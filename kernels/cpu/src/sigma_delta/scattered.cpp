// Convolutions of small windows, an input pixel after the other: the sums of all output pixels in its reach are in registers
// while each of its values that is not 0 is multiplied by their weights. The products of a value are independent, where those of
// a window (rows.cpp) wait for each other, and nothing is computed with 0, as in dense.cpp. An output pixel meets its inputs in
// the order of rows.cpp, so the results are bit-equal.
#include <algorithm>

#include "senders.h"

namespace PK_TARGET {

constexpr int most_reach = 3;  // output pixels along an axis
constexpr int scattered_vecs = Vec::width == 16 ? 2 : 1;  // of channels whose sums fit registers, for all pixels in reach

// The output pixels from `begin` to `end` - 1 that an input pixel reaches along an axis: `count` from `first` on, by the tap
// `tap`, and each next one by a tap that is `stride` lower.
struct Reach {
    int64_t first, count, tap;
    Reach(int64_t pixel, int64_t padding, int64_t kernel, int64_t stride, int64_t begin, int64_t end) {
        const auto divided = [&](int64_t value) { return stride == 1 ? value : (int64_t)((uint32_t)value / (uint32_t)stride); };
        const int64_t at = pixel + padding, behind = at - kernel;  // the taps are from 0 to kernel - 1
        first = most(begin, behind < 0 ? 0 : divided(behind) + 1);
        count = least(end, divided(at) + 1) - first;
        tap = at - first * stride;
    }
};

// Weights from one to the next: inputs, and output pixels below and to the right.
struct Strides {
    int64_t input, row, column;
};

// Adds the products of 64 inputs at most, those whose bits are set in `found`. sums: of the first output pixel in reach;
// `below`, `right`: from one to the next.
template <int rows, int columns, int vecs, class Value>
static OUT_OF_LINE void scatter(const Value* values, uint64_t found, const float* weight, const Strides& next, float* sums,
                                int64_t below, int64_t right) {
    const int64_t input = next.input, row = next.row, column = next.column;
    Vec sum[rows][columns][vecs];
    const auto each_sum = [](auto use) {
        each<rows>([&](auto r) { each<columns>([&](auto c) { each<vecs>([&](auto v) { use(r, c, v); }); }); });
    };
    each_sum([&](auto r, auto c, auto v) { sum[r][c][v] = load(sums + r * below + c * right + v * Vec::width); });
    for (; found; found &= found - 1) {
        const int64_t i = __builtin_ctzll(found);
        const Vec value = broadcast(value_of(values[i]));
        const float* const of_input = weight + i * input;
        each_sum([&](auto r, auto c, auto v) {
            sum[r][c][v] = multiply_add(value, load(of_input + r * row + c * column + v * Vec::width), sum[r][c][v]);
        });
    }
    each_sum([&](auto r, auto c, auto v) { store(sums + r * below + c * right + v * Vec::width, sum[r][c][v]); });
}

template <class Value>
using Scatter = void (*)(const Value*, uint64_t, const float*, const Strides&, float*, int64_t, int64_t);

template <class Value>
constexpr Scatter<Value> scatter_of[scattered_vecs][most_reach][most_reach] = {
    {{scatter<1, 1, 1, Value>, scatter<1, 2, 1, Value>, scatter<1, 3, 1, Value>},
     {scatter<2, 1, 1, Value>, scatter<2, 2, 1, Value>, scatter<2, 3, 1, Value>},
     {scatter<3, 1, 1, Value>, scatter<3, 2, 1, Value>, scatter<3, 3, 1, Value>}},
#if defined(__AVX512F__)
    {{scatter<1, 1, 2, Value>, scatter<1, 2, 2, Value>, scatter<1, 3, 2, Value>},
     {scatter<2, 1, 2, Value>, scatter<2, 2, 2, Value>, scatter<2, 3, 2, Value>},
     {scatter<3, 1, 2, Value>, scatter<3, 2, 2, Value>, scatter<3, 3, 2, Value>}},
#endif
};

constexpr int64_t sums_of_band = 8 << 10;  // 32 KB, or a row
constexpr int64_t most_sums_of_row = 64 << 10;

// The sums of an output row, for the channels of a pass.
static int64_t sums_of_row(const SigmaDelta& s) {
    return most(s.T_in, 1) * s.W_out * least(row_pass, ceil_div(s.C, Vec::width) * Vec::width);
}

// Output rows of a task.
static int64_t rows_of_band(const SigmaDelta& s) {
    constexpr int64_t fewest_bands = 4;
    return most(1, least(sums_of_band / sums_of_row(s), ceil_div(s.P / s.W_out, fewest_bands)));
}

bool can_scatter(const SigmaDelta& s) {
    const auto reach = [](int64_t kernel, int64_t stride) { return ceil_div(kernel, stride) <= most_reach; };
    return s.groups == 1 && s.kernel_h * s.kernel_w > 1 && s.dilation_h == 1 && s.dilation_w == 1 &&
           reach(s.kernel_h, s.stride_h) && reach(s.kernel_w, s.stride_w) && sums_of_row(s) <= most_sums_of_row;
}

// Enough for calls of fewer steps, too.
ScatterScratch::ScatterScratch(const SigmaDelta& s, Carver& carver)
    : sums(carver.take<float>(most(sums_of_band, least(most_sums_of_row, sums_of_row(s))))) {}

static int64_t bands_of(const SigmaDelta& s) { return ceil_div(s.P / s.W_out, rows_of_band(s)); }
int64_t scatter_tasks(const SigmaDeltaCall& call) { return call.s.N * bands_of(call.s) * Passes(call.s).count; }

// The sums of the output rows first .. last - 1 of an image, for the channels of a pass.
template <int channels>
struct Band {
    const SigmaDelta& s;
    float* const sums;  // [T_in][output pixels of the band][channels]
    const int64_t image, first, last, channel;
    int64_t pixels() const { return (last - first) * s.W_out; }

    void begin() const {
        const int n = (int)least(s.C - channel, channels);
        for (int64_t t = 0; t < s.T_in; t++)
            for (int64_t i = 0; i < pixels(); i++)
                store_block(sums + (t * pixels() + i) * channels,
                            besides<channels>(s, t, (image * s.T + t) * s.P + first * s.W_out + i, channel, n));
    }

    // Adds all that arrives; returns the number of weights added.
    template <class Value>
    int64_t add(const SigmaDeltaRows& rows) const {
        const int64_t tap = rows.inputs * rows.row;
        const Strides next{rows.row, -s.stride_h * s.kernel_w * tap, -s.stride_w * tap};
        int64_t added = 0;
        for (int64_t t = 0; t < s.T_in; t++)
            for (int64_t y = 0; y < s.H; y++) {
                const Reach down(y, s.padding_h, s.kernel_h, s.stride_h, first, last);
                if (down.count <= 0) continue;
                const Value* const values = (const Value*)s.x + ((image * s.T_in + t) * s.H + y) * s.W * s.C_in;
                float* const of_rows = sums + (t * (last - first) + down.first - first) * s.W_out * channels;
                added += add_row(values, down, rows.weight + down.tap * s.kernel_w * tap, next, of_rows, tap);
            }
        return added * least(s.C - channel, channels);
    }

private:
    // Adds what a row of input pixels brings; returns the number of rows of weights.
    template <class Value>
    int64_t add_row(const Value* values, const Reach& down, const float* weight, const Strides& next, float* sums,
                    int64_t tap) const {
        constexpr int vecs = channels / Vec::width;
        int64_t added = 0;
        for (int64_t x = 0; x < s.W; x++, values += s.C_in)
            for (int64_t i = 0; i < s.C_in; i += 64) {
                const uint64_t found = not_zero(values + i, least(64, s.C_in - i));
                if (!found) continue;
                const Reach right(x, s.padding_w, s.kernel_w, s.stride_w, 0, s.W_out);
                if (right.count <= 0) break;
                added += __builtin_popcountll(found) * down.count * right.count;
                const float* const of_pixel = weight + right.tap * tap + i * next.input;
                float* const reached = sums + right.first * channels;
                for (int64_t v = 0; v < vecs; v += scattered_vecs) {
                    const int64_t here = least(scattered_vecs, vecs - v), c = v * Vec::width;
                    const Scatter<Value> add_found = scatter_of<Value>[here - 1][down.count - 1][right.count - 1];
                    add_found(values + i, found, of_pixel + c, next, reached + c, s.W_out * channels, channels);
                }
            }
        return added;
    }
};

void scatter_task(const SigmaDeltaCall& call, int64_t task, ScatterScratch& scratch, Counted& counted) {
    const SigmaDelta& s = call.s;
    const int64_t bands = bands_of(s), rows = rows_of_band(s), per_pass = s.N * bands;
    const int64_t channel = Passes(s).channel(s, task / per_pass), image = task % per_pass / bands;
    const int64_t first = task % bands * rows, last = least(first + rows, s.P / s.W_out);
    const int64_t begin = image * s.P + first * s.W_out, end = image * s.P + last * s.W_out;
    const int64_t from = call.places ? std::lower_bound(call.places, call.places + call.count, begin) - call.places : begin;
    const int64_t to = call.places ? std::lower_bound(call.places + from, call.places + call.count, end) - call.places : end;
    if (from == to) return;
    with_channels(s, channel, [&](auto channels) {
        const Band<channels> band{s, scratch.sums, image, first, last, channel};
        const SigmaDeltaRows of_pass(s, channel);
        band.begin();
        counted.additions += s.real ? band.template add<float>(of_pass) : band.template add<int8_t>(of_pass);
        fire_places<channels>(call, from, to, channel, counted, [&](int64_t, int64_t place, int64_t t) {
            return load_block<channels>(scratch.sums + (place - begin + t * band.pixels()) * channels);
        });
    });
}

}  // namespace PK_TARGET
