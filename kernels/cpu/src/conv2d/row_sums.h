// A convolution that adds rows of weights, with the neurons in the same pass. A spike is 0 or 1, so the current of an output
// channel is the sum of the weights of the inputs that fired: the work is proportional to the number of spikes. Inputs that fire
// at all or most steps of a span (input_lists.h) cost less still: their weights are added once, to a sum that all currents of
// the span share. `Source` (InputLists, or FirstSpikes of periodic inputs) says which rows are added to which sums. The stages,
// for a band of output rows and a segment of steps:
//
// 1. list_inputs: lists, for each input pixel, the channels that are steady in each span; and for each step the other
//    channels that fired, and the steady ones that did not (their negated weights are added).
// 2. list_slice (input_lists.h, called by WindowLists of slices.h): joins the lists of the pixels in the window of one output pixel,
//    for one slice of its inputs, step by step and span by span.
// 3. add_slice (slices.h): adds up the listed weights, slice by slice, for a block of output channels of a group of pixels.
// 4. fire (fire_sums.cpp): walks the steps with the potentials in registers, and writes the spikes.
//
// A fully connected layer is a convolution of images of one pixel.
#pragma once
#include "../neurons.h"
#include "../fingerprint.h"
#include "slices.h"

namespace PK_TARGET {

// Neurons whose currents are sums of rows of weights.

// Sums of output pixels: one for each step, then one for each span, which the steps of the span share.
struct Sums {
    const char* data;
    int64_t pixel, sum;  // bytes from one pixel to the next, and from one sum to the next
    int64_t span;  // steps of a span; 0: there are no shared sums
    // Writes the currents of 16 channels for `count` sums, beginning at register `first` of each row; null: sums are floats.
    void (*to_floats)(const char* sums, int64_t count, int64_t sum, int first, const Row& unit, const Row& rest, float* to);
};

template <class Rows>
static void sums_to_floats(const char* sums, int64_t count, int64_t sum, int first, const Row& unit, const Row& rest,
                           float* to) {
    const Row units = unit, rests = rest;  // copies: the compiler cannot rule out that storing currents changes the originals
    for (int64_t k = 0; k < count; k++, sums += sum, to += row)
        for (int i = 0; i < Row::vecs; i++) {
            const Vec current = Rows::current((const typename Rows::Number*)sums, first + i);
            store(to + i * Vec::width, multiply_add(current, units.v[i], rests.v[i]));
        }
}

// Pixels that are fired together, with their states in registers, since each step of a neuron waits for the one before.
constexpr int together = (int)most(2, 4 * Vec::width / row);

// Walks the steps of a segment for 16 channels of `count` output pixels: 1, or `together`. `first`: the register of a row of
// sums in which these channels begin. `starts`: of the i-th pixel the largest of the sums from starts[i] to starts[i + 1] is
// taken; null: the i-th.
void fire(const Conv2d& c, const Region& segment, const Place* places, int64_t count, int64_t channel, const Sums& sums,
          int first, const int64_t* starts = nullptr);

// Finds output pixels with equal results: the inputs of their windows fire alike, and their neurons start from the same
// states. The first such pixel is computed, and the others are copied from it. Plain backgrounds have many of them, and so
// have the frames of an event camera.

// A hash table that finds the first of equal items.
class Firsts {
public:
    void begin(int64_t most_items) {
        int64_t size = 16;
        while (size < 2 * most_items) size *= 2;
        mask = size - 1;
        memset((void*)slots.reserve(size), 0xff, size * sizeof(Slot));
    }
    // The first item that equals this one; the item itself if none does.
    template <class Equal>
    int64_t of(uint64_t hash, int64_t item, Equal equal) {
        for (int64_t i = (int64_t)hash & mask;; i = (i + 1) & mask) {
            Slot& slot = slots.data[i];
            if (slot.item < 0) slot = {hash, item};
            if (slot.item == item || (slot.hash == hash && equal(slot.item))) return slot.item;
        }
    }

    void borrow(Carver& carver, int64_t most_items) { slots.borrow(carver, most(16, 4 * most_items)); }

private:
    struct Slot {
        uint64_t hash;
        int64_t item;  // below 0: the slot is empty
    };
    Grown<Slot> slots;
    int64_t mask = 0;
};

class EqualWindows {
public:
    // `can`: whether equal windows have equal results.
    EqualWindows(const Conv2d& c, bool can) : c(c), can_be_equal(can && c.neurons.P > 1 && !c.shortcut && !c.neurons.currents) {
        with_model_or_sums(c.neurons.neuron, [&](auto model) { states = model.states; });
    }
    EqualWindows(const EqualWindows&) = delete;

    Grown<Place> places;  // output pixels to compute, in their order
    int64_t count = 0;

    // Divides the output pixels of a part into `places`, which must be computed, and copies of them, for a span of channels
    // that has `blocks` blocks. `source` knows which pixels of its input fire alike.
    template <class Source>
    void find(const Region& new_in, const Region& new_out, int64_t first_channel, int64_t last_channel, int64_t blocks,
              const Source& source) {
        in = new_in, out = new_out, channel = first_channel, channels = last_channel - first_channel;
        const int64_t all = out.images * out.rows * c.W_out;
        places.reserve(all);
        copies.reserve(all);
        count = copied = 0;
        const bool can = can_be_equal && pays(blocks, source) && number_inputs(source);
        if (can) firsts.begin(all);
        for (int64_t i = 0; i < all; i++) {
            const Place place(c, out, i);
            const auto equals = [&](int64_t other) { return are_alike(place, Place(c, out, other)); };
            const int64_t first = can ? firsts.of(hash_of(place), i, equals) : i;
            if (first == i) places.data[count++] = place;
            else copies.data[copied++] = {Place(c, out, first), place};
        }
    }

    // Borrows memory for `most_in` input pixels and `most_out` output pixels.
    void borrow(Carver& carver, int64_t most_in, int64_t most_out) {
        places.borrow(carver, most_out);
        copies.borrow(carver, most_out);
        numbers.borrow(carver, most_in);
        firsts.borrow(carver, most(most_in, most_out));
    }

    void copy() const {
        const Neurons& n = c.neurons;
        const int64_t bytes = (n.C + 7) / 8, frame = n.P * bytes;
        for (const Copy* copy = copies.data; copy < copies.data + copied; copy++) {
            const auto spikes_of = [&](const Place& at) {
                return n.spikes + ((at.image * n.T + out.t) * n.P + at.y * c.W_out + at.x) * bytes + channel / 8;
            };
            const uint8_t* from = spikes_of(copy->from);
            uint8_t* to = spikes_of(copy->to);
            for (int64_t t = 0; t < out.steps; t++, from += frame, to += frame) copy_bytes(from, to, (channels + 7) / 8);
            for (int64_t k = 0; k < states; k++)
                memcpy(state_after(copy->to, k), state_after(copy->from, k), channels * sizeof(float));
        }
    }

private:
    struct Copy {
        Place from, to;
    };

    // Whether many pixels fire alike, and computing a window takes much longer than comparing it.
    template <class Source>
    bool pays(int64_t blocks, const Source& source) const {
        return 8 * source.repeats >= in.images * in.rows * c.W && out.steps * blocks >= 4 * c.kernel_h * c.kernel_w;
    }

    // Gives each pixel of the input the number of the first pixel that fires alike; returns whether any two do.
    template <class Source>
    bool number_inputs(const Source& source) {
        const int64_t all = in.images * in.rows * c.W;
        numbers.reserve(all);
        firsts.begin(all);
        bool found = false;
        for (int64_t i = 0; i < all; i++) {
            numbers.data[i] = firsts.of(source.hash_of(i), i, [&](int64_t other) { return source.are_alike(i, other); });
            found |= numbers.data[i] != i;
        }
        return found;
    }

    // The number of the input pixel under one tap of a window; -1 outside the image.
    int64_t number_of(const Place& place, int64_t ky, int64_t kx) const {
        const int64_t y = place.y * c.stride_h - c.padding_h + ky * c.dilation_h;
        const int64_t x = place.x * c.stride_w - c.padding_w + kx * c.dilation_w;
        if (y < 0 || y >= c.H || x < 0 || x >= c.W) return -1;
        return numbers.data[((place.image - in.image) * in.rows + y - in.row) * c.W + x];
    }

    uint64_t hash_of(const Place& place) const {
        uint64_t hash = 0;
        for (int64_t ky = 0; ky < c.kernel_h; ky++)
            for (int64_t kx = 0; kx < c.kernel_w; kx++) hash = mix(hash, (uint64_t)number_of(place, ky, kx));
        if (share_a_start()) return hash;
        for (int64_t k = 0; k < states; k++)
            hash = mix(hash, hash_piece((const uint8_t*)state_before(place, k), channels * sizeof(float), 0));
        return hash;
    }
    bool are_alike(const Place& a, const Place& b) const {
        for (int64_t ky = 0; ky < c.kernel_h; ky++)
            for (int64_t kx = 0; kx < c.kernel_w; kx++)
                if (number_of(a, ky, kx) != number_of(b, ky, kx)) return false;
        for (int64_t k = 0; k < states && !share_a_start(); k++)
            if (memcmp(state_before(a, k), state_before(b, k), channels * sizeof(float))) return false;
        return true;
    }

    bool share_a_start() const { return !out.t && !c.neurons.start_image && !c.neurons.start_pixel; }
    const float* state_before(const Place& place, int64_t k) const {
        const Neurons& n = c.neurons;
        if (out.t) return state_after(place, k);
        const int64_t pixel = place.y * c.W_out + place.x;
        return n.start + place.image * n.start_image + k * n.start_state + pixel * n.start_pixel + channel;
    }
    float* state_after(const Place& place, int64_t k) const {
        const Neurons& n = c.neurons;
        return n.v + ((place.image * states + k) * n.P + place.y * c.W_out + place.x) * n.C + channel;
    }

    const Conv2d& c;
    const bool can_be_equal;
    int64_t states = 0;  // states of a neuron
    Region in{}, out{};
    int64_t channel = 0, channels = 0;
    Firsts firsts;
    Grown<int64_t> numbers;  // [input pixel]: the first pixel that fires alike
    Grown<Copy> copies;
    int64_t copied = 0;
};

// A convolution `c`, and as `out` the neurons behind it with the windows that they see; they differ if its currents are pooled.
struct PooledConv {
    Conv2d c, out;
    Pooling pool;
    bool pools;
};

// The memory of one thread.
template <class Source_>
struct Worker {
    using Source = Source_;
    Source source;
    WindowLists<Source> lists;
    EqualWindows windows;
    Grown<char> sums;  // [output pixel][sum][channel of a block]
    // With pooling: the pixels under the windows of a group, and where those of each window start.
    Grown<Place> under;
    Grown<int64_t> starts;
    Worker(const PooledConv& pooled, const Slices& slices)
        : lists(pooled.c, slices, source), windows(pooled.out, !pooled.pools || pooled.pool.is_whole(pooled.out)) {}
};

// Describes sums [pixel][sum][channel of a row] with `size` numbers for each pixel.
template <class Rows>
static Sums sums_of(const typename Rows::Number* sums, int64_t size, int64_t span) {
    constexpr bool floats = std::is_same_v<typename Rows::Number, float>;
    constexpr int64_t bytes = sizeof(typename Rows::Number);
    return {(const char*)sums, size * bytes, Rows::channels * bytes, span, floats ? nullptr : sums_to_floats<Rows>};
}

// Computes a group of output pixels. `windows`: those of the neurons, of which the i-th has the pixels from starts[i] on; of
// `starts` null one each.
template <class Rows, class Worker>
static void run_group(const Conv2d& c, const Slices& slices, const Region& out, const Place* at, int64_t places,
                      const Place* windows, int64_t count, const int64_t* starts, int64_t first_channel, int64_t last_channel,
                      Worker& worker) {
    using Number = typename Rows::Number;
    using Source = typename Worker::Source;
    const int64_t size = worker.source.sums * Rows::channels;
    const Choice* const choices = worker.lists.of(at, places);
    Number* const all_sums = (Number*)worker.sums.reserve(places * size * sizeof(Number));
    const bool far = slices.far(ceil_div(last_channel - first_channel, Rows::channels));
    const char* weights = (const char*)c.weight + first_channel / Rows::channels * slices.block_bytes();
    for (int64_t channel = first_channel; channel < last_channel; channel += Rows::channels) {
        for (int64_t slice = 0; slice < slices.count; slice++, weights += slices.bytes())
            for (int64_t i = 0; i < places; i++) {
                if (far && places == 1) slices.read(weights);
                else if (far) slices.prefetch_next(weights, i, places);
                const Choice& choice = choices[i * slices.count + slice];
                add_slice<Rows, Source::group>(weights, choice, slice == 0, all_sums + i * size);
            }
        for (int64_t i = 0, n; i < count; i += n) {
            n = i + together <= count ? together : 1;
            for (int64_t k = starts ? starts[i] : i; k < (starts ? starts[i + n] : i + n); k++)
                worker.source.template finish<Rows>(all_sums + k * size);
            const Sums sums = sums_of<Rows>(all_sums + (starts ? 0 : i * size), size, Source::span);
            const int64_t end_channel = least(channel + Rows::channels, c.neurons.C);
            for (int64_t part = channel; part < end_channel; part += row)
                fire(c, out, windows + i, n, part, sums, (int)(part - channel) / Vec::width, starts ? starts + i : nullptr);
        }
    }
}

// Computes the output pixels of a part, `places` at a time. Their inputs have been listed.
template <class Rows, class Worker>
static void run_part(const PooledConv& conv, const Slices& slices, const Region& in, const Region& out, int64_t places,
                     int64_t first_channel, int64_t last_channel, Worker& worker) {
    worker.lists.begin(in);
    EqualWindows& windows = worker.windows;
    windows.find(in, out, first_channel, last_channel, ceil_div(last_channel - first_channel, Rows::channels), worker.source);
    const int64_t together = most(1, places / conv.pool.taps());  // windows
    Place* const under = conv.pools ? worker.under.reserve(places) : nullptr;
    int64_t* const starts = conv.pools ? worker.starts.reserve(together + 1) : nullptr;
    for (int64_t i = 0; i < windows.count; i += together) {
        const Place* const at = windows.places.data + i;
        const int64_t some = least(together, windows.count - i);
        int64_t n = 0;
        for (int64_t k = 0; k < some && conv.pools; k++) {
            starts[k] = n;
            conv.pool.each_under(at[k].y, at[k].x,
                                 [&](int64_t y, int64_t x) { under[n++] = at[k], under[n - 1].y = y, under[n - 1].x = x; });
        }
        if (conv.pools) starts[some] = n;
        run_group<Rows>(conv.out, slices, out, conv.pools ? under : at, conv.pools ? n : some, at, some, starts, first_channel,
                        last_channel, worker);
    }
    windows.copy();
}

// How the work is cut, in segments of `steps` steps.
template <class Source>
static Cut cut_of(const Conv2d& c, const Slices& slices, int64_t steps, int64_t threads) {
    const int64_t sums = Source::most_sums(steps), entries = slices.count * (steps * slices.inputs + sums * Source::group);
    return {c, {steps, Source::uses, entries, sums * slices.chunks, Source::band_lists}, c.row_channels, threads};
}

}  // namespace PK_TARGET
