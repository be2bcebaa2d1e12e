// Convolution of codes of 8 bits, of which most are 0, as graded neurons send them: those of a window are put side by side, and
// four rows of weights at a time are added, times their codes.
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

// Appends the codes of the next values that are not 0, of which `n` exist, to a list of `count`; returns the new count.
// `row`: that of the first of the values. Writes as many entries as a Vec has lanes.
static inline int64_t append_codes(Vec values, Vec units, uint32_t row, uint32_t* rows, int8_t* codes, int64_t count,
                                   Ints& sum) {
#if defined(__AVX512F__)
    const __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(values.x, units.x));
    const __mmask16 found = _mm512_test_epi32_mask(code, code);
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i row_of = _mm512_add_epi32(_mm512_set1_epi32((int)row), _mm512_slli_epi32(lane, 6));
    _mm512_storeu_si512(rows + count, _mm512_maskz_compress_epi32(found, row_of));
    _mm_storeu_si128((__m128i*)(codes + count), _mm512_cvtepi32_epi8(_mm512_maskz_compress_epi32(found, code)));
    sum.x += (Ints::Whole)code;
    return count + __builtin_popcount(found);
#elif defined(__AVX2__)
    const __m256i code = _mm256_cvtps_epi32(_mm256_mul_ps(values.x, units.x));
    const __m256i none = _mm256_cmpeq_epi32(code, _mm256_setzero_si256());
    const uint32_t found = (uint32_t)~_mm256_movemask_ps(_mm256_castsi256_ps(none)) & 255;
    const __m256i lanes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)lanes_of.of[found]));
    const __m256i low_bytes = _mm256_set1_epi32(0x0c080400);
    const __m256i narrow = _mm256_shuffle_epi8(_mm256_permutevar8x32_epi32(code, lanes), low_bytes);
    _mm256_storeu_si256((__m256i*)(rows + count), _mm256_add_epi32(_mm256_set1_epi32((int)row), _mm256_slli_epi32(lanes, 6)));
    const int32_t first = _mm256_cvtsi256_si32(narrow), second = _mm256_extract_epi32(narrow, 4);
    memcpy(codes + count, &first, 4), memcpy(codes + count + 4, &second, 4);
    sum.x += (Ints::Whole)code;
    return count + __builtin_popcount(found);
#else
    for (int lane = 0; lane < Vec::width; lane++) {
        const int32_t code = (int32_t)(values.x[lane] * units.x[lane]);
        rows[count] = row + (uint32_t)(lane * byte_row), codes[count] = (int8_t)code;
        sum.x[lane] += code, count += code != 0;
    }
    return count;
#endif
}

void list_codes(const SigmaDeltaCall& call, int64_t first, int64_t last) {
    const SigmaDelta& s = call.s;
    const int64_t inputs = s.C_in / s.groups, room = list_room(inputs);
    const Vec units = broadcast(1 / call.bytes.code);
    for (int64_t list = first * s.groups; list < last * s.groups; list++) {
        const float* const x = (const float*)s.x + list * inputs;
        uint32_t* const rows = call.codes.row + list * room;
        int8_t* const codes = call.codes.code + list * room;
        Ints sums = broadcast_whole(0);
        int64_t count = 0, i = 0;
        for (; i + Vec::width <= inputs; i += Vec::width)
            count = append_codes(load(x + i), units, (uint32_t)(i * byte_row), rows, codes, count, sums);
        if (i < inputs)
            count =
                append_codes(load_first(x + i, (int)(inputs - i)), units, (uint32_t)(i * byte_row), rows, codes, count, sums);
        for (int64_t k = count; k < count + 3; k++) rows[k] = 0, codes[k] = 0;
        PK_ASSERT(count + 3 <= room);
        int32_t sum = 0;
        for (int lane = 0; lane < Vec::width; lane++) sum += sums.x[lane];
        call.codes.count[list] = (uint32_t)count, call.codes.sum[list] = sum;
    }
}

// Adds four rows, times their codes, to the sums of a chunk of channels. `codes`: all four, repeated in each 32 bits.
static inline void add_four(const uint8_t* const (&row)[4], int64_t at, Ints codes, Ints* sum) {
#if defined(__AVX512F__)
    const __m512i ones = _mm512_set1_epi16(1), a = _mm512_loadu_si512(row[0] + at), b = _mm512_loadu_si512(row[1] + at);
    const __m512i c = _mm512_loadu_si512(row[2] + at), d = _mm512_loadu_si512(row[3] + at);
    const __m512i ab[2] = {_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b)};
    const __m512i cd[2] = {_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d)};
    for (int half = 0; half < 2; half++) {
        const __m512i weights[2] = {_mm512_unpacklo_epi16(ab[half], cd[half]), _mm512_unpackhi_epi16(ab[half], cd[half])};
        for (int k = 0; k < 2; k++)
            sum[2 * half + k].x += (Ints::Whole)_mm512_madd_epi16(_mm512_maddubs_epi16(weights[k], (__m512i)codes.x), ones);
    }
#elif defined(__AVX2__)
    const auto load = [&](int k) { return _mm256_loadu_si256((const __m256i*)(row[k] + at)); };
    const __m256i ones = _mm256_set1_epi16(1), a = load(0), b = load(1), c = load(2), d = load(3);
    const __m256i ab[2] = {_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)};
    const __m256i cd[2] = {_mm256_unpacklo_epi8(c, d), _mm256_unpackhi_epi8(c, d)};
    for (int half = 0; half < 2; half++) {
        const __m256i weights[2] = {_mm256_unpacklo_epi16(ab[half], cd[half]), _mm256_unpackhi_epi16(ab[half], cd[half])};
        for (int k = 0; k < 2; k++)
            sum[2 * half + k].x += (Ints::Whole)_mm256_madd_epi16(_mm256_maddubs_epi16(weights[k], (__m256i)codes.x), ones);
    }
#else
    typedef uint8_t Weights __attribute__((vector_size(8)));
    typedef int16_t Products __attribute__((vector_size(16)));
    static_assert(sizeof(Products) == sizeof(Ints));
    const int32_t four = codes.x[0];
    for (int half = 0; half < 2; half++) {
        Products product[4];
        for (int k = 0; k < 4; k++) {
            Weights weights;
            memcpy(&weights, row[k] + at + 8 * half, sizeof weights);
            product[k] = __builtin_convertvector(weights, Products) * (int16_t)(int8_t)(four >> 8 * k);
        }
        const Ints pairs[2] = {{(Ints::Whole)(product[0] + product[1])}, {(Ints::Whole)(product[2] + product[3])}};
        sum[2 * half] = sum[2 * half] + (widen_first(pairs[0]) + widen_first(pairs[1]));
        sum[2 * half + 1] = sum[2 * half + 1] + (widen_second(pairs[0]) + widen_second(pairs[1]));
    }
#endif
}

// The sums of `count` rows times their codes, for some chunks of channels. Behind the rows are three of the code 0.
template <int chunks>
static OUT_OF_LINE void add_rows(const uint8_t* weight, const uint32_t* rows, const int8_t* codes, int64_t count, Ints* sums) {
    Ints sum[4 * chunks];
    for (Ints& each : sum) each = broadcast_whole(0);
    for (int64_t i = 0; i < count; i += 4) {
        int32_t four;
        memcpy(&four, codes + i, sizeof four);
        const uint8_t* const row[4] = {weight + rows[i], weight + rows[i + 1], weight + rows[i + 2], weight + rows[i + 3]};
        for (int k = 0; k < chunks; k++) add_four(row, k * byte_chunk, broadcast_whole(four), sum + 4 * k);
    }
    memcpy(sums, sum, sizeof sum);
}

// Puts the lists of a window's taps side by side; returns the number of entries, and adds up their codes.
static inline int64_t join_lists(const SigmaDeltaTaps& taps, const CodeLists& lists, int64_t first, int64_t groups,
                                 int64_t room, ByteScratch& scratch, int32_t& total) {
    int64_t n = 0;
    for (int64_t tap = 0; tap < taps.count; tap++) {
        const int64_t list = first + (taps.first_pixel + taps.pixel[tap]) * groups, count = lists.count[list];
        const Ints offset = broadcast_whole((int32_t)taps.weight[tap]);
        const uint32_t* const rows = lists.row + list * room;
        const int8_t* const codes = lists.code + list * room;
        for (int64_t i = 0; i < count; i += codes_at_once) {
            for (int k = 0; k < codes_at_once; k += Vec::width)
                store((int32_t*)scratch.row + n + i + k, load((const int32_t*)rows + i + k) + offset);
            memcpy(scratch.code + n + i, codes + i, codes_at_once);
        }
        n += count, total += lists.sum[list];
    }
    for (int64_t k = n; k < n + 3; k++) scratch.row[k] = 0, scratch.code[k] = 0;
    return n;
}

void byte_rows_task(const SigmaDeltaCall& call, int64_t task, ByteScratch& scratch, Counted& counted) {
    const SigmaDelta& s = call.s;
    const int64_t inputs = s.C_in / s.groups, room = list_room(inputs), outputs = s.C / s.groups;
    const int64_t of_block = s.kernel_h * s.kernel_w * inputs * byte_row;
    each_place<message_pass>(
        call, task, scratch.taps, counted, [&](int64_t) { return inputs * byte_row; },
        [&](auto channels, int64_t image, int64_t pixel, int64_t channel, const auto& taps) {
            constexpr int chunks = (channels + byte_chunk - 1) / byte_chunk;
            const int64_t group = channel / outputs, block = (channel - group * outputs) / byte_row;
            const uint8_t* weight = call.bytes.weight + (group * ceil_div(outputs, byte_row) + block) * of_block;
            const float* const unit = call.bytes.unit + channel;
            int64_t added = 0;
            const auto add = [&](int64_t t, auto steps, auto* sums) {
                each<steps>([&](auto k) {
                    const int64_t first = (image * s.T_in + t + k) * s.H * s.W * s.groups + group;
                    int32_t total = 0;
                    Ints found[4 * chunks];
                    if (taps.count == 1) {
                        const int64_t list = first + (taps.first_pixel + taps.pixel[0]) * s.groups, n = call.codes.count[list];
                        total = call.codes.sum[list], added += n;
                        add_rows<chunks>(weight + taps.weight[0], call.codes.row + list * room, call.codes.code + list * room,
                                         n, found);
                    } else {
                        const int64_t n = join_lists(taps, call.codes, first, s.groups, room, scratch, total);
                        added += n;
                        add_rows<chunks>(weight, scratch.row, scratch.code, n, found);
                    }
                    const Ints zeros = broadcast_whole(byte_zero * total);
                    for (int i = 0; i < sums[k].vecs; i++)
                        sums[k].v[i] = sums[k].v[i] + to_floats(found[i] - zeros) * load(unit + i * Vec::width);
                });
            };
            const Fired fired = fire_sigma_delta(s, image, pixel, channel, Arrive::of<channels>(add));
            return std::pair(added * least(channels_left(s, channel), channels), fired);
        });
}

}  // namespace PK_TARGET
