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
        if (runs > 1) taps = least(taps, c.kernel_w);  // windows share lists of one kernel row: window_lists.h
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
        for (int64_t r = i * most / n; r < (i + 1) * most / n; r++) __builtin_prefetch(slice + (rows + r) * row_line, 0, 2);
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

}  // namespace PK_TARGET
