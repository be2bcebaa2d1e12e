// The neurons: one step on a vector of channels. A new neuron model is one more struct here.
#pragma once
#include "cpu_kernels.h"
#include "simd.h"

namespace PK_TARGET {

// h = v + I;  s = h >= theta;  v = v_reset where s, else h
struct HardReset {
    Vec v_reset;
    inline Vec::Mask step(Vec& v, Vec current, Vec theta) const {
        const Vec h = v + current;
        const Vec::Mask fires = h >= theta;
        v = select(fires, v_reset, h);
        return fires;
    }
};

// h = v + I;  s = h >= theta;  v = h - theta where s, else h
struct SoftReset {
    inline Vec::Mask step(Vec& v, Vec current, Vec theta) const {
        const Vec h = v + current;
        const Vec::Mask fires = h >= theta;
        v = select(fires, h - theta, h);
        return fires;
    }
};

// One step of a block of 32 channels; the spikes as bits.
template <class Reset>
static inline uint32_t step_block(const Reset& neuron, Block& v, const Block& current, const Block& theta) {
    uint32_t spikes = 0;
    for (int i = 0; i < vecs; i++) spikes |= bits(neuron.step(v.v[i], current.v[i], theta.v[i])) << (i * Vec::width);
    return spikes;
}

// Calls `fire` with the reset that a layer's neurons have.
template <class Fire>
static inline void with_reset(const Neurons& n, Fire fire) {
    if (n.soft_reset) fire(SoftReset{});
    else fire(HardReset{broadcast(n.v_reset)});
}

// Writes the spikes of a block's first `channels` channels; the bytes of a pixel hold eight channels each.
static inline void store_spikes(uint8_t* bytes, uint32_t spikes, int channels) {
    if (channels >= block) {
        memcpy(bytes, &spikes, 4);
        return;
    }
    for (int i = 0; i * 8 < channels; i++) bytes[i] = (uint8_t)(spikes >> (8 * i));
}

}  // namespace PK_TARGET
