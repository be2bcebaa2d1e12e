// Events of a camera, in any order, to packed spikes: one pass, without a sorted copy or a dense frame.
#pragma once
#include "work.h"

namespace PK_TARGET {

// A value in fewer bits: one that does not fit lies outside of all that is asked for, and so does the nearest that fits.
template <class To, class Number>
static inline To converted(Number value) {
    if constexpr (sizeof(Number) > sizeof(To) || (sizeof(Number) == sizeof(To) && Number(-1) > 0)) {
        constexpr int64_t most_value = (int64_t)(~uint64_t(0) >> (65 - 8 * sizeof(To)));
        const int64_t wide = (int64_t)value;
        return (To)(wide > most_value ? most_value : wide < -most_value ? -most_value : wide);
    } else return (To)value;
}

// n values from the i-th on.
template <class Number, class To>
static void convert(const Column& c, int64_t i, int64_t n, To* to) {
    const uint8_t* from = c.values + i * c.stride;
    if (c.stride == sizeof(Number)) {  // a loop of whole vectors
        for (int64_t k = 0; k < n; k++) {
            Number value;
            memcpy(&value, from + k * sizeof value, sizeof value);
            to[k] = converted<To>(value);
        }
        return;
    }
    for (int64_t k = 0; k < n; k++, from += c.stride) {
        Number value;
        memcpy(&value, from, sizeof value);
        to[k] = converted<To>(value);
    }
}

template <class To>
static void read_column(const Column& c, int64_t i, int64_t n, To* to) {
    switch (c.is_signed ? -c.size : c.size) {
        case 1: return convert<uint8_t>(c, i, n, to);
        case 2: return convert<uint16_t>(c, i, n, to);
        case 4: return convert<uint32_t>(c, i, n, to);
        case -1: return convert<int8_t>(c, i, n, to);
        case -2: return convert<int16_t>(c, i, n, to);
        case -4: return convert<int32_t>(c, i, n, to);
        default: return convert<int64_t>(c, i, n, to);
    }
}

constexpr int64_t events_at_a_time = 512;

void first_and_last(const Column* c, int64_t n, int64_t* found) {
    int64_t first = INT64_MAX, last = INT64_MIN, t[events_at_a_time];
    for (int64_t i = 0; i < n; i += events_at_a_time) {
        const int64_t some = least(events_at_a_time, n - i);
        read_column(*c, i, some, t);
        for (int64_t k = 0; k < some; k++) first = t[k] < first ? t[k] : first, last = t[k] > last ? t[k] : last;
    }
    found[0] = first, found[1] = last;
}

// The step of events that come one after another: a division where the step changes, and none else.
class StepOf {
public:
    explicit StepOf(const Events& e) : e(e) {}
    // -1: before step 0.
    inline int64_t operator()(int64_t t) {
        const int64_t since = t - e.first;
        if (since < begin || since >= end) find(since);
        return step;
    }

private:
    OUT_OF_LINE void find(int64_t since) {
        const __int128 n = e.numerator, d = e.denominator;
        step = since < 0 ? -1 : (int64_t)((__int128)since * n / d);
        begin = since < 0 ? INT64_MIN : up((__int128)step * d);
        end = up(((__int128)step + 1) * d);
    }
    // The least time since the first that many numerators of a denominator have passed.
    int64_t up(__int128 product) const {
        const __int128 time = (product + e.numerator - 1) / e.numerator;
        return time > INT64_MAX ? INT64_MAX : (int64_t)time;
    }

    const Events& e;
    int64_t step = -1, begin = 1, end = 0;  // of times since the first
};

int64_t pack_events(const Events* events) {
    const Events& e = *events;
    StepOf step_of(e);
    int64_t t[events_at_a_time];
    int32_t x[events_at_a_time], y[events_at_a_time], p[events_at_a_time];
    for (int64_t i = 0; i < e.n; i += events_at_a_time) {
        const int64_t some = least(events_at_a_time, e.n - i);
        read_column(e.t, i, some, t), read_column(e.x, i, some, x);
        read_column(e.y, i, some, y), read_column(e.p, i, some, p);
        int outside = 0;
        for (int64_t k = 0; k < some; k++)
            outside |= (x[k] < 0) | (x[k] >= e.W) | (y[k] < 0) | (y[k] >= e.H) | (p[k] < -1) | (p[k] > 1);
        if (outside) return 0;
        for (int64_t k = 0; k < some; k++) {
            const int64_t step = step_of(t[k]);
            if (step < 0 || step >= e.T) return 0;
            e.spikes[(step * e.H + y[k]) * e.W + x[k]] |= p[k] > 0 ? 2 : 1;
        }
    }
    return 1;
}

}  // namespace PK_TARGET
