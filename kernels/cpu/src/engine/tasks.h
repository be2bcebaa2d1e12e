// How a layer of neurons is cut into tasks: a band of rows of one image, with all channels; in layers of one pixel, a group of
// images. If that gives few tasks, each is also cut by blocks of channels.
#pragma once
#include "session.h"

namespace PK_TARGET {

constexpr int64_t near_bytes = 5 << 17;      // the largest matrix that stays in the second-level cache
constexpr int64_t part_bytes = 1 << 18;      // a larger matrix is used in parts of this size, each by many pixels
constexpr int64_t most_items = 128;          // sums of a block that are computed together
constexpr int64_t most_far_items = 512;      // the same, if the matrix does not stay in the second-level cache
constexpr int64_t near_items = 32;           // the same, if the sums are to stay in the first-level cache
constexpr int64_t most_list_rows = 1 << 19;  // per batch, unless it is one pixel
constexpr int64_t most_band_list = 1 << 18;  // channels that can fire under a band, unless it is one row
constexpr int64_t most_pattern_steps = 32;   // bits of a pattern
constexpr int64_t gap = 8;                   // entries written at a time, and spare entries between two lists
// With at most this many steps per segment and bytes per row, rows are added at each step in which they fire, not by patterns:
// reading a row again is cheap, from the first-level cache, and listing by step is faster than by pattern.
constexpr int64_t few_steps = 16, few_bytes = 256;

// Whether the matrix is too large for the second-level cache, so that a batch of pixels should share each read of it.
static bool is_far(const Window& w) { return w.rows * w.row_bytes > near_bytes; }

// A window's rows, cut into parts: some channels of one tap, or all channels of some taps.
struct RowParts {
    int64_t chunk, chunks, taps, count;
    RowParts(const Window& w, int64_t most_rows) : chunk(w.C), chunks(1), taps(least(w.taps(), most(1, most_rows / w.C))) {
        if (w.C > most_rows) chunk = most(64, most_rows / 64 * 64), chunks = ceil_div(w.C, chunk);
        count = ceil_div(w.taps(), taps) * chunks;
    }
};

struct Tasks {
    int64_t steps, sums;  // steps of the segment; sums per pixel and channel: 1 if all inputs are held
    int64_t rows, bands;  // output rows per band; bands per image
    int64_t images, groups;  // images per task, in layers of one pixel; number of such groups
    int64_t spans;  // tasks by blocks of channels
    int64_t pixels;  // the most pixels of a batch
    bool one_pixel, shared;  // whether the layer has one pixel; whether batches have several

    Tasks(const Op& op, int64_t N, int64_t steps, int64_t threads, bool held) : steps(steps), sums(held ? 1 : steps) {
        one_pixel = op.P() == 1;
        const int64_t items = has_far(op) ? most_far_items : one_pixel ? most_items : near_items;
        pixels = most(1, least(items / sums, most_list_rows / most(1, op.rows)));
        shared = pixels > 1;
        images = one_pixel ? least(pixels, most(N, 1)) : 1;
        groups = ceil_div(N, images);
        const int64_t wanted = threads > 1 ? 3 * threads : 1;
        rows = one_pixel ? 1 : most(1, op.H * most(N, 1) / wanted);
        rows = least(rows, op.H);
        for (; rows > 1; rows = ceil_div(rows, 2)) {
            int64_t entries = 0;
            for (int64_t i = 0; i < op.count; i++)
                if (op.windows[i].rows) entries += under_rows(op.windows[i]) * op.windows[i].W * op.windows[i].C;
            if (entries <= most_band_list) break;
        }
        bands = ceil_div(op.H, rows);
        pixels = least(pixels, one_pixel ? images : rows * op.W);
        spans = groups * bands < 2 * threads ? op.blocks() : 1;
    }
    static bool has_far(const Op& op) {
        for (int64_t i = 0; i < op.count; i++)
            if (is_far(op.windows[i])) return true;
        return false;
    }
    // Whether a batch uses the rows of a window part by part, so that each row is fetched from memory once.
    bool in_parts(const Window& w) const { return shared && is_far(w); }
    RowParts parts(const Window& w) const { return RowParts(w, in_parts(w) ? part_bytes / w.row_bytes : w.rows); }
    // Whether rows are listed by step, not by pattern.
    bool by_steps(const Window& w) const {
        return steps == 1 || in_parts(w) || (steps <= few_steps && w.row_bytes <= few_bytes && !is_far(w));
    }
    int64_t count() const { return groups * bands * spans; }

    // Input rows under a band.
    int64_t under_rows(const Window& w) const {
        return least(w.H, (rows - 1) * w.stride_h + (w.kernel_h - 1) * w.dilation_h + 1);
    }

    // The scratch memory of one thread.
    Room room(const Op& op) const {
        Room r;
        r.items = pixels * sums;
        r.pixels = rows * op.W + images;
        for (int64_t i = 0; i < op.count; i++) {
            const Window& w = op.windows[i];
            r.alike += under_rows(w) * w.W;
            if (!w.rows) continue;
            const int64_t under = (one_pixel ? images : 1) * under_rows(w) * w.W, parts_of = parts(w).count;
            const int64_t times = by_steps(w) ? steps : 1, lists = by_steps(w) ? parts_of * steps : w.rows;
            r.listed = most(r.listed, w.rows), r.taps = most(r.taps, w.taps());
            r.buckets += pixels * parts_of + 1, r.lists += pixels * lists;
            r.rows += pixels * (w.rows * times + lists * gap);
            r.fired += under * w.C * times, r.places += under;
            r.sorted += under * (by_steps(w) ? parts(w).chunks * steps : w.C);
            r.whole = most(r.whole, w.kind == RowKind::Floats ? 0 : (in_parts(w) ? pixels : 1) * sums);
        }
        return r;
    }
};

}  // namespace PK_TARGET
