// Rows of weights in bytes, for values that are whole multiples of a unit: codes of 8 bits with sign. A byte is a weight in
// units of its channel plus byte_zero, so that it has no sign; codes times that are summed up in 32 bits, which is exact.
#pragma once
#include "../simd.h"
#include "../work.h"

namespace PK_TARGET {

// A pair of products must fit 16 bits with sign, and a sum 32 bits.
constexpr int byte_zero = 64;
constexpr float largest_byte_weight = 63;
constexpr int64_t byte_row = 64;  // bytes of a row, and the most channels of it
constexpr int64_t most_byte_rows = 1 << 16;  // of a window, whose numbers have 16 bits

constexpr int byte_chunk = 4 * Vec::width;  // channels whose sums are four vectors of 32-bit integers
// The channel, within its chunk, of a byte: bytes of four rows are interleaved within 128 bits (byte_rows.cpp).
constexpr int channel_of_byte(int byte) { return Vec::width * (byte % 16 / 4) + 4 * (byte / 16) + byte % 4; }

// The weights of a window.
struct ByteWeights {
    const uint8_t* weight = nullptr;  // [group][block of byte_row channels][tap][input][byte_row]
    const float* unit = nullptr;  // [channels rounded up to whole rows]: what 1 stands for in a sum of codes times weights
    float code = 0;  // the unit of the values
};

// What is not 0 among the values of each pixel and group of channels, in the order of the channels. A list has room for
// list_room(inputs of a group) entries. Three entries with the code 0 stand behind its end.
struct CodeLists {
    uint16_t* row = nullptr;  // [lists][room]: the input, within its group
    int8_t* code = nullptr;  // [lists][room]
    uint32_t* count = nullptr;  // [lists]
    int32_t* sum = nullptr;  // [lists]: of the codes
};
constexpr int64_t codes_at_once = 32;  // entries that are copied at a time, also beyond the end of a list
static inline int64_t list_room(int64_t inputs) { return ceil_div(inputs + 3, 16) * 16; }

// Packs weights [C, inputs of a group, taps], which are multiples of `unit` [C].
inline void pack_byte_rows(const float* weight, const float* unit, uint8_t* packed, int64_t C, int64_t inputs, int64_t taps,
                           int64_t groups) {
    const int64_t outputs = C / groups;
    for (int64_t group = 0; group < groups; group++)
        for (int64_t first = 0; first < outputs; first += byte_row) {
            const int64_t channels = least(byte_row, outputs - first);
            for (int64_t k = 0; k < byte_row; k++) {
                const int64_t c = k / byte_chunk * byte_chunk + channel_of_byte((int)(k % byte_chunk));
                for (int64_t i = 0; i < inputs; i++)
                    for (int64_t tap = 0; tap < taps; tap++)
                        packed[(tap * inputs + i) * byte_row + k] =
                            c < channels ? (uint8_t)(int)(weight[(c * inputs + i) * taps + tap] / unit[c] + byte_zero)
                                         : byte_zero;
            }
            weight += channels * inputs * taps, unit += channels, packed += byte_row * inputs * taps;
        }
}

}  // namespace PK_TARGET
