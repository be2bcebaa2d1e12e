// Which channels of the pixels of an input fired in a segment, and at which of its steps: their patterns, one bit a step.
//
// Rows of weights whose inputs have one pattern are added up once, and their sum goes to each step of the pattern. Neurons
// with a constant current fire in periods, and few ones fire once in some steps: there are fewer patterns than inputs. And a
// row whose pattern is its own is still read once for all steps.
#pragma once
#include "session.h"

namespace PK_TARGET {

// Writes the numbers of the bits that are set; returns how many. Up to `overhang` more are written past them.
static inline int64_t list_bits(const uint8_t* bytes, int64_t n, uint32_t* to) {
    constexpr int64_t piece = 512;  // bytes
    uint16_t found[8 * piece + overhang];
    int64_t all = 0;
    for (int64_t i = 0; i < n; i += piece) {
        const int64_t count = append_set_bits(bytes + i, least(piece, n - i), 1, -1, found);
        for (int64_t j = 0; j < count; j += 16)
            for (int k = 0; k < 16; k++) to[all + j + k] = found[j + k] + (uint32_t)(8 * i);
        all += count;
    }
    return all;
}

// Lists the channels of one pixel that fired; `patterns` [64]: zeros, and so left. Returns the spikes.
static inline int64_t list_fired(const View& x, int64_t image, int64_t pixel, int64_t C, int64_t steps, Fired& fired,
                                 int64_t& n, uint32_t* patterns) {
    const int64_t bytes = (C + 7) / 8, first = n;
    int64_t spikes = 0;
    if (steps == 1) {
        n += list_bits(x.spikes_at(image, 0, pixel), bytes, fired.channel + n);
        for (int64_t i = first; i < n; i++) fired.pattern[i] = 1;
        return n - first;
    }
    for (int64_t byte = 0; byte < bytes; byte += 8) {
        const int64_t here = least(8, bytes - byte);
        uint64_t any = 0;
        for (int64_t t = 0; t < steps; t++) {
            uint64_t word = load_bits(x.spikes_at(image, t, pixel) + byte, here);
            any |= word;
            spikes += __builtin_popcountll(word);
            for (; word; word &= word - 1) patterns[__builtin_ctzll(word)] |= 1u << t;
        }
        for (; any; any &= any - 1, n++) {
            const int c = __builtin_ctzll(any);
            fired.channel[n] = (uint32_t)(8 * byte + c);
            fired.pattern[n] = patterns[c];
            patterns[c] = 0;
        }
    }
    return spikes;
}

// Sorts rows by their patterns. Patterns are found again by a table; two that meet there have rows of their own.
class Buckets {
public:
    explicit Buckets(Scratch& s) : s(s) {}

    // Of the rows and patterns [n] of a pixel, which stand in s.unsorted and s.unsorted_pattern: sorted rows behind
    // `first_row` in s.row, buckets behind `first` in s.start and s.pattern. Returns the number of buckets.
    int64_t sort(int64_t n, int64_t steps, int64_t first_row, int64_t first) {
        if (!n) return 0;
        if (steps == 1) {
            memcpy(s.row + first_row, s.unsorted, n * sizeof *s.row);
            s.start[first] = (uint32_t)first_row, s.pattern[first] = 1;
            return 1;
        }
        memset(table, 0xff, sizeof table);
        int64_t count = 0;
        uint32_t *const size = s.start + first, *const pattern = s.pattern + first;
        for (int64_t i = 0; i < n; i++) {
            const uint32_t mine = s.unsorted_pattern[i];
            uint32_t& slot = table[(mine * 2654435769u) >> (32 - bits_of_table)];
            uint32_t id = slot;
            if (id == ~0u || pattern[id] != mine) {
                if (id == ~0u) slot = (uint32_t)count;
                id = (uint32_t)count++;
                pattern[id] = mine, size[id] = 0;
            }
            s.bucket[i] = id;
            size[id]++;
        }
        uint32_t at = (uint32_t)first_row;
        for (int64_t i = 0; i < count; i++) {
            const uint32_t here = size[i];
            size[i] = at, at += here;
        }
        if (count == 1) memcpy(s.row + first_row, s.unsorted, n * sizeof *s.row);
        else
            for (int64_t i = 0; i < n; i++) s.row[size[s.bucket[i]]++] = s.unsorted[i];
        if (count > 1) {  // each start has become its end
            for (int64_t i = count - 1; i; i--) size[i] = size[i - 1];
            size[0] = (uint32_t)first_row;
        }
        return count;
    }

private:
    static constexpr int bits_of_table = 8;
    Scratch& s;
    uint32_t table[1 << bits_of_table];
};

}  // namespace PK_TARGET
