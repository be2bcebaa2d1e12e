// The lists of windows: which rows of a slice are added to the sums of an output pixel, joined from the lists of the input
// pixels in its window.
//
// If a slice lies within one row of the window, its lists depend only on the input row and on the column in which it begins.
// Windows above and below (and neighbouring ones, if a slice is one pixel) need the same lists, which are then made once.
#pragma once
#include "slices.h"

namespace PK_TARGET {

// One input pixel of a slice: the number of its list, and the offset of its entries within the slice.
struct Tap {
    int64_t list;
    uint16_t base;
};

// `Source` holds the lists of all input pixels [image][pixel][chunk], `sums` of them for each, and joins them (row_sums.h).
template <class Source>
class WindowLists {
public:
    WindowLists(const Conv2d& c, const Slices& slices, Source& source)
        : c(c),
          slices(slices),
          source(source),
          shared(slices.count > 1 && c.kernel_w % slices.taps == 0),
          columns((most(1, c.W_out) - 1) * c.stride_w + (c.kernel_w - slices.taps) * c.dilation_w + 1) {}
    WindowLists(const WindowLists&) = delete;

    // Borrows memory for `rows` input rows (of all images together), whose lists have `listed` entries, and for `places` output
    // pixels at a time.
    void borrow(Carver& carver, int64_t rows, int64_t listed, int64_t steps, int64_t places) {
        const int64_t sums = Source::most_sums(steps);
        const int64_t lists = shared ? rows * columns * slices.chunks : places * slices.count;
        const int64_t own = shared ? listed * slices.taps : lists * Source::most_listed(slices, steps);
        taps.borrow(carver, slices.taps);
        choices.borrow(carver, lists);
        visits.borrow(carver, lists * sums);
        outside_visits.borrow(carver, sums);
        entries.borrow(carver, own + lists * sums * Source::group + overrun);
        found.borrow(carver, places * slices.count);
    }

    void begin(const Region& new_in) {
        in = new_in;
        const int64_t lists = in.images * in.rows * columns * slices.chunks;
        taps.reserve(slices.taps);
        source.list_slice(taps.data, 0, outside, outside_visits.reserve(source.sums), nullptr);
        if (!shared) return;
        memset((void*)choices.reserve(lists), 0, lists * sizeof(Choice));
        visits.reserve(lists * source.sums);
        const int64_t all = source.length_of(0, in.images * in.rows * c.W * slices.chunks);
        end = entries.reserve(slices.taps * all + lists * source.sums * Source::group + overrun);
    }

    // The chosen rows of a group of output pixels, [place][slice].
    const Choice* of(const Place* places, int64_t count) {
        Choice* const to = found.reserve(count * slices.count);
        if (!shared) {
            const int64_t lists = count * slices.count;
            Visit* visit = visits.reserve(lists * source.sums);
            end = entries.reserve(lists * (Source::most_listed(slices, in.steps) + source.sums * Source::group) + overrun);
            for (int64_t i = 0; i < lists; i++, visit += source.sums) {
                const int64_t slice = i % slices.count;
                end = source.list_slice(taps.data, find_taps(places[i / slices.count], slice), to[i], visit, end);
            }
        } else
            for (int64_t i = 0; i < count; i++)
                for (int64_t slice = 0; slice < slices.count; slice++) to[i * slices.count + slice] = kept(places[i], slice);
        PK_ASSERT(end + overrun <= entries.data + entries.size);
        return to;
    }

private:
    // Finds the taps of a slice that lie inside the image; returns their number.
    int64_t find_taps(const Place& place, int64_t slice) {
        Tap* const to = taps.data;
        const int64_t chunks = slices.chunks, chunk = slice % chunks;
        return slices.each_tap(c, in, place, slice,
                               [=](int64_t i, int64_t pixel, uint16_t base) { to[i] = {pixel * chunks + chunk, base}; });
    }

    const Choice& kept(const Place& place, int64_t slice) {
        const int64_t tap = slice / slices.chunks * slices.taps, chunk = slice % slices.chunks;
        const int64_t y = place.y * c.stride_h - c.padding_h + tap / c.kernel_w * c.dilation_h;
        if (y < 0 || y >= c.H) return outside;
        const int64_t row = (place.image - in.image) * in.rows + y - in.row;
        const int64_t column = place.x * c.stride_w + tap % c.kernel_w * c.dilation_w;
        const int64_t i = (row * columns + column) * slices.chunks + chunk;
        Choice& choice = choices.data[i];
        if (!choice.visits)
            end = source.list_slice(taps.data, find_taps(place, slice), choice, visits.data + i * source.sums, end);
        return choice;
    }

    const Conv2d& c;
    const Slices& slices;
    Source& source;
    const bool shared;  // whether windows share lists
    const int64_t columns;  // columns in which a slice can begin, including those left of the image
    Region in{};
    Grown<Tap> taps;
    Choice outside{};  // for slices outside the image: no rows
    Grown<Choice> choices, found;  // shared ones [row][column][chunk], not made yet if `visits` is null; those of a group
    Grown<Visit> visits, outside_visits;
    Grown<uint16_t> entries;
    uint16_t* end = nullptr;  // the end of the entries in use
};

}  // namespace PK_TARGET
