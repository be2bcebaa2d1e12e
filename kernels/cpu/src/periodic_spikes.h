// Periodic spikes: a neuron with one state that is reset to the potential from which it started, and that receives the same
// current at every step, fires at the steps t where its period divides t + 1.
#pragma once
#include "if_scan.h"
#include "packed_spikes.h"

namespace PK_TARGET {

// Finds the first spikes of `count` blocks of 32 neurons, which are run together as in if_scan.h, and leaves their potentials
// after T steps.
template <int count, class Model>
static inline void find_blocks(const Periods& p, const int64_t* pixels, int64_t index, Model) {
    const int64_t blocks = ceil_div(p.C, block), T = p.T;
    Block current[count], first[count];
    NeuronStates<1, block> state[count];
    NeuronBlock<Model, block> neurons[count];
    int64_t place[count];
    int channels[count];
    each<count>([&](auto b) {
        const int64_t channel = (index + b) % blocks * block;
        place[b] = pixels[(index + b) / blocks] * p.C + channel;
        channels[b] = (int)least(p.C - channel, block);
        current[b] = load_block(p.current + place[b], channels[b]);
        neurons[b] = NeuronBlock<Model, block>(p.neuron, channel);
        state[b].part[0] = load_block(p.v + place[b], channels[b]);
        first[b] = broadcast_block((float)(T + 1));
    });
    for (int64_t t = 1; t <= T; t++) {
        const Vec now = broadcast((float)t);
        each<count>([&](auto b) {
            for (int i = 0; i < vecs; i++) {
                const Vec::Mask fires = neurons[b].step(state[b], current[b].v[i], i);
                Vec& known = first[b].v[i];
                known = select(fires, lesser(known, now), known);
            }
        });
    }
    each<count>([&](auto b) {
        store_block(p.v + place[b], state[b].part[0], channels[b]);
        float steps[block];
        store_block(steps, first[b], block);
        for (int i = 0; i < channels[b]; i++) p.periods[place[b] + i] = (uint16_t)(steps[i] > (float)T ? 0 : steps[i]);
    });
}

void find_periods(const Periods* periods) {
    const Periods p = *periods;
    const auto like_the_last = [&](int64_t i) {  // equal currents are enough, as all neurons start at rest
        return !memcmp(p.current + i * p.C, p.current + (i - 1) * p.C, p.C * sizeof(float));
    };
    const Repeats repeats(p.M, like_the_last);
    const int64_t blocks = repeats.count * ceil_div(p.C, block);
    with_model(p.neuron, [&](auto model) {
        if constexpr (model.states == 1) {
#pragma omp parallel for schedule(static)
            for (int64_t index = 0; index < blocks; index += side_by_side) {
                if (index + side_by_side <= blocks) find_blocks<side_by_side>(p, repeats.pixels.data, index, model);
                else
                    for (int64_t i = index; i < blocks; i++) find_blocks<1>(p, repeats.pixels.data, i, model);
            }
        }
    });
    repeats.each_copy([&](int64_t from, int64_t to) {
        memcpy(p.v + to * p.C, p.v + from * p.C, p.C * sizeof(float));
        memcpy(p.periods + to * p.C, p.periods + from * p.C, p.C * sizeof(uint16_t));
    });
}

void expand_periods(const uint16_t* periods, uint8_t* spikes, int64_t start, int64_t T, int64_t N, int64_t P, int64_t C) {
    const int64_t bytes = (C + 7) / 8;
#pragma omp parallel for schedule(static)
    for (int64_t pixel = 0; pixel < N * P; pixel++) {
        uint8_t* out = spikes + (pixel / P * T * P + pixel % P) * bytes;
        for (int64_t c = 0; c < C; c++) {
            const int64_t p = periods[pixel * C + c];
            if (!p) continue;
            for (int64_t t = ceil_div(start + 1, p) * p - start - 1; t < T; t += p)
                out[t * P * bytes + c / 8] |= (uint8_t)(1 << c % 8);
        }
    }
}

void total_periods(const uint16_t* periods, int64_t* totals, int64_t start, int64_t T, int64_t N, int64_t P, int64_t C) {
    const int64_t end = least(start + T, UINT16_MAX);
    ThreadMemory<int32_t> spikes(end + 2);  // [period]: spikes of such a neuron; the last entry, 0, is for all longer periods
    for (int64_t p = 1; p <= end; p++) spikes.data[p] = (int32_t)((start + T) / p - start / p);
    sum_up(N, P, totals, [&](int64_t image, int64_t* sums) {
        const uint16_t* period = periods + image * P * C;
        for (int64_t p = 0; p < P; p++)
            for (int64_t c = 0; c < C; c++) sums[p] += spikes.data[least(*period++, end + 1)];
    });
}

}  // namespace PK_TARGET
