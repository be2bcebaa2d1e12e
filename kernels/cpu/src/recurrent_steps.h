// Steps of recurrent neurons on given currents: I[t] = current[t] + R s[t-1].
//
// R is stored transposed, so that a row holds the weights from one neuron: a step adds the rows of the neurons that fired in
// the step before. The sums of a span of channels stay in registers, states and the list of what fired in the first-level
// cache. If R has one value per neuron, there is a single row, and each neuron that fired adds its own value.
#pragma once
#include "neurons.h"
#include "work.h"

namespace PK_TARGET {

constexpr int wide_vecs = 8, wide = wide_vecs * Vec::width;  // enough independent sums to hide the latency of the addition
static_assert(wide % block == 0, "a span is whole blocks");
constexpr int64_t behind_list = 64;  // spare entries behind a list of neurons

// Rows of weights: each from one neuron to all.
struct RecurrentRows {
    const float* weight;
    int64_t stride;  // floats from one row to the next
    bool full;  // false: a single row with one value per neuron
};

// The memory for one image at a time: states [states][stride], the spikes of the step before, and the list of them.
struct RecurrentMemory {
    const int64_t stride;
    float* const states;
    uint8_t* const fired;
    uint32_t* const list;
    RecurrentMemory(Carver& carver, int64_t states, int64_t C)
        : stride(ceil_div(C, block) * block),
          states(carver.take<float>(states * stride)),
          fired(carver.take<uint8_t>(ceil_div(C, 8))),
          list(carver.take<uint32_t>(C + behind_list)) {}
    static int64_t bytes(int64_t states, int64_t C) {
        Carver counts{nullptr};
        RecurrentMemory(counts, states, C);
        return counts.bytes;
    }
};

// Writes the indices of the set bits, lowest first; returns their number.
static inline int64_t list_fired(const uint8_t* bytes, int64_t n, uint32_t* list) {
    const uint32_t* const start = list;
    for (int64_t i = 0; i < n; i += 8)
        for (uint64_t word = load_bits(bytes + i, n - i); word; word &= word - 1)
            *list++ = (uint32_t)(8 * i + __builtin_ctzll(word));
    return list - start;
}

// The currents of a block of channels, of which `n` exist: the rows of neurons that fired, plus the given current. The rows are
// summed first and the current is added last, so that a current is rounded once if the sums of weights are exact.
template <int channels>
static inline Lanes<channels> with_rows_of(const float* current, int n, const RecurrentRows& rows, int64_t channel,
                                           const uint32_t* list, int64_t count) {
    Lanes<channels> sum = broadcast_block<channels>(0.0f);
    const float* const row = rows.weight + channel;
    for (int64_t k = 0; k < count; k++) add(sum, load_block<channels>(row + list[k] * rows.stride));
    add(sum, load_block<channels>(current, n));
    return sum;
}

template <int channels>
static inline void add_own(Lanes<channels>& sum, const float* weight, int64_t channel, const uint8_t* fired, int64_t bytes) {
    const uint32_t bits = (uint32_t)load_bits(fired + channel / 8, least(channels / 8, bytes - channel / 8));
    const Lanes<channels> own = load_block<channels>(weight + channel);
    for (int i = 0; i < sum.vecs; i++) sum.v[i] = add_where(mask_of(bits >> (i * Vec::width)), sum.v[i], own.v[i]);
}

// Runs one step of a block of channels, of which n exist, and writes their spikes as bits.
template <class Model>
static inline void step_channels(const Neuron& neuron, const RecurrentMemory& memory, int64_t channel, int n,
                                 const Block& input, uint8_t* spikes) {
    const NeuronBlock<Model, block> neurons(neuron, channel);
    NeuronStates<Model::states, block> state;
    float* const at = memory.states + channel;
    for (int k = 0; k < Model::states; k++) state.part[k] = load_block(at + k * memory.stride);
    store_spikes(spikes + channel / 8, step_block(neurons, state, input), n);
    for (int k = 0; k < Model::states; k++) store_block(at + k * memory.stride, state.part[k]);
}

// Runs T steps of one image. current_of(t) points to the currents of step t, spikes_of(t) to where its spikes are written.
// keep(t, channel, n, current) is called before each block of n channels takes a step.
template <class Model, class Current, class Spikes, class Keep>
static void recurrent_steps(const Neuron& neuron, const RecurrentRows& rows, int64_t T, int64_t C,
                            const RecurrentMemory& memory, Current current_of, Spikes spikes_of, Keep keep) {
    const int64_t bytes = ceil_div(C, 8);
    const uint8_t* fired = memory.fired;
    for (int64_t t = 0; t < T; t++) {
        const float* const current = current_of(t);
        uint8_t* const spikes = spikes_of(t);
        const int64_t count = rows.full ? list_fired(fired, bytes, memory.list) : 0;
        const auto step = [&](int64_t channel, const Block& input) {
            const int n = (int)least(block, C - channel);
            keep(t, channel, n, input);
            step_channels<Model>(neuron, memory, channel, n, input, spikes);
        };
        int64_t channel = 0;
        for (; channel + wide <= C; channel += wide) {
            Lanes<wide> sum = with_rows_of<wide>(current + channel, wide, rows, channel, memory.list, count);
            each<wide / block>([&](auto part) {
                Block input;
                for (int i = 0; i < vecs; i++) input.v[i] = sum.v[part * vecs + i];
                if (!rows.full) add_own(input, rows.weight, channel + part * block, fired, bytes);
                step(channel + part * block, input);
            });
        }
        for (; channel < C; channel += block) {
            const int n = (int)least(block, C - channel);
            Block input = with_rows_of<block>(current + channel, n, rows, channel, memory.list, count);
            if (!rows.full) add_own(input, rows.weight, channel, fired, bytes);
            step(channel, input);
        }
        fired = spikes;
    }
    if (fired != memory.fired) memcpy(memory.fired, fired, bytes);
}

// Loads the states of an image before the first step from `v` [states + 1][C], whose states are `stride` floats apart. The
// padding of the last block is zero; it never fires.
static inline void load_recurrent(const RecurrentMemory& memory, int64_t states, const float* v, int64_t stride, int64_t C) {
    memset(memory.states, 0, states * memory.stride * sizeof(float));
    for (int64_t k = 0; k < states; k++) memcpy(memory.states + k * memory.stride, v + k * stride, C * sizeof(float));
    const float* const spikes = v + states * stride;
    memset(memory.fired, 0, ceil_div(C, 8));
    for (int64_t c = 0; c < C; c++) memory.fired[c / 8] |= (uint8_t)((spikes[c] != 0) << (c % 8));
}

static inline void store_recurrent(const RecurrentMemory& memory, int64_t states, float* v, int64_t C) {
    for (int64_t k = 0; k < states; k++) memcpy(v + k * C, memory.states + k * memory.stride, C * sizeof(float));
    float* const spikes = v + states * C;
    for (int64_t c = 0; c < C; c++) spikes[c] = memory.fired[c / 8] >> (c % 8) & 1;
}

}  // namespace PK_TARGET
