// Convolution of codes of 8 bits, of which most are 0, as graded neurons send them: those of a window are put side by side, and
// four rows of weights at a time are added, times their codes.
#include "byte_vectors.h"
#include "senders.h"

namespace PK_TARGET {

#if defined(__AVX2__) && !defined(__AVX512F__)
// For each set of lanes, the numbers of those that are in it.
struct LaneTable {
    alignas(64) uint8_t of[256][8];
    constexpr LaneTable() : of() {
        for (int set = 0; set < 256; set++)
            for (int lane = 0, n = 0; lane < 8; lane++)
                if (set >> lane & 1) of[set][n++] = (uint8_t)lane;
    }
};
static constexpr LaneTable lanes_of;
#endif

// Appends the codes of the next values that are not 0 to a list of `count`; returns the new count. `first`: the input of the
// first of the values. Writes as many entries as a Vec has lanes.
static inline int64_t append_codes(Vec values, Vec per_unit, int64_t first, uint16_t* rows, int8_t* codes, int64_t count,
                                   Ints& sum) {
#if defined(__AVX512F__)
    const __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(values.x, per_unit.x));
    const __mmask16 found = _mm512_test_epi32_mask(code, code);
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i row = _mm512_maskz_compress_epi32(found, _mm512_add_epi32(_mm512_set1_epi32((int)first), lane));
    _mm256_storeu_si256((__m256i*)(rows + count), _mm512_cvtepi32_epi16(row));
    _mm_storeu_si128((__m128i*)(codes + count), _mm512_cvtepi32_epi8(_mm512_maskz_compress_epi32(found, code)));
    sum.x += (Ints::Whole)code;
    return count + __builtin_popcount(found);
#elif defined(__AVX2__)
    const __m256i code = _mm256_cvtps_epi32(_mm256_mul_ps(values.x, per_unit.x));
    const __m256i none = _mm256_cmpeq_epi32(code, _mm256_setzero_si256());
    const uint32_t found = (uint32_t)~_mm256_movemask_ps(_mm256_castsi256_ps(none)) & 255;
    const __m128i lanes = _mm_loadl_epi64((const __m128i*)lanes_of.of[found]);
    _mm_storeu_si128((__m128i*)(rows + count), _mm_add_epi16(_mm_set1_epi16((short)first), _mm_cvtepu8_epi16(lanes)));
    const __m256i low_bytes = _mm256_set1_epi32(0x0c080400);
    const __m256i narrow = _mm256_shuffle_epi8(_mm256_permutevar8x32_epi32(code, _mm256_cvtepu8_epi32(lanes)), low_bytes);
    const int32_t low = _mm256_cvtsi256_si32(narrow), high = _mm256_extract_epi32(narrow, 4);
    memcpy(codes + count, &low, 4), memcpy(codes + count + 4, &high, 4);
    sum.x += (Ints::Whole)code;
    return count + __builtin_popcount(found);
#else
    for (int lane = 0; lane < Vec::width; lane++) {
        const int32_t code = (int32_t)(values.x[lane] * per_unit.x[lane]);
        rows[count] = (uint16_t)(first + lane), codes[count] = (int8_t)code;
        sum.x[lane] += code, count += code != 0;
    }
    return count;
#endif
}

void list_codes(const SigmaDeltaCall& call, int64_t first, int64_t last) {
    const SigmaDelta& s = call.s;
    const int64_t inputs = s.C_in / s.groups, room = list_room(inputs);
    const Vec per_unit = broadcast(1 / call.bytes.code);
    for (int64_t list = first * s.groups; list < last * s.groups; list++) {
        const float* const x = (const float*)s.x + list * inputs;
        uint16_t* const rows = call.codes.row + list * room;
        int8_t* const codes = call.codes.code + list * room;
        Ints sums = broadcast_whole(0);
        int64_t count = 0, i = 0;
        for (; i + Vec::width <= inputs; i += Vec::width)
            count = append_codes(load(x + i), per_unit, i, rows, codes, count, sums);
        if (i < inputs) count = append_codes(load_first(x + i, (int)(inputs - i)), per_unit, i, rows, codes, count, sums);
        for (int64_t k = count; k < count + 3; k++) rows[k] = 0, codes[k] = 0;
        PK_ASSERT(count + 3 <= room);
        int32_t sum = 0;
        for (int lane = 0; lane < Vec::width; lane++) sum += sums.x[lane];
        call.codes.count[list] = (uint32_t)count, call.codes.sum[list] = sum;
    }
}

// What is not 0 in a window.
struct CodesOfWindow {
    const uint16_t* row;
    const int8_t* code;
    int64_t count;
    int32_t sum;  // of the codes
};

// Adds the rows of a window, times their codes, to the sums of some chunks of channels: from entry `at` on, in fours, up to the
// first four that begins at row `bound`; returns where that is. Behind the entries are three of the code 0. `far`: whether the
// weights are in no near cache; then rows are asked for some time before.
template <int chunks, bool far, bool by_dot_products>
static OUT_OF_LINE int64_t add_rows(const uint8_t* weight, const CodesOfWindow& window, int64_t at, int64_t bound, Ints* sums) {
    constexpr int64_t ahead = 80;  // rows, each of them a cache line
    static_assert(ahead + 4 <= codes_behind);
    const uint16_t* const rows = window.row;
    const int8_t* const codes = window.code;
    const int64_t count = window.count;
    Ints sum[4 * chunks];
    memcpy(sum, sums, sizeof sum);
    for (; at < count && rows[at] < bound; at += 4) {
        int32_t four;
        memcpy(&four, codes + at, sizeof four);
        const uint8_t* row[4];
        for (int k = 0; k < 4; k++) row[k] = weight + rows[at + k] * byte_row;
        for (int k = 0; k < 4 && far; k++) prefetch(weight + rows[at + ahead + k] * byte_row);
        for (int k = 0; k < chunks; k++) add_four<by_dot_products>(row, k * byte_chunk, broadcast_whole(four), sum + 4 * k);
    }
    memcpy(sums, sum, sizeof sum);
    return at;
}

// The codes of a window at a step. Puts the lists of its taps side by side, at `row` and `code`, unless there is one only.
// `first`: the list of the frame's first pixel.
static inline CodesOfWindow codes_of(const SigmaDeltaCall& call, const SigmaDeltaTaps& taps, int64_t first, uint16_t* row,
                                     int8_t* code) {
    const SigmaDelta& s = call.s;
    const CodeLists lists = call.codes;  // copies, which what is written here cannot change: they stay in registers
    const int64_t* const pixel = taps.pixel;
    const int64_t* const weight = taps.weight;
    const int64_t room = list_room(s.C_in / s.groups), groups = s.groups, taps_count = taps.count;
    first += taps.first_pixel * groups;
    if (taps_count == 1 && weight[0] == 0) {
        const int64_t list = first + pixel[0] * groups;
        return {lists.row + list * room, lists.code + list * room, lists.count[list], lists.sum[list]};
    }
    const uint16_t* const begin = row;
    const int8_t* const begin_codes = code;
    int32_t sum = 0;
    for (int64_t tap = 0; tap < taps_count; tap++) {
        const int64_t list = first + pixel[tap] * groups, count = lists.count[list];
        const uint16_t* const rows = lists.row + list * room;
        const int8_t* const codes = lists.code + list * room;
        const uint16_t add = (uint16_t)weight[tap];
        for (int64_t i = 0; i < count; i += codes_at_once) {
            for (int64_t k = 0; k < codes_at_once; k++) row[i + k] = (uint16_t)(rows[i + k] + add);
            memcpy(code + i, codes + i, codes_at_once);
        }
        row += count, code += count, sum += lists.sum[list];
    }
    for (int64_t k = 0; k < 3; k++) row[k] = 0, code[k] = 0;
    return {begin, begin_codes, row - begin, sum};
}

// The passes of a task: as many as the weights of the second-level cache, so that a window is put together once for them; one
// of several steps, and where there are few pixels.
struct BytePasses {
    static constexpr int64_t cache = PK_IS_CHECKED ? 1 << 12 : 192 << 10, fewest_pixels = 16 * place_group;
    static constexpr int64_t near_cache = PK_IS_CHECKED ? 1 << 10 : 24 << 10;  // bytes of the first-level cache for weights
    Passes all;
    int64_t weights, together, parts;  // bytes of a pass; passes of a task; tasks of a group of channels
    explicit BytePasses(const SigmaDeltaCall& call)
        : all(call.s, message_pass), weights(call.s.kernel_h * call.s.kernel_w * (call.s.C_in / call.s.groups) * byte_row) {
        const bool one = call.s.T_in > 1 || call.count < fewest_pixels;
        together = one ? 1 : least(all.of_group, most(1, cache / weights));
        parts = ceil_div(all.of_group, together);
    }
};

int64_t byte_row_tasks(const SigmaDeltaCall& call) {
    return ceil_div(call.count, place_group) * BytePasses(call).parts * call.s.groups;
}

// What a task computes: some passes of a group of channels, for some output pixels.
struct ByteTask {
    const SigmaDeltaCall& call;
    const SigmaDelta& s;
    const BytePasses passes;
    const int64_t places, part, group, first_pass, last_pass, begin, end;
    const bool far;
    ByteTask(const SigmaDeltaCall& call, int64_t task)
        : call(call),
          s(call.s),
          passes(call),
          places(ceil_div(call.count, place_group)),
          part(task / places),
          group(part / passes.parts),
          first_pass(part % passes.parts * passes.together),
          last_pass(least(first_pass + passes.together, passes.all.of_group)),
          begin(task % places * place_group),
          end(least(begin + place_group, call.count)),
          far(passes.weights > BytePasses::cache) {}

    int64_t channel_of(int64_t pass) const { return group * (s.C / s.groups) + pass * message_pass; }

    // The codes of the window of an output pixel at step t.
    CodesOfWindow codes_at(int64_t place, int64_t t, SigmaDeltaTaps& taps, uint16_t* row, int8_t* code) const {
        const int64_t image = place / s.P, pixel = place % s.P;
        taps.find(s, pixel / s.W_out, pixel % s.W_out, s.C_in / s.groups);
        return codes_of(call, taps, (image * s.T_in + t) * s.H * s.W * s.groups + group, row, code);
    }

    template <int chunks>
    int64_t add(int64_t pass, const CodesOfWindow& window, int64_t at, int64_t bound, Ints* sums) const {
        const uint8_t* const weight = call.bytes.weight + (group * passes.all.of_group + pass) * passes.weights;
        return (has_dot_products ? far ? add_rows<chunks, true, true> : add_rows<chunks, false, true>
                : far            ? add_rows<chunks, true, false>
                                 : add_rows<chunks, false, false>)(weight, window, at, bound, sums);
    }

    // Adds what the sums of codes times weights stand for.
    template <int channels>
    void add_units(const Ints* found, int32_t code_sum, int64_t channel, Lanes<channels>& sums) const {
        const Ints zeros = broadcast_whole(byte_zero * code_sum);
        for (int v = 0; v < sums.vecs; v++)
            sums.v[v] = sums.v[v] + to_floats(found[v] - zeros) * load(call.bytes.unit + channel + v * Vec::width);
    }
};

// A task of several input steps, or of none.
static void byte_steps_task(const ByteTask& task, ByteScratch& scratch, Counted& counted) {
    const SigmaDelta& s = task.s;
    const auto run = [&](int64_t place, int64_t pass) {
        const int64_t channel = task.channel_of(pass);
        with_channels<message_pass>(s, channel, [&](auto channels) {
            constexpr int chunks = (channels + byte_chunk - 1) / byte_chunk;
            int64_t added = 0;
            const auto add = [&](int64_t t, auto steps, auto* sums) {
                each<steps>([&](auto k) {
                    const CodesOfWindow codes = task.codes_at(place, t + k, scratch.taps, scratch.row, scratch.code);
                    Ints found[4 * chunks];
                    each<4 * chunks>([&](auto v) { found[v] = broadcast_whole(0); });  // a loop would be a call
                    task.template add<chunks>(pass, codes, 0, most_byte_rows, found);
                    task.add_units(found, codes.sum, channel, sums[k]);
                    added += codes.count;
                });
            };
            const Fired fired = fire<channels>(s, place / s.P, place % s.P, channel, add);
            task.call.note(place, fired);
            counted.additions += added * least(channels_left(s, channel), channels), counted.spikes += fired.all;
        });
    };
    for (int64_t i = task.begin; i < task.end; i++)
        for (int64_t pass = task.first_pass; pass < task.last_pass; pass++) run(task.call.place(i), pass);
}

// A task of one input step. All its windows take a part of weights that are in no near cache, before the next part.
void byte_rows_task(const SigmaDeltaCall& call, int64_t number, ByteScratch& scratch, Counted& counted) {
    constexpr int64_t fewest_windows = 4;
    const ByteTask task(call, number);
    const SigmaDelta& s = call.s;
    if (s.T_in != 1) return byte_steps_task(task, scratch, counted);
    const int64_t windows = task.end - task.begin, rows = task.passes.weights / byte_row;
    const int64_t parts = task.far && windows >= fewest_windows ? ceil_div(task.passes.weights, BytePasses::near_cache) : 1;
    const int64_t part = ceil_div(rows, parts);
    CodesOfWindow codes[place_group];
    uint16_t* row = scratch.row;
    int8_t* code = scratch.code;
    int64_t added = 0;
    for (int64_t i = 0; i < windows; i++) {
        codes[i] = task.codes_at(call.place(task.begin + i), 0, scratch.taps, row, code);
        if (codes[i].row == row) row += codes[i].count + 3, code += codes[i].count + 3;
        added += codes[i].count;
    }
    for (int64_t pass = task.first_pass; pass < task.last_pass; pass++) {
        const int64_t channel = task.channel_of(pass);
        with_channels<message_pass>(s, channel, [&](auto channels) {
            constexpr int chunks = (channels + byte_chunk - 1) / byte_chunk;
            Ints found[place_group][4 * chunks];
            memset(found, 0, sizeof found);
            int64_t at[place_group] = {};
            for (int64_t bound = part; bound < rows + part; bound += part)
                for (int64_t i = 0; i < windows; i++) at[i] = task.template add<chunks>(pass, codes[i], at[i], bound, found[i]);
            fire_places<channels>(call, task.begin, task.end, channel, counted, [&](int64_t i, int64_t place, int64_t) {
                const int n = (int)least(channels_left(s, channel), channels);
                const int64_t first = s.T == 1 ? place : place / s.P * s.T * s.P + place % s.P;
                Lanes<channels> sums = besides<channels>(s, 0, first, channel, n);
                task.add_units(found[i - task.begin], codes[i - task.begin].sum, channel, sums);
                return sums;
            });
            counted.additions += added * least(channels_left(s, channel), channels);
        });
    }
}

}  // namespace PK_TARGET
