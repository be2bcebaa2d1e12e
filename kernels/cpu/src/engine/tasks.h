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

// Whether pixels share a matrix, or a part of one, that is too large to be read for each.
static bool is_far(const Window& w) { return w.rows * columns * (int64_t)sizeof(float) > near_bytes; }

struct Tasks {
    int64_t steps, sums;     // of the segment; of a pixel: one, if all its inputs are held
    int64_t rows, bands;     // of output rows of an image: of a band, how many
    int64_t images, groups;  // of a task, where a layer has one pixel: how many such groups
    int64_t spans;           // of blocks
    int64_t pixels;          // of a batch, at most
    bool one_pixel, alone;

    Tasks(const Step& step, int64_t N, int64_t steps, int64_t threads, bool held) : steps(steps), sums(held ? 1 : steps) {
        one_pixel = step.P() == 1;
        const int64_t items = has_far(step) ? most_far_items : one_pixel ? most_items : near_items;
        pixels = most(1, least(items / sums, most_list_rows / most(1, step.rows)));
        alone = pixels > 1;
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
    // Whether the rows of a window are added one by one, in their order, and not sorted by patterns.
    bool is_alone(const Window& w) const { return alone && is_far(w); }
    int64_t count() const { return groups * bands * spans; }

    // Rows of an input that lie under a band.
    int64_t under_rows(const Window& w) const {
        return least(w.H, (rows - 1) * w.stride_h + (w.kernel_h - 1) * w.dilation_h + 1);
    }

    // Memory that one thread needs.
    Room room(const Step& step) const {
        Room r;
        r.items = pixels * sums;
        r.pixels = rows * step.W + images, r.buckets = step.count * (pixels + 1);
        for (int64_t i = 0; i < step.count; i++) {
            const Window& w = step.windows[i];
            r.alike += under_rows(w) * w.W;
            if (!w.rows) continue;
            r.listed = most(r.listed, w.rows);
            r.lists += pixels * (steps > 1 && !is_alone(w) ? w.rows : 1);
            r.rows += pixels * w.rows * (steps > 1 && !is_alone(w) ? 1 + gap : 1);
            const int64_t under = (one_pixel ? images : 1) * under_rows(w) * w.W;
            r.fired += under * w.C, r.places += under;
            if (steps > 1 && !is_alone(w)) r.sorted += under * w.C;
        }
        return r;
    }
};

}  // namespace PK_TARGET
