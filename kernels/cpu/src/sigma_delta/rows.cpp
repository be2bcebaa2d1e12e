// Convolution of the codes of sigma-delta neurons: for each input that is not silent, adds its row of weights times its power
// of two. Float values, such as images, are handled in the same way.
#include "senders.h"

namespace PK_TARGET {

// Whether it is faster to multiply active inputs at all of `steps` steps, given that `any` inputs have `events` non-zero values
// in these steps. A row is then loaded once, and its products are independent; a single event takes the latency of a product.
template <int vecs, int steps>
static inline bool dense(int64_t events, int64_t any) {
    constexpr int64_t halves = steps > 2 ? (vecs > 2 ? 4 : 3) : 2;
    return steps > 1 && 2 * events > halves * any;
}

// Adds the rows of all active inputs of a window, at some steps; returns the number of rows added. `frame`: values from one
// step to the next; `row`: weights from one row to the next.
template <int channels, int steps, class Value>
static OUT_OF_LINE int64_t add_window(const SigmaDeltaTaps& taps, const Value* x, int64_t frame, const float* weight,
                                      int64_t C_in, int64_t row, Lanes<channels>* sums) {
    Lanes<channels> sum[steps];
    each<steps>([&](auto t) { sum[t] = sums[t]; });
    int64_t rows = 0;
    for (int64_t tap = 0; tap < taps.count; tap++) {
        const Value* const values = x + taps.first + taps.x[tap];
        const float* const of_tap = weight + taps.weight[tap];
        for (int64_t i = 0; i < C_in; i += 64) {
            uint64_t found[steps], any = 0;
            int64_t events = 0;
            each<steps>([&](auto t) {
                found[t] = not_zero(values + t * frame + i, least(64, C_in - i));
                any |= found[t];
                events += __builtin_popcountll(found[t]);
            });
            rows += events;
            if (dense<Lanes<channels>::vecs, steps>(events, __builtin_popcountll(any)))
                for (; any; any &= any - 1) {
                    const int64_t input = i + __builtin_ctzll(any);
                    const Lanes<channels> weights = load_block<channels>(of_tap + input * row);
                    each<steps>([&](auto t) {
                        const Vec value = broadcast(value_of(values[t * frame + input]));
                        for (int k = 0; k < weights.vecs; k++) sum[t].v[k] = multiply_add(value, weights.v[k], sum[t].v[k]);
                    });
                }
            else
                each<steps>([&](auto t) {
                    for (uint64_t left = found[t]; left; left &= left - 1) {
                        const int64_t input = i + __builtin_ctzll(left);
                        const Vec value = broadcast(value_of(values[t * frame + input]));
                        const float* const weights = of_tap + input * row;
                        for (int k = 0; k < sum[t].vecs; k++)
                            sum[t].v[k] = multiply_add(value, load(weights + k * Vec::width), sum[t].v[k]);
                    }
                });
        }
    }
    each<steps>([&](auto t) { sums[t] = sum[t]; });
    return rows;
}

template <class Value>
static void rows_task_of(const SigmaDeltaCall& call, int64_t task, SigmaDeltaTaps& taps, Counted& counted) {
    const SigmaDelta& s = call.s;
    const auto tap_weights = [&](int64_t channel) {
        const SigmaDeltaRows rows(s, channel);
        return rows.inputs * rows.row;
    };
    each_place(call, task, taps, counted, tap_weights,
               [&](auto channels, int64_t image, int64_t pixel, int64_t channel, const auto& taps) {
                   const SigmaDeltaRows rows(s, channel);
                   const int64_t frame = s.H * s.W * s.C_in;
                   const Value* const x = (const Value*)s.x + image * s.T_in * frame + rows.first_input;
                   int64_t added = 0;
                   const auto add = [&](int64_t t, auto steps, auto* sums) {
                       added +=
                           add_window<channels, steps>(taps, x + t * frame, frame, rows.weight, rows.inputs, rows.row, sums);
                   };
                   const Fired fired = fire_sigma_delta(s, image, pixel, channel, Arrive::of<channels>(add));
                   return std::pair(added * least(channels_left(s, channel), channels), fired);
               });
}

void rows_task(const SigmaDeltaCall& call, int64_t task, SigmaDeltaTaps& taps, Counted& counted) {
    (call.s.real ? rows_task_of<float> : rows_task_of<int8_t>)(call, task, taps, counted);
}

// Depthwise convolutions of the codes of sigma-delta neurons.

// Adds n channels of all pixels of a window times their weights, at some steps; returns how many values were non-zero.
template <int channels, int steps, class Value>
static OUT_OF_LINE int64_t add_depthwise(const SigmaDeltaTaps& taps, const Value* x, int64_t frame, const float* weight,
                                         int64_t n, Lanes<channels>* sums) {
    Lanes<channels> sum[steps];
    each<steps>([&](auto t) { sum[t] = sums[t]; });
    int64_t additions = 0;
    for (int64_t tap = 0; tap < taps.count; tap++) {
        const Value* const values = x + taps.first + taps.x[tap];
        const float* const weights = weight + taps.weight[tap];
        uint64_t any = 0;
        each<steps>([&](auto t) {
            const uint64_t found = not_zero(values + t * frame, n);
            any |= found;
            additions += __builtin_popcountll(found);
        });
        if (!any) continue;
        for (int k = 0; k < Lanes<channels>::vecs; k++) {
            const Vec w = load(weights + k * Vec::width);
            each<steps>([&](auto t) {
                const Vec value = load_values(values + t * frame + k * Vec::width, n - k * Vec::width);
                sum[t].v[k] = multiply_add(value, w, sum[t].v[k]);
            });
        }
    }
    each<steps>([&](auto t) { sums[t] = sum[t]; });
    return additions;
}

// Output channel c reads only input channel c. The weights are in the order of pack_taps (../conv2d/pixel_by_pixel.h).
template <class Value>
static void depthwise_task_of(const SigmaDeltaCall& call, int64_t task, SigmaDeltaTaps& taps, Counted& counted) {
    const SigmaDelta& s = call.s;
    const int64_t filled = ceil_div(s.C, block) * block, frame = s.H * s.W * s.C;
    const auto tap_weights = [&](int64_t) { return filled; };
    each_place(call, task, taps, counted, tap_weights,
               [&](auto channels, int64_t image, int64_t pixel, int64_t channel, const auto& taps) {
                   const int64_t n = least(s.C - channel, channels);
                   const Value* const x = (const Value*)s.x + image * s.T_in * frame + channel;
                   const float* const weight = s.weight + channel;
                   int64_t additions = 0;
                   const auto add = [&](int64_t t, auto steps, auto* sums) {
                       constexpr int together = std::is_same_v<Value, float> ? 1 : steps;  // float values: a step at a time
                       each<steps / together>([&](auto k) {
                           additions +=
                               add_depthwise<channels, together>(taps, x + (t + k) * frame, frame, weight, n, sums + k);
                       });
                   };
                   const Fired fired = fire_sigma_delta(s, image, pixel, channel, Arrive::of<channels>(add));
                   return std::pair(additions, fired);
               });
}

void depthwise_task(const SigmaDeltaCall& call, int64_t task, SigmaDeltaTaps& taps, Counted& counted) {
    (call.s.real ? depthwise_task_of<float> : depthwise_task_of<int8_t>)(call, task, taps, counted);
}

// Convolution of float values of which most are 0, such as graded spikes: the others are listed once for all windows and
// channels, and each adds its row of weights times its value.

void list_messages(const SigmaDeltaCall& call, int64_t first, int64_t last) {
    const SigmaDelta& s = call.s;
    const int64_t inputs = s.C_in / s.groups;
    for (int64_t pixel = first; pixel < last; pixel++)
        for (int64_t group = 0; group < s.groups; group++) {
            const int64_t at = pixel * s.C_in + group * inputs;
            const float* const x = (const float*)s.x + at;
            Message* to = call.messages.of + at;
            for (int64_t i = 0; i < inputs; i += 64)
                for (uint64_t found = not_zero(x + i, least(64, inputs - i)); found; found &= found - 1) {
                    const uint32_t input = (uint32_t)(i + __builtin_ctzll(found));
                    *to++ = {input, x[input]};
                }
            call.messages.count[pixel * s.groups + group] = (uint32_t)(to - call.messages.of - at);
        }
}

// Adds the rows of all messages of a window at a step; returns how many. `of`, `count`: those of the step; `row`: weights from
// one row to the next. `far`: whether the weights of the window are too many for the second-level cache; then rows are
// prefetched.
template <int channels, bool far>
static OUT_OF_LINE int64_t add_messages(const SigmaDeltaTaps& taps, const Message* of, const uint32_t* count, int64_t groups,
                                        const float* weight, int64_t row, Lanes<channels>& sums) {
    Lanes<channels> sum = sums;
    int64_t rows = 0;
    for (int64_t tap = 0; tap < taps.count; tap++) {
        const Message* message = of + taps.first + taps.x[tap];
        const uint32_t n = count[(taps.first_pixel + taps.pixel[tap]) * groups];
        const float* const of_tap = weight + taps.weight[tap];
        rows += n;
        for (const Message* const end = message + n; message < end; message++) {
            constexpr int64_t ahead = 32;  // rows; at most 128 cache lines
            if (far && end - message > ahead)
                for (int i = 0; i < channels; i += 16) prefetch(of_tap + message[ahead].input * row + i);
            const Vec value = broadcast(message->value);
            const float* const weights = of_tap + message->input * row;
            for (int k = 0; k < sum.vecs; k++) sum.v[k] = multiply_add(value, load(weights + k * Vec::width), sum.v[k]);
        }
    }
    sums = sum;
    return rows;
}

constexpr int64_t far_weights = 1 << 17;  // of a pass: half a megabyte, as much as some second-level caches have

void messages_task(const SigmaDeltaCall& call, int64_t task, SigmaDeltaTaps& taps, Counted& counted) {
    const SigmaDelta& s = call.s;
    const auto tap_weights = [&](int64_t channel) {
        const SigmaDeltaRows rows(s, channel);
        return rows.inputs * rows.row;
    };
    each_place<message_pass>(call, task, taps, counted, tap_weights,
                             [&](auto channels, int64_t image, int64_t pixel, int64_t channel, const auto& taps) {
                                 const SigmaDeltaRows rows(s, channel);
                                 const int64_t first = image * s.T_in * s.H * s.W, group = channel / (s.C / s.groups);
                                 const Message* const of = call.messages.of + first * s.C_in + rows.first_input;
                                 const bool far = s.kernel_h * s.kernel_w * rows.inputs * channels > far_weights;
                                 const uint32_t* const count = call.messages.count + first * s.groups + group;
                                 int64_t added = 0;
                                 const auto add = [&](int64_t t, auto steps, auto* sums) {
                                     each<steps>([&](auto k) {
                                         const int64_t frame = (t + k) * s.H * s.W;
                                         const auto add = far ? add_messages<channels, true> : add_messages<channels, false>;
                                         added += add(taps, of + frame * s.C_in, count + frame * s.groups, s.groups,
                                                      rows.weight, rows.row, sums[k]);
                                     });
                                 };
                                 const Fired fired = fire<channels>(s, image, pixel, channel, add);
                                 return std::pair(added * least(channels_left(s, channel), channels), fired);
                             });
}

}  // namespace PK_TARGET
