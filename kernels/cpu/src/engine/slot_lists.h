// Lists of the spikes of a slot, one list per step, instead of packed bits or in addition to them. Bits are made from a list
// when they are needed.
#pragma once
#include "pools_and_moves.h"
#include "tasks.h"

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

// Makes lists of spikes from packed bits, if there are few spikes.

// Whether a slot probably holds more than `limit` spikes, estimated from one in 16 of its cache lines.
static bool looks_fuller(const View& x, const FiredList& list, int64_t limit) {
    constexpr int64_t line = 64, every = 16;
    int64_t sum = 0;
    for (int64_t i = 0; i < list.N * list.steps; i++) {
        const uint8_t* const bytes = x.spikes_at(i / list.steps, i % list.steps, 0);
        for (int64_t at = 0; at + line <= list.P * x.pixel; at += every * line) {
            __builtin_prefetch(bytes + at + 8 * every * line);
            sum += count_bits(bytes + at, line);
        }
    }
    return sum * every > 2 * limit;
}

// Appends the set bits of n bytes, whose first pixel is `first`, to `count` entries; false if there would be more than `most`.
static inline bool list_bytes(const uint8_t* bytes, int64_t n, int64_t pixel_bytes, int64_t first, int64_t shift,
                              uint32_t* entry, int64_t& count, int64_t most) {
    constexpr int64_t line = 64, lines = 8 * line;
    for (int64_t at = 0; at < n; at += line) {
        while (at + lines <= n && is_silent(bytes + at, lines)) at += lines;
        if (at >= n) break;
        const int64_t here = least(line, n - at);
        if (here == line && is_silent(bytes + at, line)) continue;
        for (int64_t i = 0; i < here; i += 8)
            for (uint64_t word = load_bits(bytes + at + i, least(8, here - i)); word; word &= word - 1) {
                if (count == most) return false;
                const int64_t bit = __builtin_ctzll(word), byte = at + i + bit / 8;
                const int64_t pixel = pixel_bytes == 1 ? byte : (int64_t)((uint32_t)byte / (uint32_t)pixel_bytes);
                entry[count++] = (uint32_t)((first + pixel) << shift | ((byte - pixel * pixel_bytes) * 8 + bit % 8));
            }
    }
    return true;
}

// Lists the spikes of a slot from its bits, up to `limit` per task. A task is a band of pixels of one image, for all steps.
struct Listing {
    const FiredList& list;
    const View& x;
    const PixelBands bands;
    const int64_t limit;

    int64_t tasks() const { return list.N * bands.count; }
    void run(int64_t task) const {
        const int64_t image = task / bands.count, band = task % bands.count;
        const int64_t first = bands.first_pixel(band), bytes = (bands.first_pixel(band + 1) - first) * x.pixel;
        const int64_t begin = list.room / tasks() * task, end = begin + least(limit, list.room / tasks());
        int64_t n = begin;
        bool fits = true;
        for (int64_t t = 0; t < list.steps && fits; t++) {
            FiredSpan& span = list.span[(image * list.steps + t) * bands.count + band];
            span.first = n;
            fits = list_bytes(x.spikes_at(image, t, first), bytes, x.pixel, first, list.shift(), list.entry, n, end);
            span.last = n;
        }
        list.fired[task] = fits ? n - begin : -1;
    }
};

constexpr int64_t worth_sharing = PK_IS_CHECKED ? 1 << 6 : 1 << 18;  // bytes; small in the checked build, for tests

// Lists the spikes of a slot from its bits; false if there are more than `limit`, or more than the list has room for.
static bool list_slot(Session& session, int64_t slot, int64_t limit) {
    FiredList& list = session.lists[slot];
    if (list.is_listed) return list.count <= limit;
    const View& x = session.views[slot];
    if (looks_fuller(x, list, least(limit, list.room))) return false;
    const bool shares = list.N * list.steps * list.P * x.pixel > worth_sharing;
    Listing listing{list, x, PixelBands(list.P, list.C, list.N, shares ? session.threads : 1), limit};
    const auto work = [](void* given, int64_t task, int64_t) { ((const Listing*)given)->run(task); };
    if (shares) share(session, listing.tasks(), &listing, work);
    else
        for (int64_t task = 0; task < listing.tasks(); task++) listing.run(task);
    if (session.watch.over.load()) return false;
    list.bands = listing.bands.count, list.count = 0, list.ascends = true;
    for (int64_t task = 0; task < listing.tasks(); task++) {
        if (list.fired[task] < 0) return false;
        list.count += list.fired[task];
    }
    return list.is_listed = list.count <= limit;
}

}  // namespace PK_TARGET
