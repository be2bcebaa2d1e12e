// Packs the events of a camera, which may be in any order, into spikes: in one pass, without a sorted copy or a dense frame. If
// events are in the order of their steps, threads share the work, and each writes its own steps.
#pragma once
#include <type_traits>

#include "work.h"

namespace PK_TARGET {

// Calls take(k, value) for n values of a column, from the i-th on; k counts from 0.
template <class Number, class Take>
static inline void each_value(const Column& c, int64_t i, int64_t n, Take take) {
    const uint8_t* from = c.values + i * c.stride;
    if (c.stride == sizeof(Number)) {  // without gaps, so that the compiler can vectorise the loop
        for (int64_t k = 0; k < n; k++) {
            Number value;
            memcpy(&value, from + k * sizeof value, sizeof value);
            take(k, value);
        }
        return;
    }
    for (int64_t k = 0; k < n; k++, from += c.stride) {
        Number value;
        memcpy(&value, from, sizeof value);
        take(k, value);
    }
}

// Calls work(number) with a number of the column's type.
template <class Work>
static inline auto with_type(const Column& c, Work work) {
    switch (c.is_signed ? -c.size : c.size) {
        case 1: return work(uint8_t());
        case 2: return work(uint16_t());
        case 4: return work(uint32_t());
        case -1: return work(int8_t());
        case -2: return work(int16_t());
        case -4: return work(int32_t());
        default: return work(int64_t());
    }
}

// An unsigned type in which negative numbers are larger than any side of a sensor.
template <class Number>
using Unsigned = std::conditional_t<sizeof(Number) == 8, uint64_t, uint32_t>;

// Reads coordinates; returns whether all are within 0 .. end - 1.
static bool read_places(const Column& c, int64_t i, int64_t n, int64_t end, int32_t* to) {
    return with_type(c, [=](auto number) {
        using Number = decltype(number);
        Unsigned<Number> largest = 0;
        each_value<Number>(c, i, n, [&](int64_t k, Number value) {
            const auto place = (Unsigned<Number>)value;
            largest = place > largest ? place : largest;
            to[k] = (int32_t)place;
        });
        return (uint64_t)largest < (uint64_t)end;
    });
}

// Reads polarities as bits (1: OFF, 2: ON); returns whether all are within 0 .. 1, or within -1 .. 1 for a signed type.
static bool read_bits(const Column& c, int64_t i, int64_t n, uint8_t* to) {
    return with_type(c, [=](auto number) {
        using Number = decltype(number);
        constexpr auto zero = (Unsigned<Number>)std::is_signed_v<Number>;
        Unsigned<Number> largest = 0;
        each_value<Number>(c, i, n, [&](int64_t k, Number value) {
            const auto place = (Unsigned<Number>)value + zero;
            largest = place > largest ? place : largest;
            to[k] = place > zero ? 2 : 1;
        });
        return largest <= zero + 1;
    });
}

struct Times {
    int64_t first, last;
};

// Reads times relative to `begin`; returns the first and the last.
static Times read_times(const Column& c, int64_t i, int64_t n, int64_t begin, int64_t* to) {
    return with_type(c, [=](auto number) {
        using Number = decltype(number);
        int64_t first = INT64_MAX, last = INT64_MIN;
        each_value<Number>(c, i, n, [&](int64_t k, Number value) {
            const int64_t since = (int64_t)((uint64_t)(int64_t)value - (uint64_t)begin);
            first = since < first ? since : first, last = since > last ? since : last;
            to[k] = since;
        });
        return Times{first, last};
    });
}

constexpr int64_t events_at_a_time = 1024;
constexpr int64_t shared_events = PK_IS_CHECKED ? 1 << 8 : 1 << 15;  // from this number on, threads share the events

void first_and_last(const Column* c, int64_t n, int64_t* found) {
    int64_t first = INT64_MAX, last = INT64_MIN;
#pragma omp parallel for schedule(static) reduction(min : first) reduction(max : last) if (n >= shared_events)
    for (int64_t i = 0; i < n; i += events_at_a_time) {
        int64_t since[events_at_a_time];
        const Times some = read_times(*c, i, least(events_at_a_time, n - i), 0, since);
        first = least(first, some.first), last = most(last, some.last);
    }
    found[0] = first, found[1] = last;
}

// The step of a time relative to the first one: floor(since * numerator / denominator).
class StepOf {
public:
    explicit StepOf(const Events& e)
        : numerator(e.numerator), denominator(e.denominator), ratio((double)e.numerator / (double)e.denominator) {
        const __int128 all = (__int128)e.T * e.denominator, last = numerator ? (all + numerator - 1) / numerator : 0;
        is_small = all + denominator <= INT64_MAX;
        end = last < INT64_MAX ? (int64_t)last : INT64_MAX;
    }
    // Calls take(k, step) for each of n times, which must be within 0 .. end - 1.
    template <class Take>
    inline void each(const int64_t* since, int64_t n, Take take) const {
        if (is_small)
            for (int64_t k = 0; k < n; k++) {  // the floating-point step is off by at most 1, as there are under 2^31 steps
                const int64_t step = (int64_t)((double)since[k] * ratio), rest = since[k] * numerator - step * denominator;
                take(k, step + (rest >= denominator) - (rest < 0));
            }
        else
            for (int64_t k = 0; k < n; k++) take(k, (int64_t)((__int128)since[k] * numerator / denominator));
    }
    int64_t operator()(int64_t since) const {
        int64_t found = 0;
        each(&since, 1, [&](int64_t, int64_t step) { found = step; });
        return found;
    }

    int64_t end = 0;  // the first time behind the last step

private:
    const int64_t numerator, denominator;
    const double ratio;
    bool is_small = false;
};

// A range of events, and a range of steps that only they may write.
struct EventRange {
    int64_t first, last, first_step, last_step;
};
enum class EventsAre { Packed, Outside, OfOtherSteps };

class EventPacker {
public:
    explicit EventPacker(const Events& e) : e(e), step_of(e), frame(e.H * e.W) {}

    // Cuts the events into one range per thread, assuming that they are in order; into fewer if there are few steps.
    // Returns the number of ranges.
    int64_t cut(int64_t threads, EventRange* range) const {
        int64_t count = 1;
        range[0] = {0, e.n, 0, e.T};
        if (e.n < shared_events || !e.numerator) return count;
        for (int64_t k = 1; k < threads; k++) {
            EventRange& before = range[count - 1];
            int64_t low = before.first, high = e.n * k / threads;
            const int64_t since = since_of(high);
            if (since < 0 || since >= step_of.end) return count;
            const int64_t step = step_of(since);
            if (step <= before.first_step) continue;
            while (low < high) {  // the first event of the step
                const int64_t middle = (low + high) / 2, at = since_of(middle);
                if (at < 0 || (at < step_of.end && step_of(at) < step)) low = middle + 1;
                else high = middle;
            }
            before.last = low, before.last_step = step;
            range[count++] = {low, e.n, step, e.T};
        }
        return count;
    }

    EventsAre pack(const EventRange& range) const {
        int64_t cleared = range.first_step;
        const auto clear = [&](int64_t end) {  // just before the steps are written, so that they are in the cache
            if (end > cleared) memset(e.spikes + cleared * frame, 0, (size_t)((end - cleared) * frame));
            cleared = most(cleared, end);
        };
        int64_t since[events_at_a_time], place[events_at_a_time];
        int32_t x[events_at_a_time], y[events_at_a_time];
        uint8_t bit[events_at_a_time];
        for (int64_t i = range.first; i < range.last; i += events_at_a_time) {
            const int64_t n = least(events_at_a_time, range.last - i);
            if (!read_places(e.x, i, n, e.W, x) || !read_places(e.y, i, n, e.H, y) || !read_bits(e.p, i, n, bit))
                return EventsAre::Outside;
            int64_t first = 0, last = 0;  // steps
            if (e.numerator) {
                const Times times = read_times(e.t, i, n, e.first, since);
                if (times.first < 0 || times.last >= step_of.end) return EventsAre::Outside;
                first = step_of(times.first), last = step_of(times.last);
            }
            if (first < range.first_step || last >= range.last_step) return EventsAre::OfOtherSteps;
            clear(last + 1);
            for (int64_t k = 0; k < n; k++) place[k] = y[k] * e.W + x[k];
            if (first < last) step_of.each(since, n, [&](int64_t k, int64_t step) { place[k] += (step - first) * frame; });
            uint8_t* const spikes = e.spikes + first * frame;
            for (int64_t k = 0; k < n; k++) spikes[place[k]] |= bit[k];
        }
        clear(range.last_step);
        return EventsAre::Packed;
    }

private:
    int64_t since_of(int64_t i) const {
        int64_t since;
        read_times(e.t, i, 1, e.first, &since);
        return since;
    }

    const Events& e;
    const StepOf step_of;
    const int64_t frame;
};

int64_t pack_events(const Events* events) {
    constexpr int64_t most_ranges = 64;
    const EventPacker packer(*events);
    EventRange range[most_ranges];
    EventsAre found[most_ranges];
    const int64_t count = packer.cut(least(max_threads(), most_ranges), range);
#pragma omp parallel for schedule(static, 1) num_threads((int)count) if (count > 1)
    for (int64_t k = 0; k < count; k++) found[k] = packer.pack(range[k]);
    bool in_order = true;
    for (int64_t k = 0; k < count; k++) {
        if (found[k] == EventsAre::Outside) return 0;
        in_order &= found[k] == EventsAre::Packed;
    }
    return in_order || packer.pack({0, events->n, 0, events->T}) == EventsAre::Packed;
}

}  // namespace PK_TARGET
