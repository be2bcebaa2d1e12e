// Lists of first spikes, for inputs that fire periodically from rest: at the steps t where their period divides t + 1, so that
// the step of the first spike gives the period.
#pragma once
#include "../conv2d/bucket_lists.h"
#include "../conv2d/input_lists.h"

namespace PK_TARGET {

struct FirstSpikes : BucketLists {
    static constexpr int64_t uses = 1024, band_lists = 1 << 18;  // Segment (work.h)
    DivisorSums divisors;

    static int64_t most_sums(int64_t steps) { return steps; }
    // Takes memory for the lists of `pixels` pixels; returns how many entries they may have.
    int64_t borrow(Carver& carver, const Slices& slices, int64_t pixels, int64_t steps, int64_t) {
        const int64_t lists = pixels * slices.chunks;
        input.borrow(carver, lists * slices.chunk + overrun);
        input_count.borrow(carver, lists * steps);
        input_length.borrow(carver, lists);
        length.borrow(carver, steps), next.borrow(carver, steps);
        divisors.additions.borrow(carver, DivisorSums::most_additions(steps));
        return lists * slices.chunk;
    }

    void list_inputs(const Conv2d& c, const Slices& slices, const Region& in, const SpikeFrames& x, int64_t) {
        const int64_t pixels = in.rows * c.W, bytes = (c.C_in + 7) / 8;
        divisors.prepare(in.steps);
        reserve(in.steps, in.images * pixels * slices.chunks, slices);
        chunks = slices.chunks;
        int64_t list = 0;
        for (int64_t image = 0; image < in.images; image++)
            for (int64_t pixel = 0; pixel < pixels; pixel++, list += chunks) {
                const uint8_t* const at = x.at(in.image + image, 0, in.row * c.W + pixel);
                if (pixel && fires_like_the_last(at, bytes, x, in.steps)) {
                    copy_lists(list, chunks);
                    continue;
                }
                for (int64_t i = 0; i < chunks; i++) {
                    const int64_t byte = i * chunk / 8, left = bytes - byte;
                    list_chunk(list + i, at + byte, x.step, i + 1 < chunks ? chunk / 8 : left);
                }
            }
    }

    // Two pixels of the input fire alike if their lists are equal (../conv2d/equal_windows.h).
    uint64_t hash_of(int64_t pixel) const {
        uint64_t hash = 0;
        for (int64_t i = pixel * chunks; i < (pixel + 1) * chunks; i++)
            hash = mix(hash, hash_piece((const uint8_t*)(input.data + i * chunk), bytes_of(i), 0));
        return hash;
    }
    bool are_alike(int64_t a, int64_t b) const {
        for (int64_t i = a * chunks, k = b * chunks; i < (a + 1) * chunks; i++, k++)
            if (input_length.data[i] != input_length.data[k] ||
                memcmp(input.data + i * chunk, input.data + k * chunk, bytes_of(i)))
                return false;
        return true;
    }

    template <class Rows>
    void finish(typename Rows::Number* all) const {
        divisors.add_up<Rows>(all);
    }

private:
    int64_t chunks = 0;  // per pixel

    int64_t bytes_of(int64_t list) const { return input_length.data[list] * (int64_t)sizeof(Bucketed); }

    // Lists the first spikes of one chunk of a pixel's channels.
    OUT_OF_LINE void list_chunk(int64_t list, const uint8_t* x, int64_t frame, int64_t bytes) {
        Bucketed* const first = input.data + list * chunk;
        Bucketed* to = first;
        uint16_t* const counts = input_count.data + list * sums;
        memset(counts, 0, sums * sizeof *counts);
        for (int64_t i = 0; i < bytes; i += 8) {
            uint64_t silent = ~0ull;  // channels that have not fired yet
            for (int64_t t = 0; t < sums && silent; t++) {
                uint64_t fires = load_bits(x + t * frame + i, bytes - i) & silent;
                silent &= ~fires;
                counts[t] += (uint16_t)__builtin_popcountll(fires);
                for (; fires; fires &= fires - 1)
                    *to++ = {(uint16_t)((8 * i + __builtin_ctzll(fires) + 1) * entry_scale), (uint16_t)t};
            }
        }
        input_length.data[list] = (uint16_t)(to - first);
    }
};

// The same for few steps, where many inputs have their first spike at each step: the lists of a step are joined a vector at a
// time.
struct FewFirstSpikes : InputLists {
    static constexpr int64_t most_steps = 24, span = 0;
    DivisorSums divisors;

    static int64_t most_sums(int64_t steps) { return steps; }

    int64_t borrow(Carver& carver, const Slices& slices, int64_t pixels, int64_t steps, int64_t spikes) {
        divisors.additions.borrow(carver, DivisorSums::most_additions(steps));
        return InputLists::borrow(carver, slices, pixels, steps, spikes);
    }

    void list_inputs(const Conv2d& c, const Slices& slices, const Region& in, const SpikeFrames& x, int64_t spikes) {
        divisors.prepare(in.steps);
        list_pixels(c, slices, in, x, spikes, in.steps, [&](const uint8_t* at, int64_t bytes, uint32_t* start, int64_t n) {
            uint64_t fired[most_slice_rows / 64] = {}, first[most_slice_rows / 64];
            for (int64_t t = 0; t < in.steps; t++, at += x.step) {
                for (int64_t i = 0; i < bytes; i += 8) {
                    first[i / 8] = load_bits(at + i, bytes - i) & ~fired[i / 8];
                    fired[i / 8] |= first[i / 8];
                }
                *start++ = (uint32_t)n;
                n += append_set_bits((const uint8_t*)first, bytes, entry_scale, 0, input.data + n);
            }
            return n;
        });
    }

    template <class Rows>
    void finish(typename Rows::Number* all) const {
        divisors.add_up<Rows>(all);
    }
};

}  // namespace PK_TARGET
