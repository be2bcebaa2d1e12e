// The neurons: one step on a vector of channels. A new neuron model is one more struct here.
#pragma once
#include "abi.h"
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

// One step of a block of channels; the spikes as bits.
template <class Reset, int channels>
static inline uint32_t step_block(const Reset& neuron, Lanes<channels>& v, const Lanes<channels>& current,
                                  const Lanes<channels>& theta) {
    uint32_t spikes = 0;
    for (int i = 0; i < v.vecs; i++) spikes |= bits(neuron.step(v.v[i], current.v[i], theta.v[i])) << (i * Vec::width);
    return spikes;
}

// Calls `fire` with the reset that a layer's neurons have.
template <class Fire>
static inline void with_reset(const Neurons& n, Fire fire) {
    if (n.soft_reset) fire(SoftReset{});
    else fire(HardReset{broadcast(n.v_reset)});
}

// Writes the spikes of the first n of a block's channels; the bytes of a pixel hold eight channels each.
template <int channels = block>
static inline void store_spikes(uint8_t* bytes, uint32_t spikes, int n) {
    if (n >= channels) {
        memcpy(bytes, &spikes, channels / 8);
        return;
    }
    for (int i = 0; i * 8 < n; i++) bytes[i] = (uint8_t)(spikes >> (8 * i));
}

}  // namespace PK_TARGET
