// Convolution of float values of which most are 0, such as graded spikes: the others are listed once for all windows and
// channels, and each adds its row of weights times its value.
#include "senders.h"

namespace PK_TARGET {

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
// one row to the next.
template <int channels>
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
            const Vec value = broadcast(message->value);
            const float* const weights = of_tap + message->input * row;
            for (int k = 0; k < sum.vecs; k++) sum.v[k] = multiply_add(value, load(weights + k * Vec::width), sum.v[k]);
        }
    }
    sums = sum;
    return rows;
}

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
                                 const uint32_t* const count = call.messages.count + first * s.groups + group;
                                 int64_t added = 0;
                                 const auto add = [&](int64_t t, auto steps, auto* sums) {
                                     each<steps>([&](auto k) {
                                         const int64_t frame = (t + k) * s.H * s.W;
                                         added += add_messages<channels>(taps, of + frame * s.C_in, count + frame * s.groups,
                                                                         s.groups, rows.weight, rows.row, sums[k]);
                                     });
                                 };
                                 const Fired fired = fire_sigma_delta(s, image, pixel, channel, Arrive::of<channels>(add));
                                 return std::pair(added * least(channels_left(s, channel), channels), fired);
                             });
}

}  // namespace PK_TARGET
