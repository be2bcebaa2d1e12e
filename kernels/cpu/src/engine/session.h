// What a run works on: slots, the neurons' states, scratch memory of each thread, and the team. All of it is there before the
// first operation of a run begins; nothing is allocated while it runs.
#pragma once
#include "plan.h"
#include "team.h"

namespace PK_TARGET {

// How the values of a slot lie in memory: of image n, step t, pixel p and channel c at data[n image + t step + p pixel + c
// channel]; spikes in bytes of eight channels.
struct View {
    const uint8_t* spikes = nullptr;
    const float* values = nullptr;
    int64_t image = 0, step = 0, pixel = 0, channel = 1;  // a step of 0: held

    const uint8_t* spikes_at(int64_t n, int64_t t, int64_t p) const { return spikes + n * image + t * step + p * pixel; }
    const float* values_at(int64_t n, int64_t t, int64_t p) const { return values + n * image + t * step + p * pixel; }
    bool held() const { return !step; }
};

// Channels that fired under a band, pixel by pixel, and the steps at which they did.
struct Fired {
    uint32_t* channel;
    uint32_t* pattern;
    uint32_t* start;   // [pixel]; a pixel's end is the next one's start
    uint32_t* spikes;  // [pixel], in all steps
};

// Of one thread.
struct Scratch {
    Fired fired;
    uint32_t* patterns;           // [64], zeros
    uint32_t *unsorted, *unsorted_pattern, *bucket;  // of one pixel: rows of weights, their patterns and buckets
    uint32_t* row;                // of weights, to be added: of all buckets of a batch
    uint32_t *start, *pattern;    // [bucket]: its rows end at the next one's start; its steps
    uint32_t* place;              // [bucket]: as far as it has come
    uint32_t* buckets;            // [window][pixel of the batch]: its buckets end at the next one's start
    float* value;                 // by which a row is multiplied
    float* sums;                  // [pixel of the batch][step][columns]
    int64_t* pixels;              // of the batch
    int64_t* copies;              // pixels that are like the one before them
    int64_t *additions, *spikes;  // [pixel of the band]
    uint8_t* alike;               // [window][row of the band's input][x]: like the pixel a stride to the left
    Block* window_sums;           // of the inputs of a pooling's window
    double* exact;                // [columns]
    int64_t key;                  // what the lists are of
    int64_t tally[2];
};

// How much of each a session has room for.
struct Room {
    int64_t fired = 0, places = 0, rows = 0, items = 0, pixels = 0, alike = 0, buckets = 0, window = 0;

    void include(const Room& o) {
        for (int64_t Room::* size : {&Room::fired, &Room::places, &Room::rows, &Room::items, &Room::pixels, &Room::alike,
                                     &Room::buckets, &Room::window})
            this->*size = most(this->*size, o.*size);
    }
};

struct State {
    float* v = nullptr;        // [N, states, P, C]; of a pooling the sums of its inputs
    uint8_t* alike = nullptr;  // [N, P]: the pixel has always been like the one to its left
};

struct Session {
    const Plan& plan;
    Team* team = nullptr;
    char *arena = nullptr, *state_arena = nullptr;
    int64_t arena_bytes = 0, state_bytes = 0;
    int64_t N = 0, steps = 0, threads = 0;  // that the arena is cut for
    int64_t state_N = 0;                    // that the states are cut for
    View* views;       // of the slots: 0 is the input
    char** slots;      // where operations write
    int64_t* slot_at;  // [2][operation]: where, seen from the first, and the last one that reads it
    State* states;     // of the operations
    Scratch* scratch = nullptr;
    int64_t serial = 0;  // of what was run last
    Grown<char> running;  // run.h

    explicit Session(const Plan& plan) : plan(plan) {
        views = new View[plan.count + 1];
        slots = new char*[plan.count]();
        slot_at = new int64_t[2 * plan.count];
        states = new State[plan.count];
    }
    ~Session() {
        delete team;
        free(arena), free(state_arena);
        delete[] views;
        delete[] slots;
        delete[] slot_at;
        delete[] states;
        delete[] scratch;
    }
    Session(const Session&) = delete;
};

// Values of a slot at one step of one image: bytes of spikes, or of floats.
static inline int64_t slot_bytes(const Step& step) {
    return step.P() * (step.real ? step.C * (int64_t)sizeof(float) : step.bytes());
}

}  // namespace PK_TARGET
