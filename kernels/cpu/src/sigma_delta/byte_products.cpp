// Convolution of codes of 8 bits, of which many are not 0, at one step: a matrix product of the codes in the windows of some
// output pixels and the weights, whose rows are interleaved by four first. Sums are whole numbers, so they are those of
// byte_rows.cpp.
#include "byte_vectors.h"
#include "codes.h"
#include "senders.h"
#if defined(__AMX_INT8__)
#include "../conv2d/amx_tiles.h"
#endif

namespace PK_TARGET {

constexpr double never = 2;

#if defined(__AVX2__)

// Writes the codes of as many values as a Vec has.
static inline void write_codes(Vec values, Vec per_unit, int8_t* to) {
#if defined(__AVX512F__)
    _mm_storeu_si128((__m128i*)to, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(values.x, per_unit.x))));
#else
    const __m256i code = _mm256_cvtps_epi32(_mm256_mul_ps(values.x, per_unit.x));
    const __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128(code), _mm256_extracti128_si256(code, 1));
    _mm_storel_epi64((__m128i*)to, _mm_packs_epi16(halves, halves));
#endif
}

void write_all_codes(const SigmaDeltaCall& call, int64_t first, int64_t last) {
    const float* const x = (const float*)call.s.x;
    int8_t* const codes = call.codes.code;
    const Vec per_unit = broadcast(1 / call.bytes.code);
    int64_t i = first * call.s.C_in;
    const int64_t end = last * call.s.C_in;
    for (; i + Vec::width <= end; i += Vec::width) write_codes(load(x + i), per_unit, codes + i);
    if (i == end) return;
    int8_t some[Vec::width];  // what follows in the list is written by another thread
    write_codes(load_first(x + i, (int)(end - i)), per_unit, some);
    memcpy(codes + i, some, end - i);
}

static inline void copy_codes(const int8_t* from, int8_t* to, int64_t count) {
    int64_t i = 0;
    for (; i + 64 <= count; i += 64) memcpy(to + i, from + i, 64);
    for (; i + 16 <= count; i += 16) memcpy(to + i, from + i, 16);
    if (i < count) memcpy(to + i, from + i, count - i);
}

// Puts the codes of the window of an output pixel side by side (im2col).
static void copy_window(const SigmaDeltaCall& call, int64_t image, int64_t row_out, int64_t column, int64_t group, int8_t* to,
                        int64_t stride) {
    const SigmaDelta& s = call.s;
    const int64_t inputs = s.C_in / s.groups, row = s.kernel_w * inputs;
    const int64_t top = row_out * s.stride_h - s.padding_h, left = column * s.stride_w - s.padding_w;
    const int8_t* const from = call.codes.code + image * s.H * s.W * s.C_in + group * inputs;
    const bool side_by_side = s.groups == 1 && s.dilation_w == 1;  // the columns of a window
    for (int64_t ky = 0; ky < s.kernel_h; ky++, to += row) {
        const int64_t y = top + ky * s.dilation_h;
        const bool inside = y >= 0 && y < s.H;
        if (inside && side_by_side && left >= 0 && left + s.kernel_w <= s.W) {
            copy_codes(from + (y * s.W + left) * inputs, to, row);
            continue;
        }
        memset(to, 0, row);
        for (int64_t kx = 0, x = left; kx < s.kernel_w && inside; kx++, x += s.dilation_w)
            if (x >= 0 && x < s.W) copy_codes(from + (y * s.W + x) * s.C_in, to + kx * inputs, inputs);
    }
    memset(to, 0, stride - s.kernel_h * row);
}

// The sum of the codes of a window, and the number of those that are not 0.
static void sum_window(const int8_t* codes, int64_t stride, int32_t& sum, int32_t& count) {
    const Ints ones = broadcast_whole(0x01010101);
    Ints sums = broadcast_whole(0);
    int64_t found = 0;
    for (int64_t i = 0; i < stride; i += 64) {
        for (int64_t k = 0; k < 64; k += sizeof(Ints)) {
            Ints some;
            memcpy(&some, codes + i + k, sizeof some);
            sums = add_products<false>(sums, ones, some);
        }
        found += __builtin_popcountll(not_zero(codes + i, 64));
    }
    sum = sum_of_lanes(sums), count = (int32_t)found;
}

// Interleaves the weights of rows first .. first + 4 * quads - 1 of a window. `rows`: of the window; further codes are 0.
static void interleave_rows(const uint8_t* weight, int64_t first, int64_t quads, int64_t rows, int64_t vecs, uint8_t* to) {
    for (int64_t quad = 0; quad < quads; quad++) {
        const uint8_t* row[4];
        for (int k = 0; k < 4; k++) row[k] = weight + least(first + 4 * quad + k, rows - 1) * byte_row;
        for (int64_t vec = 0; vec < vecs; vec += 4) {
            Ints four[4];
            interleave_four(row, vec / 4 * byte_chunk, four);
            for (int64_t k = 0; k < least(4, vecs - vec); k++)
                memcpy(to + ((vec + k) * quads + quad) * (int64_t)sizeof(Ints), four + k, sizeof(Ints));
        }
    }
}

// A product of interleaved weights and the codes of some places: for each vector of channels, adds to its sums, or begins them.
struct ByteProduct {
    const int8_t* codes;
    int64_t stride, quads;
    const uint8_t* weights;
    int32_t* sums;
    bool begins;
};

#if defined(__AMX_INT8__)

// Multiplies `blocks` times 16 places and `vecs` vectors of channels, whose sums are in tiles.
template <int blocks, int vecs>
static void multiply_tiles(const ByteProduct& p) {
    const auto sum_at = [&](int block, int vec) {
        return p.sums + (vec * byte_places + block * tile_rows) * (int64_t)tile_channels;
    };
    each<vecs>([&](auto vec) {
        each<blocks>([&](auto block) {
            if (p.begins) clear_sum<vec * blocks + block>();
            else load_sum<vec * blocks + block>(sum_at(block, vec));
        });
    });
    for (int64_t quad = 0; quad < p.quads; quad += tile_rows)
        each<vecs>([&](auto vec) {
            load_weights<false>((const int8_t*)p.weights + (vec * p.quads + quad) * tile_width);
            each<blocks>([&](auto block) {
                load_spikes(p.codes + block * tile_rows * p.stride + 4 * quad, p.stride);
                add_product<vec * blocks + block>();
            });
        });
    each<vecs>([&](auto vec) { each<blocks>([&](auto block) { store_sum<vec * blocks + block>(sum_at(block, vec)); }); });
}

static void multiply_by_tiles(ByteProduct p, int64_t places, int64_t vecs) {
    constexpr int most_vecs = 2;
    each<byte_places / tile_rows>([&](auto i) {
        constexpr int blocks = decltype(i)::value + 1;
        if (blocks != ceil_div(places, tile_rows)) return;
        for (int64_t vec = 0; vec < vecs; vec += most_vecs) {
            (vecs - vec > 1 ? multiply_tiles<blocks, most_vecs> : multiply_tiles<blocks, 1>)(p);
            p.weights += most_vecs * p.quads * tile_width, p.sums += most_vecs * byte_places * tile_channels;
        }
    });
}

#endif

constexpr int vecs_of_tile = Vec::width == 16 ? 4 : 2;
constexpr int places_of_tile(int vecs) { return Vec::width == 8 ? 8 / vecs : vecs == 4 ? 6 : vecs == 3 ? 8 : 12; }

// Multiplies a few places and vectors of channels, whose sums are in registers.
template <int places, int vecs, bool by_dot_products>
static inline void multiply_tile(const ByteProduct& p) {
    Ints sum[places][vecs];
    const auto sum_at = [&](int place, int vec) { return p.sums + (vec * byte_places + place) * Vec::width; };
    each<places>([&](auto place) {
        each<vecs>([&](auto vec) { sum[place][vec] = p.begins ? broadcast_whole(0) : load(sum_at(place, vec)); });
    });
    constexpr int some = 4;  // places that an address reaches from another
    const int8_t* codes[ceil_div(places, some)];
    each<ceil_div(places, some)>([&](auto i) { codes[i] = p.codes + i * some * p.stride; });
    const uint8_t* weights_at = p.weights;
    const int64_t stride = p.stride, next_vec = p.quads * (int64_t)sizeof(Ints);
    for (const uint8_t* const end = weights_at + next_vec; weights_at < end; weights_at += sizeof(Ints)) {
        Ints weights[vecs];
        each<vecs>([&](auto vec) { memcpy(&weights[vec], weights_at + vec * next_vec, sizeof(Ints)); });
        each<places>([&](auto place) {
            int32_t four;
            memcpy(&four, codes[place / some] + place % some * stride, sizeof four);
            const Ints all = broadcast_whole(four);
            each<vecs>([&](auto vec) { sum[place][vec] = add_products<by_dot_products>(sum[place][vec], weights[vec], all); });
        });
        each<ceil_div(places, some)>([&](auto i) { codes[i] += 4; });
    }
    each<places>([&](auto place) { each<vecs>([&](auto vec) { store(sum_at(place, vec), sum[place][vec]); }); });
}

template <int vecs, bool by_dot_products>
static OUT_OF_LINE void multiply_places(ByteProduct p, int64_t places) {
    constexpr int some = places_of_tile(vecs);
    static_assert(byte_places % some == 0);  // the last tile may compute more than is asked for
    for (int64_t place = 0; place < places; place += some) {
        multiply_tile<some, vecs, by_dot_products>(p);
        p.codes += some * p.stride, p.sums += some * Vec::width;
    }
}

static void multiply_codes(ByteProduct p, int64_t places, int64_t vecs) {
    for (int64_t vec = 0; vec < vecs; vec += vecs_of_tile) {
        each<vecs_of_tile>([&](auto i) {
            constexpr int some = decltype(i)::value + 1;
            if (some != least(vecs - vec, vecs_of_tile)) return;
            (has_dot_products ? multiply_places<some, true> : multiply_places<some, false>)(p, places);
        });
        p.weights += vecs_of_tile * p.quads * (int64_t)sizeof(Ints), p.sums += vecs_of_tile * byte_places * Vec::width;
    }
}

// How the places of a call are cut into tasks, each for all passes of a group; or for one pass, where that makes few tasks.
struct ByteProductTasks {
    static constexpr int64_t few = 8;
    Passes all;
    int64_t parts, places, together, of_group;  // parts of the places, and places of each; passes of a task; tasks of a part
    explicit ByteProductTasks(const SigmaDeltaCall& call)
        : all(call.s, message_pass), parts(ceil_div(call.count, byte_places)) {
        places = ceil_div(call.count, parts);
        together = parts < few ? 1 : all.of_group;
        of_group = all.of_group / together;
    }
};

int64_t byte_product_tasks(const SigmaDeltaCall& call) {
    const ByteProductTasks tasks(call);
    return tasks.parts * tasks.of_group * call.s.groups;
}

// Runs the neurons of a task's places, with the sums of their products.
template <int channels>
static OUT_OF_LINE void fire_task(const SigmaDeltaCall& call, int64_t first, int64_t places, int64_t channel,
                                  const ByteProductScratch& scratch, Counted& counted) {
    const SigmaDelta& s = call.s;
    const int64_t present = least(channels_left(s, channel), channels);
    const Lanes<channels> unit = load_block<channels>(call.bytes.unit + channel);
    fire_places<channels>(call, first, first + places, channel, counted, [&](int64_t i, int64_t place, int64_t) {
        const int64_t at = i - first;
        const Ints zeros = broadcast_whole(byte_zero * scratch.code_sums[at]);
        Lanes<channels> sums = besides<channels>(s, 0, place, channel, (int)present);
        each<channels / Vec::width>([&](auto v) {
            const Ints sum = load(scratch.sums + (v * byte_places + at) * Vec::width) - zeros;
            sums.v[v] = sums.v[v] + to_floats(sum) * unit.v[v];
        });
        counted.additions += scratch.counts[at] * present;
        return sums;
    });
}

// Runs a task whose products `multiply` computes, of a multiple of `rows` rows.
static void run_task(const SigmaDeltaCall& call, int64_t task, ByteProductScratch& scratch, Counted& counted,
                     void multiply(ByteProduct, int64_t places, int64_t vecs), int64_t rows) {
    const SigmaDelta& s = call.s;
    const ByteProductTasks tasks(call);
    const int64_t depth = s.kernel_h * s.kernel_w * (s.C_in / s.groups), part = task % tasks.parts, rest = task / tasks.parts;
    const int64_t group = rest / tasks.of_group, pass = rest % tasks.of_group * tasks.together;
    const int64_t first = part * tasks.places, places = least(tasks.places, call.count - first);
    int64_t image = 0, row = 0, column = -1, before = -2;
    for (int64_t at = 0; at < places; at++) {
        const int64_t place = call.place(first + at);
        if (place == before + 1 && column + 1 < s.W_out) column++;
        else image = place / s.P, row = place % s.P / s.W_out, column = place % s.P % s.W_out;
        before = place;
        int8_t* const codes = scratch.codes + at * scratch.stride;
        copy_window(call, image, row, column, group, codes, scratch.stride);
        sum_window(codes, scratch.stride, scratch.code_sums[at], scratch.counts[at]);
    }
    for (int64_t k = pass; k < pass + tasks.together; k++) {
        const int64_t channel = group * (s.C / s.groups) + k * message_pass;
        const uint8_t* const weight = call.bytes.weight + (group * tasks.all.of_group + k) * depth * byte_row;
        with_channels<message_pass>(s, channel, [&](auto channels) {
            for (int64_t row = 0; row < depth; row += byte_depth) {
                const int64_t quads = ceil_div(least(byte_depth, depth - row), rows) * rows / 4;
                interleave_rows(weight, row, quads, depth, channels / Vec::width, scratch.weights);
                multiply({scratch.codes + row, scratch.stride, quads, scratch.weights, scratch.sums, row == 0}, places,
                         channels / Vec::width);
            }
            fire_task<channels>(call, first, places, channel, scratch, counted);
        });
    }
}

void byte_products_task(const SigmaDeltaCall& call, int64_t task, ByteProductScratch& scratch, Counted& counted) {
#if defined(__AMX_INT8__)
    if (call.has_tiles) {
        const TileSession tiles;
        return run_task(call, task, scratch, counted, multiply_by_tiles, tile_width);
    }
#endif
    run_task(call, task, scratch, counted, multiply_codes, 4);
}

double byte_product_rate(const SigmaDeltaCall& call) {
    // By how many times 16 channels a pass has, at most four. Measured; those of tiles, and of AVX-512 without dot products,
    // which has the rates of AVX2, are estimates from the number of instructions.
    constexpr double of_tiles[] = {0.02, 0.04, 0.08, 0.12}, of_dot_products[] = {0.03, 0.08, 0.25, 0.42},
                     of_others[] = {0.3, 0.5, 0.55, 0.62};
    constexpr int64_t fewest_places = 16;
    const SigmaDelta& s = call.s;
    if (s.T != 1 || s.T_in != 1 || call.count < fewest_places) return never;
    const double* const rates = call.has_tiles ? of_tiles : has_dot_products ? of_dot_products : of_others;
    return rates[ceil_div(least(s.C / s.groups, message_pass), 16) - 1];
}

#else

void write_all_codes(const SigmaDeltaCall&, int64_t, int64_t) {}
int64_t byte_product_tasks(const SigmaDeltaCall&) { return 0; }
void byte_products_task(const SigmaDeltaCall&, int64_t, ByteProductScratch&, Counted&) {}
double byte_product_rate(const SigmaDeltaCall&) { return never; }

#endif

}  // namespace PK_TARGET
