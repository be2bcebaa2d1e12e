// Makes lists of spikes from packed bits, if there are few spikes.
#pragma once
#include "watch.h"

namespace PK_TARGET {

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
