// Lists of the spikes of a slot, one list per step, instead of packed bits or in addition to them. Bits are made from a list
// when they are needed.
#pragma once
#include "move.h"

namespace PK_TARGET {

// The number of bands of an image, one task each: enough to share among the threads, and so small that a band's currents stay
// in the cache until its pixels are visited.
static int64_t pixel_bands(int64_t P, int64_t C, int64_t N, int64_t threads) {
    constexpr int64_t fewest = PK_IS_CHECKED ? word_pixels : 1024;  // pixels; few in the checked build, for tests
    constexpr int64_t cached = PK_IS_CHECKED ? 1 << 11 : 1 << 17;  // values
    const int64_t shared = threads > 1 && N < 2 * threads ? 2 * threads : 1;
    return most(1, least(P / fewest, most(shared, P * C / cached)));
}
struct PixelBands : ImageBands {
    PixelBands(int64_t P, int64_t C, int64_t N, int64_t threads) : ImageBands{P, pixel_bands(P, C, N, threads)} {}
};

// Takes memory for a list, with room for one spike per neuron and 64 per image and step.
static void cut_list(FiredList& list, int64_t threads, Carver& carver) {
    const int64_t bands = PixelBands(list.P, list.C, list.N, threads).count, images = list.N;
    list.room = images * (list.P * list.C + 64 * list.steps);
    list.entry = carver.take<uint32_t>(list.room);
    list.span = carver.take<FiredSpan>(images * list.steps * bands);
    list.fired = carver.take<int64_t>(images * bands);
}

// The bits of a slot, for writing.
struct SlotBits {
    uint8_t* bytes;
    int64_t C, P, steps;

    int64_t pixel_bytes() const { return (C + 7) / 8; }
    uint8_t* at(int64_t image, int64_t t, int64_t pixel) const {
        return bytes + ((image * steps + t) * P + pixel) * pixel_bytes();
    }
    void clear(int64_t image, int64_t first, int64_t last) const {
        for (int64_t t = 0; t < steps; t++) memset(at(image, t, first), 0, (last - first) * pixel_bytes());
    }
    void set(int64_t image, int64_t t, int64_t pixel, int64_t channel) const {
        at(image, t, pixel)[channel / 8] |= (uint8_t)(1 << channel % 8);
    }
};

// Writes the spikes of a band of an image, step by step: to the slot's list or, once that is full, to its bits.
class FiredWriter {
public:
    FiredWriter(FiredList& list, SlotBits bits, int64_t image, int64_t band, int64_t bands, int64_t first, int64_t last)
        : list(list), bits(bits), image(image), band(band), bands(bands), first(first), last(last), shift(list.shift()) {
        const int64_t task = image * bands + band, tasks = list.N * bands;
        begin = n = list.room / tasks * task, end = begin + list.room / tasks;
    }
    void begin_step(int64_t step) { t = step, span().first = n; }
    void end_step() { span().last = n; }
    void finish() { list.fired[image * bands + band] = in_bits ? -1 : n - begin; }

    inline void fires(int64_t pixel, int64_t channel) {
        spikes++;
        if (!in_bits && n == end) go_on_in_bits();
        if (in_bits) bits.set(image, t, pixel, channel);
        else list.entry[n++] = (uint32_t)(pixel << shift | channel);
    }

    int64_t spikes = 0;

private:
    FiredSpan& span() { return list.span[(image * list.steps + t) * bands + band]; }
    OUT_OF_LINE void go_on_in_bits() {
        in_bits = true;
        span().last = n;
        bits.clear(image, first, last);
        for (int64_t step = 0; step <= t; step++)
            list.each_of(list.span[(image * list.steps + step) * bands + band],
                         [&](int64_t pixel, int64_t channel) { bits.set(image, step, pixel, channel); });
    }

    FiredList& list;
    const SlotBits bits;
    const int64_t image, band, bands, first, last, shift;
    int64_t begin, end, n, t = 0;
    bool in_bits = false;
};

// Completes a list after all tasks have written their parts. If one of them had to write bits, the others are converted to
// bits. `ascends`: whether entries are in the order of pixels.
static void finish_list(FiredList& list, SlotBits bits, const ImageBands& bands, bool ascends) {
    list.bands = bands.count, list.count = 0, list.ascends = ascends;
    list.is_listed = true, list.has_bits = false;
    for (int64_t task = 0; task < list.N * bands.count; task++) {
        list.is_listed &= list.fired[task] >= 0;
        list.count += list.fired[task];
    }
    if (list.is_listed) return;
    for (int64_t task = 0; task < list.N * bands.count; task++) {
        if (list.fired[task] < 0) continue;
        const int64_t image = task / bands.count, band = task % bands.count;
        bits.clear(image, bands.first_pixel(band), bands.first_pixel(band + 1));
        for (int64_t t = 0; t < list.steps; t++)
            list.each_of(list.span[(image * list.steps + t) * bands.count + band],
                         [&](int64_t pixel, int64_t channel) { bits.set(image, t, pixel, channel); });
    }
    list.has_bits = true;
}

static SlotBits bits_of(const Session& session, int64_t slot) {
    const Op& op = session.plan.ops[slot - 1];
    return {(uint8_t*)session.slots[slot - 1], op.C, op.P(), session.lists[slot].steps};
}

// Makes the bits of a slot, if it has only a list.
static void make_bits(Session& session, int64_t slot) {
    FiredList& list = session.lists[slot];
    if (list.has_bits) return;
    const SlotBits bits = bits_of(session, slot);
    for (int64_t image = 0; image < list.N; image++) bits.clear(image, 0, list.P);
    for (int64_t image = 0; image < list.N; image++)
        for (int64_t t = 0; t < list.steps; t++)
            list.each(image, t, [&](int64_t pixel, int64_t channel) { bits.set(image, t, pixel, channel); });
    list.has_bits = true;
}

}  // namespace PK_TARGET
