// The lists of windows: which rows of a slice the sums of an output pixel take, joined from the lists of the pixels under it.
//
// Where a slice is a part of one row of the window, its lists depend on nothing but the row of input pixels and the column in
// which it begins. Windows above and below, and next to it if a slice is one pixel, take the same ones: they are made once.
#pragma once
#include "slices.h"

namespace PK_TARGET {

// One pixel under a slice: the number of its list, and what its entries begin at in the slice.
struct Tap {
    int64_t list;
    uint16_t base;
};

// `Source` has the lists of all input pixels [image][pixel][chunk], with `sums` lists each, and joins them: see event.h.
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

    // For so many rows of inputs, images on images, with so many entries of their lists; and for so many output pixels at a time.
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

    void begin(const Part& new_in) {
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

    // The choices [place][slice] of a group of output pixels.
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
    // The taps of a slice that lie inside the image.
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
    const bool shared;      // whether windows share lists
    const int64_t columns;  // in which a slice can begin, those left of the image too
    Part in{};
    Grown<Tap> taps;
    Choice outside{};  // of slices outside the image: nothing
    Grown<Choice> choices, found;  // [row][column][chunk], without visits: not made yet; of a group
    Grown<Visit> visits, outside_visits;
    Grown<uint16_t> entries;
    uint16_t* end = nullptr;  // of the entries that are there
};

}  // namespace PK_TARGET
