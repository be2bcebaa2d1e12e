// Sums of chosen rows of weights. At best one row is added per cycle, and only if the rows come from the first-level cache. The
// rows of a block of output channels are therefore cut into slices that fit there, and each slice is used for many output
// pixels before the next. (If few rows are chosen, fewer and larger slices are better, from the second-level cache.)
#pragma once
#include "weight_rows.h"
#include "../set_bits.h"

namespace PK_TARGET {

constexpr int64_t most_slice_rows = 1536;
constexpr int entry_scale = 8;  // lists hold row numbers times 8, because an x86 address can scale a register only by 8

// Which inputs make a slice: those of a few taps of the window or, where a pixel has many channels, a chunk of one tap's
// channels. Row 0 of a slice is zero; lists are padded with it.
struct Slices {
    int64_t chunk, chunks;  // channels of a pixel that are in one slice, and how many such chunks a pixel has
    int64_t taps;  // taps of a slice
    int64_t inputs;  // inputs of a slice
    int64_t count, rows;  // slices; rows of each: zero, one for each input and, with c.negated, their negations

    explicit Slices(const Conv2d& c) {
        const int64_t window = c.kernel_h * c.kernel_w;
        chunks = ceil_div(c.C_in, c.slice_rows);
        chunk = chunks == 1 ? c.C_in : ceil_div(ceil_div(c.C_in, chunks), 16) * 16;
        chunks = ceil_div(c.C_in, chunk);
        const int64_t runs = chunks > 1 ? window : ceil_div(window, most(1, c.slice_rows / c.C_in));
        taps = ceil_div(window, runs);
        if (runs > 1) taps = least(taps, c.kernel_w);  // windows share lists of one kernel row: WindowLists
        count = ceil_div(window, taps) * chunks;
        inputs = taps * chunk;
        rows = (c.negated ? 2 : 1) * inputs + 1;
    }

    // Bytes of one slice, and of all slices of a block of output channels.
    int64_t bytes() const { return rows * row_line; }
    int64_t block_bytes() const { return count * bytes(); }

    // Where the row of an input channel and tap begins in a block.
    int64_t row_of(const Conv2d& c, int64_t channel, int64_t tap) const {
        const int64_t slice = tap / taps * chunks + channel / chunk;
        return (slice * rows + tap % taps * c.C_in + channel % chunk + 1) * row_line;
    }

    // Whether the weights of `blocks` blocks exceed the second-level cache.
    bool far(int64_t blocks) const { return blocks * block_bytes() > 1 << 19; }

    // Prefetches the i-th of n parts of the next slice while this one is used.
    void prefetch_next(const char* slice, int64_t i, int64_t n) const {
        const int64_t most = inputs + 1;
        for (int64_t r = i * most / n; r < (i + 1) * most / n; r++) prefetch(slice + (rows + r) * row_line);
    }

    // Reads a slice from end to end. For a single pixel, the few additions leave no time to prefetch the next slice; read in
    // order, the hardware prefetcher loads it faster than in the order in which rows are added.
    void read(const char* slice) const {
        for (int64_t r = 0; r <= inputs; r++) (void)*(const volatile char*)(slice + r * row_line);
    }

    // Calls visit(pixel of the input part, first entry) for each tap of a slice that lies inside the image.
    template <class Visit>
    int64_t each_tap(const Conv2d& c, const Region& in, const Place& place, int64_t slice, Visit visit) const {
        const int64_t window = c.kernel_h * c.kernel_w, first = slice / chunks * taps;
        const int64_t row = ((place.image - in.image) * in.rows - in.row) * c.W;
        int64_t found = 0, ky = first / c.kernel_w, kx = first % c.kernel_w;
        for (int64_t i = 0; i < least(taps, window - first); i++) {
            const int64_t y = place.y * c.stride_h - c.padding_h + ky * c.dilation_h;
            const int64_t x = place.x * c.stride_w - c.padding_w + kx * c.dilation_w;
            if (y >= 0 && y < c.H && x >= 0 && x < c.W) visit(found++, row + y * c.W + x, (uint16_t)(i * c.C_in * entry_scale));
            if (++kx == c.kernel_w) kx = 0, ky++;
        }
        return found;
    }
};

// How many groups of rows are added to which sum.
struct Visit {
    uint16_t groups, sum;
};

// The chosen rows of one slice of a window, sum by sum. Sums are sorted by their number of rows, so that the branch predictor
// mispredicts the end of a loop only where the number changes.
struct Choice {
    const uint16_t* entries;
    const Visit* visits;
    int64_t count, empty;  // number of visits; how many of them, the first ones, have no rows
};

template <int group>
static Choice sort_sums(const uint32_t* length, int64_t sums, Visit* visits, const uint16_t* entries) {
    uint16_t place[most_slice_rows / group + 2] = {};
    int64_t longest = 0;
    for (int64_t i = 0; i < sums; i++) {
        const int64_t groups = ceil_div(length[i], group);
        longest = most(longest, groups);
        PK_ASSERT(groups <= most_slice_rows / group);
        place[groups + 1]++;
    }
    const int64_t empty = place[1];
    for (int64_t i = 1; i <= longest + 1; i++) place[i] += place[i - 1];
    for (int64_t i = 0; i < sums; i++) {
        const uint16_t groups = (uint16_t)ceil_div(length[i], group);
        visits[place[groups]++] = {groups, (uint16_t)i};
    }
    return {entries, visits, sums, empty};
}

// Adds the chosen rows of a slice to the sums [sum][channels of a row]. `first`: the sums start at zero.
template <class Rows, int group>
OUT_OF_LINE static void add_slice(const char* slice, const Choice& choice, bool first, typename Rows::Number* sums) {
    const uint16_t* entry = choice.entries;
    if (first)
        for (int64_t i = 0; i < choice.empty; i++)
            store_sums(sums + choice.visits[i].sum * Rows::channels, typename Rows::Sums{});
    for (const Visit* visit = choice.visits + choice.empty; visit < choice.visits + choice.count; visit++) {
        typename Rows::Number* const to = sums + visit->sum * Rows::channels;
        const uint16_t* const end = entry + visit->groups * group;
        const char* chosen[group];
        const auto choose = [&] {
            uint64_t packed = 0;
            memcpy(&packed, entry, 2 * group);
            for (int i = 0; i < group; i++, packed >>= 16) chosen[i] = slice + (packed & 0xffff) * (row_line / entry_scale);
            entry += group;
        };
        choose();
        typename Rows::template Adder<group> adder(first ? nullptr : to, chosen);
        while (entry < end) {
            choose();
            adder.add(chosen);
        }
        store_sums(to, adder.total(visit->groups * group));
    }
}

// Calls run with a value whose type is the kind of rows that a layer's weights are packed in.
template <class Run>
static void with_rows(const Conv2d& c, Run run) {
    if (c.row_channels == ByteRows::channels) run(ByteRows{});
    else if (c.row_channels == ShortRows::channels) run(ShortRows{});
    else run(FloatRows{});
}

inline int64_t rows_size(const Conv2d* c) { return Slices(*c).block_bytes(); }

template <class Rows>
static void pack_rows(const float* weight, char* packed, const Conv2d& c) {
    constexpr int64_t together = 256;  // rows that are written together and stay in the first-level cache
    const Slices slices(c);
    const int64_t window = c.kernel_h * c.kernel_w, inputs = c.C_in * window;
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < c.neurons.C; first += Rows::channels) {
        char* const rows = packed + first / Rows::channels * slices.block_bytes();
        const int64_t channels = least(Rows::channels, c.neurons.C - first);
        memset(rows, Rows::nothing, slices.block_bytes());
        for (int64_t start = 0; start < inputs; start += together) {
            const int64_t n = least(together, inputs - start);
            char* lines[together];
            for (int64_t k = 0; k < n; k++) lines[k] = rows + slices.row_of(c, (start + k) / window, (start + k) % window);
            for (int64_t o = 0; o < channels; o++) {
                const float* const from = weight + (first + o) * inputs + start;
                const float scale = c.unit ? 1.0f / c.unit[first + o] : 1.0f;  // exact: units are powers of two
                for (int64_t k = 0; k < n; k++) Rows::put(lines[k], (int)o, from[k] * scale);
                for (int64_t k = 0; k < n && c.negated; k++)
                    Rows::put(lines[k] + slices.inputs * row_line, (int)o, -from[k] * scale);
            }
        }
    }
}

inline void pack_rows(const float* weight, void* packed, const Conv2d* c) {
    with_rows(*c, [&](auto rows) { pack_rows<decltype(rows)>(weight, (char*)packed, *c); });
}

// The lists of windows: which rows of a slice are added to the sums of an output pixel, joined from the lists of the input
// pixels in its window.
//
// If a slice lies within one row of the window, its lists depend only on the input row and on the column in which it begins.
// Windows above and below (and neighbouring ones, if a slice is one pixel) need the same lists, which are then made once.

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
