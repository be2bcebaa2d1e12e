// Everything that a run works on: slots, states of neurons, scratch memory per thread, and the threads. All memory is allocated
// before the first operation of a run.
#pragma once
#include "../sigma_delta/call.h"
#include "packed_plan.h"
#include "team.h"

namespace PK_TARGET {

// How the values of a slot lie in memory: of image n, step t, pixel p and channel c at data[n image + t step + p pixel + c
// channel]; spikes in bytes of eight channels.
struct View {
    const uint8_t* spikes = nullptr;
    const float* values = nullptr;
    int64_t image = 0, step = 0, pixel = 0, channel = 1;  // a step of 0: held
    bool periodic = false;  // each neuron fires at the steps t where its period divides t + 1
    bool scaled = false;  // values are spikes times a scale

    const uint8_t* spikes_at(int64_t n, int64_t t, int64_t p) const { return spikes + n * image + t * step + p * pixel; }
    const float* values_at(int64_t n, int64_t t, int64_t p) const { return values + n * image + t * step + p * pixel; }
    SpikeFrames frames() const { return {spikes, image, step, pixel}; }
    bool held() const { return !step; }
    View from(int64_t t) const {
        View later = *this;
        if (spikes) later.spikes += t * step;
        else later.values += t * step;
        return later;
    }
};

// The changes in a slot of a sigma-delta network during a segment.
struct Change {
    int64_t steps = 0;  // there are no changes after these steps
    int64_t count = 0;  // pixels of all samples that may have changes
    uint8_t* active = nullptr;  // [N, P]: 1 at those pixels
    bool silent = true;  // no changes at all; the slot's memory is then undefined
};

// The spikes at an input pixel: the range of its entries, one per step or pattern; and the number of spikes in all steps.
struct FiredPixel {
    uint32_t first, last, spikes;
};

// The channels, as a range of a list, that fired with one pattern (given by its id) or at one step.
struct Entries {
    uint32_t id, first, last;
    uint32_t size() const { return last - first; }
};

// The spikes under a tap: the first of its entries, and the first row of weights.
struct FiredTap {
    uint32_t first, row;
};

// A range of listed rows of weights, whose sum is added at the steps of `pattern`.
struct Bucket {
    uint32_t first, last, pattern;
};

struct Session;

// The scratch memory of one thread.
struct Scratch {
    FiredPixel* fired;  // input pixels under a band
    Entries* entries;
    uint32_t* channel;  // channels that fired
    float* sent;  // what they sent, if the input is values
    uint32_t *size, *pattern_of;  // by id of a pattern: counts, zero between uses; and the pattern
    int64_t ids;  // their number
    uint32_t* patterns;  // [64]
    uint32_t *unsorted, *unsorted_pattern, *touched;  // one pixel's rows or channels, their patterns, and ids in use
    FiredTap* taps;  // taps of a window
    uint32_t* row;  // the rows of weights that a batch adds
    Bucket* bucket;
    uint32_t* buckets;  // [window][pixel of the batch][part]: its buckets end at the next one's start
    float* value;  // their factors, if the input is values
    float* packed;  // [dense_rows][dense_depth]: the windows of some sums, one after another
    bool multiplied[most_windows];  // for each window: whether all its values are multiplied, so that none is listed
    float* sums;  // [pixel of the batch][step][columns]
    float* whole;  // the same for rows of integers; for some pixels at a time
    int64_t* pixels;  // pixels of the batch
    int64_t* copies;  // pixels that are copied from their left neighbour
    int64_t *additions, *spikes;  // [pixel of the band]
    uint8_t* alike;  // [window][row of the band's input][x]: equals the pixel one stride to the left
    Block* window_sums;  // sums of the inputs of a pooling window
    double* exact;  // [columns]
    int64_t key;  // identifies what the lists describe
    char* kernel;  // memory of a kernel of ../conv2d: ways.h, ways.h, ways.h
    char* sigma_delta;  // memory of sigma_delta.h
    uint64_t* marks;  // [pixel of a band]: bits, zeros between uses; scatter.cpp
    float* currents;  // [pixel of a band][channel], zeros between uses; scatter.cpp
    int64_t tally[engine::tallies];
};

// Sizes of the scratch arrays, in elements.
struct Room {
    int64_t fired = 0, sorted = 0, places = 0, rows = 0, lists = 0, listed = 0, items = 0, pixels = 0, alike = 0, buckets = 0,
            window = 0, kernel = 0, sigma_delta = 0, taps = 0, whole = 0, marks = 0, currents = 0, sent = 0, values = 0,
            packed = 0;

    void include(const Room& o) {
        for (int64_t Room::* size :
             {&Room::fired,  &Room::sorted, &Room::places,   &Room::rows,   &Room::lists,  &Room::listed,      &Room::items,
              &Room::pixels, &Room::alike,  &Room::buckets,  &Room::window, &Room::kernel, &Room::sigma_delta, &Room::taps,
              &Room::whole,  &Room::marks,  &Room::currents, &Room::sent,   &Room::values, &Room::packed})
            this->*size = most(this->*size, o.*size);
    }
};

struct LayerState {
    float* v = nullptr;  // [N, states, P, C]; for pooling, the sums of its inputs; for sigma-delta neurons, z
    float* sent = nullptr;  // sigma-delta neurons: a
    uint8_t* restless = nullptr;  // sigma-delta neurons, [N, P]: whether some sent something at the last step
    uint8_t* alike = nullptr;  // [N, P]: the pixel has been equal to its left neighbour since the start
    bool is_looked_at = true;  // whether `alike` may contain ones
    // For layers that can be scattered (scatter.cpp). `again`: bits [N, words of pixels], which pixels fire again without input.
    // `done`: steps that each pixel, or word of pixels, has done, followed by the total. `due`: the step before which biases
    // alone cannot make a word of pixels fire.
    uint64_t* again = nullptr;
    uint32_t *done = nullptr, *due = nullptr;
    // Whether these arrays are in use; whether `again` is complete; whether some pixels have not done all steps.
    bool is_marked = false, is_settled = false, is_behind = false;
};

constexpr int64_t word_pixels = 64;  // the size of a band is a multiple of it

// Cuts the pixels of an image into `count` bands.
struct ImageBands {
    int64_t P, count;
    int64_t words() const { return ceil_div(P, word_pixels); }
    int64_t first_word(int64_t band) const { return words() * band / count; }
    int64_t first_pixel(int64_t band) const { return least(P, first_word(band) * word_pixels); }
};

// The spikes of a slot at each step (slot_lists.h), as entries pixel << channel_bits(C) | channel.
struct FiredSpan {
    int64_t first, last;
};
struct FiredList {
    int64_t C = 0, P = 0, N = 0, steps = 0;
    int64_t room = 0;  // for entries
    int64_t bands = 1;  // per image, each with spans of its own
    int64_t count = 0;  // entries of all bands
    uint32_t* entry = nullptr;
    FiredSpan* span = nullptr;  // [N, steps, bands]
    int64_t* fired = nullptr;  // [N, bands]: number of entries; -1: too many
    bool is_listed = false, has_bits = true;
    bool ascends = false;  // whether the entries of each span are in the order of pixels

    int64_t shift() const { return channel_bits(C); }
    // Calls visit(pixel, channel).
    template <class Visit>
    inline void each_of(const FiredSpan& span, Visit visit) const {
        const int64_t bits = shift(), mask = (int64_t(1) << bits) - 1;
        for (int64_t i = span.first; i < span.last; i++) visit((int64_t)(entry[i] >> bits), (int64_t)entry[i] & mask);
    }
    template <class Visit>
    inline void each(int64_t image, int64_t t, Visit visit) const {
        for (int64_t band = 0; band < bands; band++) each_of(span[(image * steps + t) * bands + band], visit);
    }
    // The same for entries at pixels in [from, to); others may be included if the list does not ascend.
    template <class Visit>
    inline void each_within(int64_t image, int64_t t, int64_t from, int64_t to, Visit visit) const {
        const ImageBands cut{P, bands};
        for (int64_t band = 0; band < bands; band++) {
            if (cut.first_pixel(band) >= to || cut.first_pixel(band + 1) <= from) continue;
            FiredSpan some = span[(image * steps + t) * bands + band];
            if (ascends) some = {first_from(some, from), first_from(some, to)};
            each_of(some, visit);
        }
    }
    // The index of the first entry of a span at `pixel` or a later one.
    inline int64_t first_from(const FiredSpan& span, int64_t pixel) const {
        int64_t first = span.first, last = span.last;
        while (first < last) {
            const int64_t middle = (first + last) / 2;
            if ((int64_t)(entry[middle] >> shift()) < pixel) first = middle + 1;
            else last = middle;
        }
        return first;
    }
};

// Whether to interrupt a run (tasks.h).
struct Watch {
    int64_t (*asks)(void*) = nullptr;  // null: the run is not watched
    void* context = nullptr;
    int64_t next = 0;  // when to ask, in nanoseconds
    std::atomic<bool> over{false};
};

// One block of memory for everything that lives during a segment.
struct Arena {
    char* memory = nullptr;
    int64_t bytes = 0;
    const Session* last = nullptr;  // that used it
    Arena() = default;
    Arena(const Arena&) = delete;
    ~Arena() { free(memory); }
};

struct Session {
    const Plan& plan;
    Team* team = nullptr;
    const bool owns_team;  // kept here, since Python may free the plan before the session, if both end at once
    Arena own;
    Arena* arena = &own;  // for a layer that is called by itself, the arena of the calling thread (memory.h)
    const char* cut_from = nullptr;  // the memory of the arena for which the pointers below were set
    int64_t cut_bytes = 0;
    char* state_arena = nullptr;
    int64_t state_bytes = 0;
    int64_t N = 0, steps = 0, threads = 0;  // the sizes of the arena's layout
    int64_t most_threads = 0;  // for which the arena has room
    int64_t scratches = 0;  // size of `scratch`, for all threads
    int64_t state_N = 0;  // samples of the states' layout
    int64_t frame_bytes = 0;  // of all slots, per sample and step; 0: not known yet
    Run room{};  // the last run that got all its memory; empty if there is none
    int64_t refused = 0;  // bytes that could not be allocated
    View* views;  // of the slots: 0 is the input
    char** slots;  // where operations write
    int64_t* slot_at;  // [2][operation]: offset of its slot, and the last operation that reads it
    LayerState* states;  // of the operations
    FiredList* lists;  // of the slots
    int64_t* ways;  // of the operations: how they were run last
    bool* real;  // of the operations: whether they give values in this run
    bool* within;  // likewise: whether later neurons run them, Op.maxima
    // Of a layer that is called by itself: its neurons, all samples of which run at once; and where its currents go from the
    // first step of the segment on, or null.
    const Neurons* neurons = nullptr;
    float* currents = nullptr;
    float* tile_currents = nullptr;  // of some images (behind.h)
    char* recurrent = nullptr;  // the states of recurrent neurons, of all images (recurrent.cpp)
    const SigmaDelta* given = nullptr;  // Run.changes
    bool counts = true;  // whether spikes and additions are counted
    // Sigma-delta networks: the contents of the slots; and working memory of sigma_delta.h, shared by all threads.
    Change* changes;
    int64_t* places = nullptr;  // [N, P]
    uint8_t *marks = nullptr, *mark_row = nullptr;  // [N, P]; one padded input row
    float *added = nullptr, *brought = nullptr;  // [N, steps, P, C]
    Messages messages;  // of the input of an operation
    CodeLists codes;  // likewise, for rows of bytes
    int64_t sigma_delta_bytes = 0;  // per thread
    Scratch* scratch = nullptr;
    int64_t serial = 0;  // counts operations that were run by patterns
    int64_t last_time = 0, last_work = 0;  // of the last run: nanoseconds on one thread, samples times steps
    Watch watch;
    Grown<char> kept;  // the session's state before a run (tasks.h)
    Grown<char> running;  // memory of a group of samples (run.cpp)
    Grown<float> rounded;  // the rounded input of a run
    Grown<uint8_t> shortcut;  // of a segment that is not the whole run

    explicit Session(const Plan& plan) : plan(plan), owns_team(!plan.input.is_layer) {
        views = new View[plan.count + 2];  // a layer has a shortcut behind its output
        changes = new Change[plan.count + 1];
        slots = new char*[plan.count]();
        slot_at = new int64_t[2 * plan.count];
        states = new LayerState[plan.count];
        lists = new FiredList[plan.count + 2];
        ways = new int64_t[plan.count]();
        real = new bool[plan.count], within = new bool[plan.count]();
        for (int64_t k = 0; k < plan.count; k++) real[k] = plan.ops[k].real;
    }
    ~Session() {
        if (owns_team) delete team;
        free(state_arena);
        delete[] views;
        delete[] changes;
        delete[] slots;
        delete[] slot_at;
        delete[] states;
        delete[] lists;
        delete[] ways;
        delete[] real;
        delete[] within;
        delete[] scratch;
    }
    Session(const Session&) = delete;
};

// Bytes of a slot for one step of one image.
static inline int64_t slot_bytes(const Op& op, bool real) {
    return op.P() * (real ? op.C * (int64_t)sizeof(float) : op.bytes());
}
// For an operation whose output kind does not depend on the run.
static inline int64_t slot_bytes(const Op& op) { return slot_bytes(op, op.real); }

// Operations that pass on their input give values in a run on values, and spikes in a run on spikes. If that differs from the
// last run, the slots get a new layout.
static void look_at_kinds(Session& session, bool values) {
    for (int64_t k = 0; k < session.plan.count; k++) {
        const Op& op = session.plan.ops[k];
        bool real = op.real;
        if (op.passes_on()) {
            real = false;
            for (int64_t i = 0; i < op.count; i++) real |= op.windows[i].slot ? session.real[op.windows[i].slot - 1] : values;
        }
        if (real != session.real[k]) session.N = session.frame_bytes = 0, session.room = Run{};
        session.real[k] = real;
    }
}

// The neurons of an operation; `fresh`: they start from rest, otherwise from their current states.
static inline Neurons neurons_of(const Session& session, int64_t number, int64_t N, int64_t steps, bool fresh) {
    const Op& op = session.plan.ops[number];
    Neurons n{};
    if (op.is_layer) n = *session.neurons, n.currents = session.currents;
    n.T = steps, n.N = N, n.P = op.P(), n.C = op.C;
    if (op.is_layer && fresh) return n;
    if (!op.is_layer) n.neuron = op.neuron;
    n.v = session.states[number].v;
    n.start = fresh ? op.neurons.start : n.v;
    n.start_image = fresh ? 0 : op.states * n.P * n.C;
    n.start_state = fresh ? n.C : n.P * n.C;
    n.start_pixel = fresh ? 0 : n.C;
    return n;
}

// Whether all inputs of an operation are the same at each step.
static inline bool all_held(const Session& session, const Op& op) {
    for (int64_t i = 0; i < op.count; i++)
        if (!session.views[op.windows[i].slot].held()) return false;
    return true;
}
// Whether some inputs that are multiplied by weights are values.
static inline bool reads_values(const Session& session, const Op& op) {
    for (int64_t i = 0; i < op.count; i++)
        if (op.windows[i].weight && !session.views[op.windows[i].slot].spikes) return true;
    return false;
}

}  // namespace PK_TARGET
