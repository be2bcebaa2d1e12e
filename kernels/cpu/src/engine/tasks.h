// How a layer of neurons is cut into tasks: bands of rows of one image, all channels; of layers of one pixel groups of
// images. Where there are few tasks, each is cut by blocks of channels as well.
#pragma once
#include "session.h"

namespace PK_TARGET {

constexpr int64_t near_bytes = 5 << 17;      // of a matrix that stays in a second-level cache
constexpr int64_t part_bytes = 1 << 18;      // of a larger one, which many pixels go through part after part
constexpr int64_t most_items = 128;          // sums of a block that are made side by side
constexpr int64_t most_far_items = 512;      // the same, where the matrix comes from far
constexpr int64_t near_items = 32;           // the same, where they are to stay in a first-level cache
constexpr int64_t most_list_rows = 1 << 19;  // of a batch, where it has more than one pixel
constexpr int64_t most_band_list = 1 << 18;  // channels that fired under a band, where it has more than one row
constexpr int64_t most_pattern_steps = 32;   // bits of a pattern
constexpr int64_t gap = 8;                   // entries that are written at a time, so many between two lists
// Of a segment, and of a row: where both are few, rows are added at each step in which they fire, and not by patterns. Read
// again, such a row comes from the first-level cache, and one list a step is sooner made than one a pattern.
constexpr int64_t few_steps = 16, few_bytes = 256;

// Whether pixels share a matrix, or a part of one, that is too large to be read for each.
static bool is_far(const Window& w) { return w.rows * w.row_bytes > near_bytes; }

// A window's rows in parts: of some channels of one tap, or of all channels of some taps.
struct Parts {
    int64_t chunk, chunks, taps, count;
    Parts(const Window& w, int64_t most_rows) : chunk(w.C), chunks(1), taps(least(w.taps(), most(1, most_rows / w.C))) {
        if (w.C > most_rows) chunk = most(64, most_rows / 64 * 64), chunks = ceil_div(w.C, chunk);
        count = ceil_div(w.taps(), taps) * chunks;
    }
};

struct Tasks {
    int64_t steps, sums;  // of the segment; of a pixel: one, if all its inputs are held
    int64_t rows, bands;  // of output rows of an image: of a band, how many
    int64_t images, groups;  // of a task, where a layer has one pixel: how many such groups
    int64_t spans;  // of blocks
    int64_t pixels;  // of a batch, at most
    bool one_pixel, shared;  // whether a layer has one pixel; whether batches have more

    Tasks(const Step& step, int64_t N, int64_t steps, int64_t threads, bool held) : steps(steps), sums(held ? 1 : steps) {
        one_pixel = step.P() == 1;
        const int64_t items = has_far(step) ? most_far_items : one_pixel ? most_items : near_items;
        pixels = most(1, least(items / sums, most_list_rows / most(1, step.rows)));
        shared = pixels > 1;
        images = one_pixel ? least(pixels, most(N, 1)) : 1;
        groups = ceil_div(N, images);
        const int64_t wanted = threads > 1 ? 3 * threads : 1;
        rows = one_pixel ? 1 : most(1, step.H * most(N, 1) / wanted);
        rows = least(rows, step.H);
        for (; rows > 1; rows = ceil_div(rows, 2)) {
            int64_t entries = 0;
            for (int64_t i = 0; i < step.count; i++)
                if (step.windows[i].rows) entries += under_rows(step.windows[i]) * step.windows[i].W * step.windows[i].C;
            if (entries <= most_band_list) break;
        }
        bands = ceil_div(step.H, rows);
        pixels = least(pixels, one_pixel ? images : rows * step.W);
        spans = groups * bands < 2 * threads ? step.blocks() : 1;
    }
    static bool has_far(const Step& step) {
        for (int64_t i = 0; i < step.count; i++)
            if (is_far(step.windows[i])) return true;
        return false;
    }
    // Whether a batch goes through the rows of a window part after part, so that they come from far once.
    bool in_parts(const Window& w) const { return shared && is_far(w); }
    Parts parts(const Window& w) const { return Parts(w, in_parts(w) ? part_bytes / w.row_bytes : w.rows); }
    // Whether rows are listed for each step, and not for each pattern of steps.
    bool by_steps(const Window& w) const {
        return steps == 1 || in_parts(w) || (steps <= few_steps && w.row_bytes <= few_bytes && !is_far(w));
    }
    int64_t count() const { return groups * bands * spans; }

    // Rows of an input that lie under a band.
    int64_t under_rows(const Window& w) const {
        return least(w.H, (rows - 1) * w.stride_h + (w.kernel_h - 1) * w.dilation_h + 1);
    }

    // Memory that one thread needs.
    Room room(const Step& step) const {
        Room r;
        r.items = pixels * sums;
        r.pixels = rows * step.W + images;
        for (int64_t i = 0; i < step.count; i++) {
            const Window& w = step.windows[i];
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
