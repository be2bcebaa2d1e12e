// Rows of weights, and sums of chosen rows. A row holds the weights of one input to 16 output channels and is one cache
// line, so the limit is one row a cycle, if the rows come from the first-level cache. Therefore the rows of 16 channels are
// cut into slices that fit there, and each slice is used for many output pixels before the next.
#pragma once
#include "simd.h"
#include "work.h"

namespace PK_TARGET {

constexpr int row_line = 64;         // bytes of a row
constexpr int64_t slice_rows = 384;  // 24 kB
constexpr int entry_scale = 8;       // lists hold row numbers times 8: an address can add 8 times a register
constexpr int overrun = 16;          // lists are read and written in whole vectors, past their end

// Which inputs make a slice: those of a few taps of the window or, where a pixel has many channels, a part of one tap's.
// Row 0 of a slice is zero, to fill up lists with.
struct Slices {
    int64_t chunk, chunks;  // channels of a pixel that are in one slice, and how many such chunks a pixel has
    int64_t taps;           // of a slice
    int64_t count, rows;    // slices; rows of each

    explicit Slices(const Conv2d& c) {
        const int64_t window = c.kernel_h * c.kernel_w;
        chunks = ceil_div(c.C_in, slice_rows);
        chunk = chunks == 1 ? c.C_in : ceil_div(ceil_div(c.C_in, chunks), 16) * 16;
        chunks = ceil_div(c.C_in, chunk);
        const int64_t runs = chunks > 1 ? window : ceil_div(window, most(1, slice_rows / c.C_in));
        taps = ceil_div(window, runs);
        count = ceil_div(window, taps) * chunks;
        rows = taps * chunk + 1;
    }

    // Whether the weights of some output channels are too many for the second-level cache.
    bool far(int64_t channels) const { return ceil_div(channels, row) * count * rows * row_line > 1 << 19; }

    // Asks for the i-th of n parts of the slice that follows, while this one is used.
    void prefetch_next(const float* slice, int64_t i, int64_t n) const {
        for (int64_t r = i * rows / n; r < (i + 1) * rows / n; r++) __builtin_prefetch(slice + (rows + r) * row, 0, 2);
    }

    // Calls visit(pixel of the input part, first entry) for each tap of a slice that lies inside the image.
    template <class Visit>
    int64_t each_tap(const Conv2d& c, const Part& in, const Place& place, int64_t slice, Visit visit) const {
        int64_t found = 0;
        for (int64_t i = 0; i < taps; i++) {
            const int64_t tap = slice / chunks * taps + i;
            const int64_t y = place.y * c.stride_h - c.padding_h + tap / c.kernel_w * c.dilation_h;
            const int64_t x = place.x * c.stride_w - c.padding_w + tap % c.kernel_w * c.dilation_w;
            if (tap >= c.kernel_h * c.kernel_w || y < 0 || y >= c.H || x < 0 || x >= c.W) continue;
            visit(found++, ((place.image - in.image) * in.rows + y - in.row) * c.W + x,
                  (uint16_t)(i * c.C_in * entry_scale));
        }
        return found;
    }
};

// Rows that belong to one sum: how many groups of rows, and to which sum.
struct Visit {
    uint16_t groups, sum;
};

// The rows of one slice of a window, sum after sum. They are sorted by their number: the processor, which guesses the end
// of a loop from the last ones, is then wrong only where the number changes.
struct Choice {
    const uint16_t* entries;
    const Visit* visits;
    int64_t count, empty;  // visits; those that come first and have no rows
};

template <int group>
static Choice sort_sums(const uint32_t* length, int64_t sums, Visit* visits, const uint16_t* entries) {
    uint16_t place[slice_rows / group + 2] = {};
    for (int64_t i = 0; i < sums; i++) place[ceil_div(length[i], group) + 1]++;
    const int64_t empty = place[1];
    for (int64_t i = 1; i < slice_rows / group + 2; i++) place[i] += place[i - 1];
    for (int64_t i = 0; i < sums; i++) {
        const uint16_t groups = (uint16_t)ceil_div(length[i], group);
        visits[place[groups]++] = {groups, (uint16_t)i};
    }
    return {entries, visits, sums, empty};
}

// Adds chosen rows of a slice to the sums [sum][16]; `first`: sets them to what these rows add up to. An addition
// waits for the one before to the same register, so the rows of a group are added side by side.
template <int group>
OUT_OF_LINE static void add_slice(const float* slice, const Choice& choice, bool first, float* sums) {
    constexpr int parts = least(group, Row::vecs > 2 ? 2 : 4);
    const uint16_t* entry = choice.entries;
    const Row zero = broadcast_block<row>(0.0f);
    if (first)
        for (int64_t i = 0; i < choice.empty; i++) store_block(sums + choice.visits[i].sum * row, zero);
    for (const Visit* visit = choice.visits + choice.empty; visit < choice.visits + choice.count; visit++) {
        float* const to = sums + visit->sum * row;
        Row part[parts];
        part[0] = first ? zero : load_block<row>(to);
        for (int i = 1; i < parts; i++) part[i] = zero;
        for (const uint16_t* const end = entry + visit->groups * group; entry < end; entry += parts)
            {
                uint64_t packed = 0;
                memcpy(&packed, entry, 2 * parts);
                for (int i = 0; i < parts; i++, packed >>= 16)
                    add(part[i], load_block<row>((const float*)((const char*)slice + (packed & 0xffff) * (row_line / entry_scale))));
            }
        if constexpr (parts == 4) add(part[0], part[2]), add(part[1], part[3]);
        if constexpr (parts >= 2) add(part[0], part[1]);
        store_block(to, part[0]);
    }
}

static int64_t rows_size(const Conv2d* c) {
    const Slices slices(*c);
    return slices.count * slices.rows * row;
}

static void pack_rows(const float* weight, float* packed, const Conv2d* conv) {
    const Conv2d& c = *conv;
    const Slices slices(c);
    const int64_t window = c.kernel_h * c.kernel_w, size = rows_size(conv);
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < c.neurons.C; first += row) {
        float* const rows = packed + first / row * size;
        const int64_t channels = least(row, c.neurons.C - first);
        memset(rows, 0, size * sizeof(float));
        for (int64_t i = 0; i < c.C_in; i++)
            for (int64_t tap = 0; tap < window; tap++) {
                const int64_t slice = tap / slices.taps * slices.chunks + i / slices.chunk;
                const int64_t index = tap % slices.taps * c.C_in + i % slices.chunk + 1;
                float* const to = rows + (slice * slices.rows + index) * row;
                for (int64_t o = 0; o < channels; o++) to[o] = weight[((first + o) * c.C_in + i) * window + tap];
            }
    }
}

// How the work of a kernel that adds rows is cut: bands of output rows of one image, or several whole images where these
// are small; where that is too little for the threads, spans of output channels.
struct Cut {
    int64_t steps, places;                 // of a tile of time; output pixels for which a slice is used at a time
    int64_t images, batches, rows, bands;  // of a task; in all
    int64_t channels, spans;
    int64_t tasks;

    // `sums`: of one output pixel in a tile. `band_lists`: of input pixels and sums that a task may have. `uses`: pixels
    // times sums that a slice is used for at a time.
    Cut(const Conv2d& c, const Slices& slices, int64_t steps, int64_t sums, int64_t group, int64_t band_lists,
        int64_t uses, int threads)
        : steps(steps) {
        constexpr int64_t group_entries = 1 << 22;
        const Neurons& n = c.neurons;
        const int64_t wanted = 4 * threads, out_rows = rows_out(c);
        const int64_t entries = slices.count * sums * (slices.rows + group);
        places = most(1, least(ceil_div(uses, sums), group_entries / entries));
        images = most(1, least(n.N, places / most(1, n.P)));
        batches = ceil_div(n.N, images);
        images = ceil_div(n.N, most(1, batches));
        const int64_t for_threads = ceil_div(out_rows, ceil_div(wanted, most(batches, 1)));
        const int64_t for_cache = band_lists / (sums * c.W * c.stride_h * slices.chunks);
        rows = images > 1 ? out_rows : most(1, least(for_threads, for_cache));
        bands = ceil_div(out_rows, rows);
        const int64_t blocks = ceil_div(n.C, row);
        channels = ceil_div(blocks, least(blocks, ceil_div(wanted, most(1, batches * bands)))) * row;
        spans = ceil_div(n.C, channels);
        tasks = batches * bands * spans;
    }
    Part part(const Conv2d& c, int64_t task) const {
        const int64_t band = task / spans % bands;
        Part out{task / spans / bands * images, 0, band * rows, 0, 0, 0};
        out.images = least(images, c.neurons.N - out.image);
        out.rows = least(rows, rows_out(c) - out.row);
        return out;
    }
    int64_t first_channel(int64_t task) const { return task % spans * channels; }
};

}  // namespace PK_TARGET
