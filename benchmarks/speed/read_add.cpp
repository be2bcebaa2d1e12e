// How many numbers a core adds in a second if it does nothing else: numbers of a buffer, 64 bytes at a time, to eight registers,
// as rows of weights are added; and how many products it adds that come from registers. read_add.py compiles it for the
// processor at hand.
#include <cstdint>

constexpr int registers = 8;  // an addition waits for the last one to the same register

template <class Number>
static Number sum_of(const void* buffer, int64_t bytes, int64_t times) {
    typedef Number Line __attribute__((vector_size(64)));
    Line sum[registers] = {};
    for (int64_t i = 0; i < times; i++) {
        const Line *line = (const Line*)buffer, *const end = line + bytes / sizeof(Line);
        for (; line < end; line += registers)
#pragma GCC unroll 8
            for (int k = 0; k < registers; k++) sum[k] += line[k];
        __asm__ volatile("" ::: "memory");  // the next time is another one
    }
    for (int k = 1; k < registers; k++) sum[0] += sum[k];
    Number all = 0;
    for (unsigned k = 0; k < sizeof(Line) / sizeof(Number); k++) all += sum[0][k];
    return all;
}

extern "C" {

// `bytes`: of the buffer, a multiple of 512, at a multiple of 64. What is returned keeps the compiler from leaving it out.
float add_floats(const void* buffer, int64_t bytes, int64_t times) { return sum_of<float>(buffer, bytes, times); }
uint16_t add_shorts(const void* buffer, int64_t bytes, int64_t times) { return sum_of<uint16_t>(buffer, bytes, times); }
uint8_t add_bytes(const void* buffer, int64_t bytes, int64_t times) { return sum_of<uint8_t>(buffer, bytes, times); }

// As many products as there are floats in `bytes` bytes.
float add_products(const void* buffer, int64_t bytes, int64_t times) {
    typedef float Line __attribute__((vector_size(64)));
    const Line a = *(const Line*)buffer, b = a + 1;
    Line sum[registers] = {};
    for (int64_t i = 0; i < times * (bytes / (int64_t)sizeof(Line) / registers); i++)
#pragma GCC unroll 8
        for (int k = 0; k < registers; k++) sum[k] = sum[k] * a + b;
    for (int k = 1; k < registers; k++) sum[0] += sum[k];
    return sum[0][0];
}
}
