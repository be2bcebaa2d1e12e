// Finds output pixels with equal results: the inputs of their windows fire alike, and their neurons start from the same
// states. The first such pixel is computed, and the others are copied from it. Plain backgrounds have many of them, and so
// have the frames of an event camera.
#pragma once
#include "../fingerprint.h"
#include "../neurons.h"

namespace PK_TARGET {

// A hash table that finds the first of equal items.
class Firsts {
public:
    void begin(int64_t most_items) {
        int64_t size = 16;
        while (size < 2 * most_items) size *= 2;
        mask = size - 1;
        memset((void*)slots.reserve(size), 0xff, size * sizeof(Slot));
    }
    // The first item that equals this one; the item itself if none does.
    template <class Equal>
    int64_t of(uint64_t hash, int64_t item, Equal equal) {
        for (int64_t i = (int64_t)hash & mask;; i = (i + 1) & mask) {
            Slot& slot = slots.data[i];
            if (slot.item < 0) slot = {hash, item};
            if (slot.item == item || (slot.hash == hash && equal(slot.item))) return slot.item;
        }
    }

    void borrow(Carver& carver, int64_t most_items) { slots.borrow(carver, most(16, 4 * most_items)); }

private:
    struct Slot {
        uint64_t hash;
        int64_t item;  // below 0: the slot is empty
    };
    Grown<Slot> slots;
    int64_t mask = 0;
};

class EqualWindows {
public:
    explicit EqualWindows(const Conv2d& c) : c(c) {
        with_model_or_sums(c.neurons.neuron, [&](auto model) { states = model.states; });
    }
    EqualWindows(const EqualWindows&) = delete;

    Grown<Place> places;  // output pixels to compute, in their order
    int64_t count = 0;

    // Divides the output pixels of a part into `places`, which must be computed, and copies of them, for a span of channels
    // that has `blocks` blocks. `source` knows which pixels of its input fire alike.
    template <class Source>
    void find(const Region& new_in, const Region& new_out, int64_t first_channel, int64_t last_channel, int64_t blocks,
              const Source& source) {
        in = new_in, out = new_out, channel = first_channel, channels = last_channel - first_channel;
        const int64_t all = out.images * out.rows * c.W_out;
        places.reserve(all);
        copies.reserve(all);
        count = copied = 0;
        const bool can = c.neurons.P > 1 && !c.shortcut && !c.neurons.currents && pays(blocks, source) && number_inputs(source);
        if (can) firsts.begin(all);
        for (int64_t i = 0; i < all; i++) {
            const Place place(c, out, i);
            const auto equals = [&](int64_t other) { return are_alike(place, Place(c, out, other)); };
            const int64_t first = can ? firsts.of(hash_of(place), i, equals) : i;
            if (first == i) places.data[count++] = place;
            else copies.data[copied++] = {Place(c, out, first), place};
        }
    }

    // Borrows memory for `most_in` input pixels and `most_out` output pixels.
    void borrow(Carver& carver, int64_t most_in, int64_t most_out) {
        places.borrow(carver, most_out);
        copies.borrow(carver, most_out);
        numbers.borrow(carver, most_in);
        firsts.borrow(carver, most(most_in, most_out));
    }

    void copy() const {
        const Neurons& n = c.neurons;
        const int64_t bytes = (n.C + 7) / 8, frame = n.P * bytes;
        for (const Copy* copy = copies.data; copy < copies.data + copied; copy++) {
            const auto spikes_of = [&](const Place& at) {
                return n.spikes + ((at.image * n.T + out.t) * n.P + at.y * c.W_out + at.x) * bytes + channel / 8;
            };
            const uint8_t* from = spikes_of(copy->from);
            uint8_t* to = spikes_of(copy->to);
            for (int64_t t = 0; t < out.steps; t++, from += frame, to += frame) copy_bytes(from, to, (channels + 7) / 8);
            for (int64_t k = 0; k < states; k++)
                memcpy(state_after(copy->to, k), state_after(copy->from, k), channels * sizeof(float));
        }
    }

private:
    struct Copy {
        Place from, to;
    };

    // Whether many pixels fire alike, and computing a window takes much longer than comparing it.
    template <class Source>
    bool pays(int64_t blocks, const Source& source) const {
        return 8 * source.repeats >= in.images * in.rows * c.W && out.steps * blocks >= 4 * c.kernel_h * c.kernel_w;
    }

    // Gives each pixel of the input the number of the first pixel that fires alike; returns whether any two do.
    template <class Source>
    bool number_inputs(const Source& source) {
        const int64_t all = in.images * in.rows * c.W;
        numbers.reserve(all);
        firsts.begin(all);
        bool found = false;
        for (int64_t i = 0; i < all; i++) {
            numbers.data[i] = firsts.of(source.hash_of(i), i, [&](int64_t other) { return source.are_alike(i, other); });
            found |= numbers.data[i] != i;
        }
        return found;
    }

    // The number of the input pixel under one tap of a window; -1 outside the image.
    int64_t number_of(const Place& place, int64_t ky, int64_t kx) const {
        const int64_t y = place.y * c.stride_h - c.padding_h + ky * c.dilation_h;
        const int64_t x = place.x * c.stride_w - c.padding_w + kx * c.dilation_w;
        if (y < 0 || y >= c.H || x < 0 || x >= c.W) return -1;
        return numbers.data[((place.image - in.image) * in.rows + y - in.row) * c.W + x];
    }

    uint64_t hash_of(const Place& place) const {
        uint64_t hash = 0;
        for (int64_t ky = 0; ky < c.kernel_h; ky++)
            for (int64_t kx = 0; kx < c.kernel_w; kx++) hash = mix(hash, (uint64_t)number_of(place, ky, kx));
        if (share_a_start()) return hash;
        for (int64_t k = 0; k < states; k++)
            hash = mix(hash, hash_piece((const uint8_t*)state_before(place, k), channels * sizeof(float), 0));
        return hash;
    }
    bool are_alike(const Place& a, const Place& b) const {
        for (int64_t ky = 0; ky < c.kernel_h; ky++)
            for (int64_t kx = 0; kx < c.kernel_w; kx++)
                if (number_of(a, ky, kx) != number_of(b, ky, kx)) return false;
        for (int64_t k = 0; k < states && !share_a_start(); k++)
            if (memcmp(state_before(a, k), state_before(b, k), channels * sizeof(float))) return false;
        return true;
    }

    bool share_a_start() const { return !out.t && !c.neurons.start_image && !c.neurons.start_pixel; }
    const float* state_before(const Place& place, int64_t k) const {
        const Neurons& n = c.neurons;
        if (out.t) return state_after(place, k);
        const int64_t pixel = place.y * c.W_out + place.x;
        return n.start + place.image * n.start_image + k * n.start_state + pixel * n.start_pixel + channel;
    }
    float* state_after(const Place& place, int64_t k) const {
        const Neurons& n = c.neurons;
        return n.v + ((place.image * states + k) * n.P + place.y * c.W_out + place.x) * n.C + channel;
    }

    const Conv2d& c;
    int64_t states = 0;  // states of a neuron
    Region in{}, out{};
    int64_t channel = 0, channels = 0;
    Firsts firsts;
    Grown<int64_t> numbers;  // [input pixel]: the first pixel that fires alike
    Grown<Copy> copies;
    int64_t copied = 0;
};

}  // namespace PK_TARGET
