// Neurons on given currents.
#include "abi.h"
#include "neurons.h"
#include "work.h"
#include "packed_spikes.h"

namespace PK_TARGET {

// Runs all T steps of neurons on given currents in one pass. States stay in registers; spikes are written as bits.

// Pixels whose constant currents equal those of the pixel before, as on a plain background. If their neurons start from the
// same states too, they fire alike: they are copied instead of computed.
struct Repeats {
    const int64_t all;
    ThreadMemory<int64_t> first;  // [pixel]: the pixel that it repeats, or itself
    ThreadMemory<int64_t> pixels;  // the pixels to compute
    int64_t count = 0;

    // like_the_last(i): whether pixel i fires like the pixel before.
    template <class Like>
    Repeats(int64_t all, Like like_the_last) : all(all), first(all), pixels(all) {
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < all; i++) first.data[i] = i && like_the_last(i) ? -1 : i;
        for (int64_t i = 0; i < all; i++) {
            if (first.data[i] < 0) first.data[i] = first.data[i - 1];
            else pixels.data[count++] = i;
        }
    }

    // Calls copy(from, to) for each pixel that repeats another.
    template <class Copy>
    void each_copy(Copy copy) const {
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < all; i++)
            if (first.data[i] != i) copy(first.data[i], i);
    }
};

// The steps of a neuron depend on each other, so several blocks of 32 neurons are run together.
constexpr int side_by_side = vecs >= 8 ? 1 : 8 / vecs;

// Where a block of neurons reads and writes.
struct ScanBlock {
    const float* current;
    uint8_t* spikes;
    float* counts;
    int64_t image, pixel, channel;
    int channels;

    ScanBlock() = default;
    ScanBlock(const Scan& s, const int64_t* pixels, int64_t index) {
        const Neurons& n = s.neurons;
        const int64_t blocks = (n.C + block - 1) / block, place = pixels ? pixels[index / blocks] : index / blocks;
        const int64_t bytes = (n.C + 7) / 8;
        image = place / n.P, pixel = place % n.P, channel = index % blocks * block;
        current = s.current + place * n.C + channel;
        spikes = n.spikes + (image * n.T * n.P + pixel) * bytes + channel / 8;
        counts = s.counts ? s.counts + place * n.C + channel : nullptr;
        channels = n.C - channel < block ? (int)(n.C - channel) : block;
    }
};

template <int count, class Model>
static void scan_blocks(const Scan& s, const int64_t* pixels, int64_t first, Model) {
    const int64_t T = s.neurons.T, step_bytes = s.neurons.P * ((s.neurons.C + 7) / 8), time_stride = s.time_stride;
    ScanBlock part[count];
    float* kept[count];
    NeuronStates<Model::states, block> state[count];
    NeuronBlock<Model, block> neurons[count];
    each<count>([&](auto i) {
        part[i] = ScanBlock(s, pixels, first + i);
        kept[i] = states_of<Model>(s.neurons, part[i].image, part[i].pixel, part[i].channel);
        load_states<Model>(state[i], s.neurons, 0, part[i].image, part[i].pixel, part[i].channel, part[i].channels);
        neurons[i] = NeuronBlock<Model, block>(s.neurons.neuron, part[i].channel);
    });
    for (int64_t t = 0; t < T; t++)
        each<count>([&](auto i) {
            const Block current = load_block(part[i].current + t * time_stride, part[i].channels);
            if constexpr (counts<Model>) {
                const Block spikes = count_block(neurons[i], state[i], current);
                store_block(part[i].counts + t * s.neurons.N * s.neurons.P * s.neurons.C, spikes, part[i].channels);
            } else {
                const uint32_t spikes = step_block(neurons[i], state[i], current);
                store_spikes(part[i].spikes + t * step_bytes, spikes, part[i].channels);
            }
        });
    each<count>([&](auto i) { store_states(kept[i], s.neurons, state[i], part[i].channels); });
}

// Scans some pixels, numbered through all images; null: all pixels.
static void scan_pixels(const Scan& s, const int64_t* pixels, int64_t count) {
    const int64_t blocks = count * ceil_div(s.neurons.C, block);
    const auto scan = [&](auto model) {
#pragma omp parallel for schedule(static)
        for (int64_t first = 0; first < blocks; first += side_by_side) {
            if (first + side_by_side <= blocks) scan_blocks<side_by_side>(s, pixels, first, model);
            else
                for (int64_t i = first; i < blocks; i++) scan_blocks<1>(s, pixels, i, model);
        }
    };
    if (!with_counting_model(s.neurons.neuron, scan)) with_model_or_sums(s.neurons.neuron, scan);
}

void if_scan(const Scan* scan) {
    const Scan& s = *scan;
    const Neurons& n = s.neurons;
    const bool share_a_start = !n.start_image && !n.start_pixel;
    if (s.time_stride || !share_a_start || s.counts) return scan_pixels(s, nullptr, n.N * n.P);
    const auto like_the_last = [&](int64_t i) {
        return !memcmp(s.current + i * n.C, s.current + (i - 1) * n.C, n.C * sizeof(float));
    };
    const Repeats repeats(n.N * n.P, like_the_last);
    scan_pixels(s, repeats.pixels.data, repeats.count);
    int64_t states = 0;
    with_model_or_sums(n.neuron, [&](auto model) { states = model.states; });
    const int64_t bytes = (n.C + 7) / 8, frame = n.P * bytes;
    repeats.each_copy([&](int64_t from, int64_t to) {
        const auto spikes_of = [&](int64_t i) { return n.spikes + (i / n.P * n.T * n.P + i % n.P) * bytes; };
        const auto states_of = [&](int64_t i) { return n.v + (i / n.P * states * n.P + i % n.P) * n.C; };
        for (int64_t t = 0; t < n.T; t++) copy_bytes(spikes_of(from) + t * frame, spikes_of(to) + t * frame, bytes);
        for (int64_t k = 0; k < states; k++)
            memcpy(states_of(to) + k * n.P * n.C, states_of(from) + k * n.P * n.C, n.C * sizeof(float));
    });
}

// Periodic spikes: a neuron with one state that is reset to the potential from which it started, and that receives the same
// current at every step, fires at the steps t where its period divides t + 1.

// Finds the first spikes of `count` blocks of 32 neurons, which are run together as there, and leaves their potentials
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
