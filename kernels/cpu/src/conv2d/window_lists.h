// The lists of windows: which rows of a slice the sums of an output pixel take, joined from the lists of the pixels under it.
//
// Where a slice is a part of one row of the window, its lists depend on nothing but the row of input pixels and the column in
// which it begins. Windows above and below, and next to it if a slice is one pixel, take the same ones: they are made once.
#pragma once
#include <new>

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
          taps(slices.taps),
          shared(c.kernel_w % slices.taps == 0),
          columns((most(1, c.W_out) - 1) * c.stride_w + (c.kernel_w - slices.taps) * c.dilation_w + 1) {}
    ~WindowLists() {
        for (KeptRow *row = rows, *next; row; row = next) next = row->next, row->~KeptRow(), free((void*)row);
    }
    WindowLists(const WindowLists&) = delete;

    // For other input: nothing of what is kept is of use.
    void begin(const Part& new_in) {
        in = new_in;
        for (KeptRow* row = rows; row; row = row->next) row->number = none;
        source.list_slice(taps.data, 0, outside, outside_visits.reserve(source.sums), nullptr);
    }

    // The choices [place][slice] of a group of output pixels.
    const Choice* of(const Place* places, int64_t count) {
        Choice* const choices = found.reserve(count * slices.count);
        if (!shared) return list_all(places, count, choices);
        const int64_t top = most(places->y * c.stride_h - c.padding_h, in.row);
        first_row = (places->image - in.image) * in.rows + least(top - in.row, in.rows);
        for (int64_t i = 0; i < count; i++)
            for (int64_t slice = 0; slice < slices.count; slice++) choices[i * slices.count + slice] = kept(places[i], slice);
        return choices;
    }

private:
    static constexpr int64_t none = -1;

    // What is kept of a row of input pixels.
    struct KeptRow {
        int64_t number = none;   // among all rows of the input
        Grown<Choice> choices;   // [column in which a slice begins][chunk]; without visits: not made yet
        Grown<Visit> visits;     // [column][chunk][sum]
        Grown<uint16_t> entries;
        uint16_t* end = nullptr;  // of the entries that are there
        KeptRow* next = nullptr;
    };

    // The taps of a slice that lie inside the image.
    int64_t find_taps(const Place& place, int64_t slice) {
        Tap* const to = taps.data;
        const int64_t chunks = slices.chunks, chunk = slice % chunks;
        return slices.each_tap(c, in, place, slice,
                               [=](int64_t i, int64_t pixel, uint16_t base) { to[i] = {pixel * chunks + chunk, base}; });
    }

    const Choice* list_all(const Place* places, int64_t count, Choice* choices) {
        const int64_t lists = count * slices.count;
        Visit* visits = own_visits.reserve(lists * source.sums);
        uint16_t* end = own_entries.reserve(lists * (Source::most_listed(slices, in.steps) + source.sums * Source::group) + overrun);
        for (int64_t i = 0; i < lists; i++, visits += source.sums) {
            const int64_t slice = i % slices.count, tap_count = find_taps(places[i / slices.count], slice);
            end = source.list_slice(taps.data, tap_count, choices[i], visits, end);
        }
        PK_ASSERT(end + overrun <= own_entries.data + own_entries.size);
        return choices;
    }

    const Choice& kept(const Place& place, int64_t slice) {
        const int64_t tap = slice / slices.chunks * slices.taps, chunk = slice % slices.chunks;
        const int64_t y = place.y * c.stride_h - c.padding_h + tap / c.kernel_w * c.dilation_h;
        if (y < 0 || y >= c.H) return outside;
        KeptRow& row = row_of((place.image - in.image) * in.rows + y - in.row);
        const int64_t column = place.x * c.stride_w + tap % c.kernel_w * c.dilation_w, i = column * slices.chunks + chunk;
        Choice& choice = row.choices.data[i];
        if (!choice.visits)
            row.end = source.list_slice(taps.data, find_taps(place, slice), choice, row.visits.data + i * source.sums, row.end);
        PK_ASSERT(row.end + overrun <= row.entries.data + row.entries.size);
        return choice;
    }

    // A row that is kept, or begun in the place of one that lies above all windows of the group.
    KeptRow& row_of(int64_t number) {
        KeptRow* free = nullptr;
        for (KeptRow* row = rows; row; row = row->next) {
            if (row->number == number) return *row;
            if (row->number < first_row) free = row;
        }
        if (!free) {
            free = new (allocate<KeptRow>(1)) KeptRow;  // `delete` would need a newer C++ library than manylinux2014 has
            free->next = rows, rows = free;
        }
        const int64_t lists = columns * slices.chunks, pixel_lists = c.W * slices.chunks;
        const int64_t entries = source.length_of(number * pixel_lists, (number + 1) * pixel_lists);
        free->number = number;
        memset((void*)free->choices.reserve(lists), 0, lists * sizeof(Choice));
        free->visits.reserve(lists * source.sums);
        free->end = free->entries.reserve(slices.taps * entries + lists * source.sums * Source::group + overrun);
        return *free;
    }

    const Conv2d& c;
    const Slices& slices;
    Source& source;
    Memory<Tap> taps;
    const bool shared;
    const int64_t columns;  // in which a slice can begin, those left of the image too
    Part in{};
    int64_t first_row = 0;  // of those under the group
    KeptRow* rows = nullptr;
    Choice outside{};  // of slices outside the image: nothing
    Grown<Visit> outside_visits, own_visits;
    Grown<uint16_t> own_entries;
    Grown<Choice> found;
};

}  // namespace PK_TARGET
