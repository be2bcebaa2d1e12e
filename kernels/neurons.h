// The neurons: one step on a block of 32 channels. A new neuron model is one more struct here.
#pragma once
#include "simd.h"

namespace PK_TARGET {

// h = v + I;  s = h >= theta;  v = v_reset where s, else h
struct HardReset {
    Block theta;
    Vec v_reset;
    inline uint32_t step(Block& v, const Block& current) const {
        uint32_t spikes = 0;
        for (int i = 0; i < vecs; i++) {
            Vec h = v.v[i] + current.v[i];
            Vec::Mask fires = h >= theta.v[i];
            v.v[i] = select(fires, v_reset, h);
            spikes |= bits(fires) << (i * Vec::width);
        }
        return spikes;
    }
};

// h = v + I;  s = h >= theta;  v = h - theta where s, else h
struct SoftReset {
    Block theta;
    inline uint32_t step(Block& v, const Block& current) const {
        uint32_t spikes = 0;
        for (int i = 0; i < vecs; i++) {
            Vec h = v.v[i] + current.v[i];
            Vec::Mask fires = h >= theta.v[i];
            v.v[i] = select(fires, h - theta.v[i], h);
            spikes |= bits(fires) << (i * Vec::width);
        }
        return spikes;
    }
};

// Writes the spikes of a block's first `channels` channels; the bytes of a pixel hold eight channels each.
static inline void store_spikes(uint8_t* bytes, uint32_t spikes, int channels) {
    if (channels >= block) {
        memcpy(bytes, &spikes, 4);
        return;
    }
    for (int i = 0; i * 8 < channels; i++) bytes[i] = (uint8_t)(spikes >> (8 * i));
}

}  // namespace PK_TARGET
