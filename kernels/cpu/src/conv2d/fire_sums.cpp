// The neurons of a convolution that adds rows of weights. Compiled once for each neuron model, for all kinds of rows.
#include "row_sums.h"

namespace PK_TARGET {

constexpr int64_t piece = 32;  // sums that are turned into currents at a time

// Turns the sums of a row of channels into their currents: adds bias, shared sums and shortcut.
struct SumsOfChannels {
    const Conv2d& c;
    const Region& segment;
    const Sums& sums;
    const int64_t channel;
    const int first, count;  // the first register of a sum; number of channels
    const int64_t* const starts;  // of pooled currents: the first sum of each pixel; or null
    const bool plain;        // sums are floats and not pooled, there is no shortcut, and currents need not be written
    const Row unit, bias;

    SumsOfChannels(const Conv2d& c, const Region& segment, const Sums& sums, int64_t channel, int first, const int64_t* starts)
        : c(c),
          segment(segment),
          sums(sums),
          channel(channel),
          first(first),
          count((int)least(c.neurons.C - channel, row)),
          starts(starts),
          plain(!sums.to_floats && !starts && !c.shortcut && !c.neurons.currents),
          unit(sums.to_floats ? load_block<row>(c.unit + channel) : Row{}),
          bias(load_block<row>(c.bias + channel)) {}

    const char* at(int64_t pixel, int64_t sum) const { return sums.data + pixel * sums.pixel + sum * sums.sum; }
    const float* floats(int64_t pixel, int64_t sum) const { return (const float*)at(pixel, sum) + first * Vec::width; }

    // For float sums: the part of the current that all steps of a span share.
    Row shared(int64_t pixel, int64_t step) const {
        Row all = bias;
        if (sums.span) add(all, load_block<row>(floats(pixel, segment.steps + step / sums.span)));
        return all;
    }

    // Writes the currents of `steps` steps, at most a piece, from `step` on.
    void make(int64_t pixel, const Place& place, int64_t step, int64_t steps, float* to) const {
        make_one(starts ? starts[pixel] : pixel, step, steps, to);
        for (int64_t i = starts ? starts[pixel] + 1 : 0; starts && i < starts[pixel + 1]; i++) {
            float other[piece * row];
            make_one(i, step, steps, other);
            for (int64_t k = 0; k < steps * row; k += Vec::width) store(to + k, greater(load(to + k), load(other + k)));
        }
        if (c.shortcut || c.neurons.currents) add_shortcut(place, segment.t + step, steps, to);
    }

private:
    OUT_OF_LINE void make_one(int64_t pixel, int64_t step, int64_t steps, float* to) const {
        if (sums.to_floats) {
            float rest[row];
            store_block(rest, bias);
            if (sums.span) sums.to_floats(at(pixel, segment.steps + step / sums.span), 1, 0, first, unit, bias, rest);
            sums.to_floats(at(pixel, step), steps, sums.sum, first, unit, load_block<row>(rest), to);
        } else {
            const Row rest = shared(pixel, step);
            for (int64_t k = 0; k < steps; k++) {
                Row current = load_block<row>(floats(pixel, step + k));
                add(current, rest);
                store_block(to + k * row, current);
            }
        }
    }

    // Adds the spikes of a shortcut to the currents of a pixel, from step t on, and writes them where they are wanted.
    void add_shortcut(const Place& place, int64_t t, int64_t steps, float* to) const {
        const Neurons& n = c.neurons;
        const int64_t p = place.y * c.W_out + place.x, bytes = (n.C + 7) / 8;
        for (int64_t k = 0; k < steps; k++) {
            Row current = load_block<row>(to + k * row);
            if (c.shortcut)
                add_spikes(current, c.shortcut + ((place.image * n.T + t + k) * n.P + p) * bytes + channel / 8, count);
            if (n.currents) store_block(n.currents + (((t + k) * n.N + place.image) * n.P + p) * n.C + channel, current, count);
            store_block(to + k * row, current);
        }
    }
};

template <int pixels, class Model>
OUT_OF_LINE static void fire_as(const SumsOfChannels& source, const Place* places) {
    const Conv2d& c = source.c;
    const Neurons n = c.neurons;  // copies: the compiler cannot rule out that storing spikes changes the originals
    const int64_t steps = source.segment.steps, t = source.segment.t, channel = source.channel, span = source.sums.span;
    const int count = source.count;
    const bool plain = source.plain;
    const int64_t bytes = (n.C + 7) / 8, frame = n.P * bytes;
    const int64_t longest = plain && !span ? steps : span ? least(span, piece) : piece;
    const NeuronBlock<Model, row> neurons(n.neuron, channel);
    float made[pixels][piece * row];
    uint8_t* out[pixels];
    float* kept[pixels];
    NeuronStates<Model::states, row> state[pixels];
    each<pixels>([&](auto i) {
        const int64_t image = places[i].image, p = places[i].y * c.W_out + places[i].x;
        out[i] = n.spikes + ((image * n.T + t) * n.P + p) * bytes + channel / 8;
        kept[i] = states_of<Model>(n, image, p, channel);
        load_states<Model>(state[i], n, t, image, p, channel, count);
    });
    const int64_t next = plain ? source.sums.sum / (int64_t)sizeof(float) : row;
    for (int64_t first = 0, last; first < steps; first = last) {
        last = least(first + longest, steps);
        const float* current[pixels];
        Row rest[pixels];
        each<pixels>([&](auto i) {
            rest[i] = plain ? source.shared(i, first) : broadcast_block<row>(0.0f);
            if (!plain) source.make(i, places[i], first, last - first, made[i]);
            current[i] = plain ? source.floats(i, first) : made[i];
        });
        for (int64_t s = first; s < last; s++)
            each<pixels>([&](auto i) {
                Row input = load_block<row>(current[i] + (s - first) * next);
                add(input, rest[i]);
                const uint32_t spikes = step_block(neurons, state[i], input);
                store_spikes<row>(out[i] + s * frame, spikes, count);
            });
    }
    each<pixels>([&](auto i) { store_states(kept[i], n, state[i], count); });
}

void fire(const Conv2d& c, const Region& segment, const Place* places, int64_t count, int64_t channel, const Sums& sums,
          int first, const int64_t* starts) {
    PK_ASSERT(count == together || count == 1);
    PK_ASSERT(!sums.span || sums.span <= piece);
    const SumsOfChannels source(c, segment, sums, channel, first, starts);
    with_model_or_sums(c.neurons.neuron, [&](auto model) {
        if (count == 1) fire_as<1, decltype(model)>(source, places);
        else fire_as<together, decltype(model)>(source, places);
    });
}

}  // namespace PK_TARGET
