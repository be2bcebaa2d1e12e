// Event-driven convolution with the IF neuron in the same pass. A multiplication by a spike is nothing (0) or an addition
// (1), so the current of an output channel is the sum of the weights of the inputs that fired: work in proportion to the
// spikes. In stages, for a band of output rows and a tile of steps:
//
// 1. list_inputs: for each input pixel and step, the channels that fired. Each bit is looked at once.
// 2. list_window: for one output pixel, slice of its inputs and step, the lists of the pixels in its window, joined.
// 3. add_slice (slices.h): for 16 output channels of a group of pixels, slice by slice, the currents of all steps.
// 4. fire: walk the steps with the potentials in registers; write the spikes.
//
// A fully connected layer is the same thing on images of one pixel.
#pragma once
#include "neurons.h"
#include "slices.h"

namespace PK_TARGET {

constexpr int64_t tile_steps = 64;
constexpr int event_group = 4;
constexpr int64_t event_uses = 512;      // pixels times steps whose currents stay in the caches with a slice
constexpr int64_t event_lists = 1 << 17;  // of a band, so that they stay in the second-level cache

// Memory of one thread.
struct EventLists {
    Grown<uint16_t> input;        // entries of what fired, of all input pixels of a task
    Grown<uint32_t> input_start;  // [image][pixel][chunk][step]: its list in `input`; it ends at the next
    Grown<uint16_t> window;       // entries of what fired in the windows of a group of output pixels
    Grown<Choice> choices;        // [output pixel of the group][slice]
    Grown<Visit> visits;          // [output pixel of the group][slice][step]
    Grown<const uint32_t*> tap_start;  // [tap of a slice]: input_start of its pixel
    Grown<uint16_t> tap_base;          // [tap of a slice]: its first entry
    Grown<uint32_t> length;            // [step]
    Grown<float> current;              // [output pixel of the group][step][16 channels]
};

static void list_inputs(const Conv2d& c, const Slices& slices, const Part& in, EventLists& lists) {
    const int64_t bytes = (c.C_in + 7) / 8, frame = c.H * c.W * bytes, pixels = in.rows * c.W;
    const uint8_t* const first = c.x + (in.image * c.neurons.T + in.t) * frame + in.row * c.W * bytes;
    int64_t spikes = 0;
    for (int64_t image = 0; image < in.images; image++)
        for (int64_t t = 0; t < in.steps; t++)
            spikes += count_bits(first + (image * c.neurons.T + t) * frame, pixels * bytes);
    uint16_t* const list = lists.input.reserve(spikes + overrun);
    uint32_t* start = lists.input_start.reserve(in.images * pixels * slices.chunks * in.steps + 1);
    int64_t n = 0;
    for (int64_t image = 0; image < in.images; image++)
        for (int64_t pixel = 0; pixel < pixels; pixel++)
            for (int64_t chunk = 0; chunk < slices.chunks; chunk++) {
                const int64_t byte = chunk * slices.chunk / 8, left = bytes - byte;
                const int64_t chunk_bytes = chunk + 1 < slices.chunks ? slices.chunk / 8 : left;
                const uint8_t* x = first + image * c.neurons.T * frame + pixel * bytes + byte;
                for (int64_t t = 0; t < in.steps; t++, x += frame) {
                    *start++ = (uint32_t)n;
                    n += append_set_bits(x, chunk_bytes, entry_scale, list + n);
                }
            }
    *start = (uint32_t)n;
}

// The lists of one window; `end` is where they go, and their end is returned.
OUT_OF_LINE static uint16_t* list_window(const Conv2d& c, const Slices& slices, const Part& in, const Place& place,
                                         EventLists& lists, Choice* choices, Visit* visits, uint16_t* end) {
    const uint32_t** const tap_start = lists.tap_start.reserve(slices.taps);
    uint16_t* const tap_base = lists.tap_base.reserve(slices.taps);
    uint32_t* const length = lists.length.reserve(in.steps);
    for (int64_t slice = 0; slice < slices.count; slice++, visits += in.steps) {
        const int64_t taps = slices.each_tap(c, in, place, slice, [&](int64_t i, int64_t pixel, uint16_t base) {
            tap_start[i] = lists.input_start.data + (pixel * slices.chunks + slice % slices.chunks) * in.steps;
            tap_base[i] = base;
        });
        memset(length, 0, in.steps * sizeof *length);
        for (int64_t tap = 0; tap < taps; tap++)
            for (int64_t t = 0; t < in.steps; t++) length[t] += tap_start[tap][t + 1] - tap_start[tap][t];
        choices[slice] = sort_sums<event_group>(length, in.steps, visits, end);
        for (int64_t i = choices[slice].empty; i < in.steps; i++) {
            const int64_t t = visits[i].sum;
            uint16_t* const full = end + visits[i].groups * event_group;
            for (int64_t tap = 0; tap < taps; tap++) {
                const uint32_t first = tap_start[tap][t], last = tap_start[tap][t + 1];
                end = append_shifted(lists.input.data + first, last - first, tap_base[tap], end);
            }
            memset(end, 0, event_group * sizeof *end);
            end = full;
        }
    }
    return end;
}

template <class Reset>
OUT_OF_LINE static void fire(const Conv2d& c, const Reset& neuron, const Part& in, const Place& place, int64_t channel,
                             const Row& bias, const float* current) {
    const Neurons& n = c.neurons;
    const int channels = (int)least(n.C - channel, row);
    const int64_t bytes = (n.C + 7) / 8, p = place.y * c.W_out + place.x;
    uint8_t* out = n.spikes + ((place.image * n.T + in.t) * n.P + p) * bytes + channel / 8;
    float* const state = n.v + (place.image * n.P + p) * n.C + channel;
    const Row theta = load_block<row>(n.theta + channel);
    Row v = load_block<row>(state, channels);
    for (int64_t t = 0; t < in.steps; t++, out += n.P * bytes) {
        Row input = load_block<row>(current + t * row);
        add(input, bias);
        store_spikes<row>(out, step_block(neuron, v, input, theta), channels);
    }
    store_block(state, v, channels);
}

// A group of output pixels: numbers first .. last - 1 of the part.
template <class Reset>
static void run_group(const Conv2d& c, const Slices& slices, const Reset& neuron, const Part& out, const Part& in,
                      int64_t first, int64_t last, int64_t first_channel, int64_t last_channel, EventLists& lists) {
    const int64_t places = last - first;
    Visit* const visits = lists.visits.reserve(places * slices.count * in.steps);
    Choice* const choices = lists.choices.reserve(places * slices.count);
    uint16_t* end = lists.window.reserve(places * slices.count * in.steps * (slices.rows + event_group) + overrun);
    for (int64_t i = 0; i < places; i++)
        end = list_window(c, slices, in, Place(c, out, first + i), lists, choices + i * slices.count,
                          visits + i * slices.count * in.steps, end);
    float* const current = lists.current.reserve(places * in.steps * row);
    const bool far = slices.far(last_channel - first_channel);
    const float* weights = (const float*)c.weight + first_channel / row * rows_size(&c);
    for (int64_t channel = first_channel; channel < last_channel; channel += row) {
        const Row bias = load_block<row>(c.bias + channel);
        for (int64_t slice = 0; slice < slices.count; slice++, weights += slices.rows * row)
            for (int64_t i = 0; i < places; i++) {
                if (far) slices.prefetch_next(weights, i, places);
                add_slice<event_group>(weights, choices[i * slices.count + slice], slice == 0, current + i * in.steps * row);
            }
        for (int64_t i = 0; i < places; i++)
            fire(c, neuron, in, Place(c, out, first + i), channel, bias, current + i * in.steps * row);
    }
}

static void run_events(const Conv2d& c, const Slices& slices, const Cut& cut, int64_t task, EventLists& lists) {
    const Neurons& n = c.neurons;
    const int64_t first_channel = cut.first_channel(task), last_channel = least(n.C, first_channel + cut.channels);
    Part out = cut.part(c, task);
    const int64_t places = out.images * out.rows * c.W_out;
    for (; out.t < n.T; out.t += cut.steps) {
        out.steps = least(cut.steps, n.T - out.t);
        const Part in = input_of(c, out);
        list_inputs(c, slices, in, lists);
        with_reset(n, [&](const auto& neuron) {
            for (int64_t first = 0; first < places; first += cut.places)
                run_group(c, slices, neuron, out, in, first, least(places, first + cut.places), first_channel,
                          last_channel, lists);
        });
    }
}

static void event_conv2d(const Conv2d* c) {
    const Slices slices(*c);
    const int64_t steps = most(1, least(c->neurons.T, tile_steps));
    const Cut cut(*c, slices, steps, steps, event_group, event_lists, event_uses, max_threads());
#pragma omp parallel
    {
        EventLists lists;
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < cut.tasks; task++) run_events(*c, slices, cut, task, lists);
    }
}

}  // namespace PK_TARGET
