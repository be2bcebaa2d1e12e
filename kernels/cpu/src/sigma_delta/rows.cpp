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

}  // namespace PK_TARGET
