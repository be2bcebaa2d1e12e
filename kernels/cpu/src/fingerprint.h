// A hash of memory that runs at the speed of the memory: it tells whether weights are as they were when they were packed, and
// whether a file is damaged. It is the same on every machine.
#pragma once
#include <cstdint>
#include <cstring>

#include "simd.h"
#include "work.h"

namespace PK_TARGET {

static inline uint64_t mix(uint64_t a, uint64_t b) {
    const unsigned __int128 product = (unsigned __int128)(a ^ 0x9e3779b97f4a7c15u) * (b ^ 0xd1b54a32d192ed03u);
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

// Eight words side by side, in as many registers as they take. Under a key of its place, each adds the product of its halves
// to one sum, and itself to another: a half that is zero would hide the other in the product alone.
struct Hash {
#if defined(__AVX512F__)
    typedef uint64_t Words __attribute__((vector_size(64)));
    static inline Words product(Words w) { return (Words)_mm512_mul_epu32((__m512i)w, (__m512i)(w >> 32)); }
#elif defined(__AVX2__)
    typedef uint64_t Words __attribute__((vector_size(32)));
    static inline Words product(Words w) { return (Words)_mm256_mul_epu32((__m256i)w, (__m256i)(w >> 32)); }
#elif defined(__SSE2__)
    typedef uint64_t Words __attribute__((vector_size(16)));
    static inline Words product(Words w) { return (Words)_mm_mul_epu32((__m128i)w, (__m128i)(w >> 32)); }
#elif defined(__aarch64__)
    typedef uint64_t Words __attribute__((vector_size(16)));
    static inline Words product(Words w) { return (Words)vmull_u32(vmovn_u64((uint64x2_t)w), vshrn_n_u64((uint64x2_t)w, 32)); }
#else
    typedef uint64_t Words __attribute__((vector_size(16)));
    static inline Words product(Words w) { return (w & 0xffffffffu) * (w >> 32); }
#endif
    static constexpr int lanes = sizeof(Words) / 8, parts = 8 / lanes;
    static constexpr int64_t line = 64;  // bytes that are added at a time

    Words products[parts], words[parts] = {}, key[parts];
    explicit Hash(uint64_t seed) {
        uint64_t seeds[8], keys[8];
        for (int i = 0; i < 8; i++) {
            seeds[i] = seed;
            keys[i] = (uint64_t)(i + 1) * 0xd1b54a32d192ed03u + seed * 0x9e3779b97f4a7c15u;
        }
        memcpy(products, seeds, sizeof products);
        memcpy(key, keys, sizeof key);
    }
    inline void add(const uint8_t* bytes) {
        for (int i = 0; i < parts; i++) {
            Words word;
            memcpy(&word, bytes + i * sizeof word, sizeof word);
            products[i] += product(word ^ key[i]);
            words[i] += word;
            key[i] += 0x9e3779b97f4a7c15u;
        }
    }
    uint64_t value() const {
        uint64_t of_products[8], of_words[8], hash = 0;
        memcpy(of_products, products, sizeof products);
        memcpy(of_words, words, sizeof words);
        for (int i = 0; i < 8; i++) hash = mix(mix(hash, of_products[i]), of_words[i]);
        return hash;
    }
};

static uint64_t hash_piece(const uint8_t* bytes, int64_t n, uint64_t seed) {
    Hash hash(seed);
    for (; n >= Hash::line; n -= Hash::line, bytes += Hash::line) hash.add(bytes);
    uint8_t rest[Hash::line] = {};
    memcpy(rest, bytes, n);
    hash.add(rest);
    return hash.value();
}

// The hash of n bytes is n plus those of its pieces.
constexpr int64_t fingerprint_piece = 1 << 16;
static uint64_t fingerprint_at(const uint8_t* bytes, int64_t n, int64_t i) {
    return hash_piece(bytes + i, n - i < fingerprint_piece ? n - i : fingerprint_piece, (uint64_t)i);
}
inline uint64_t fingerprint_alone(const uint8_t* bytes, int64_t n) {
    uint64_t sum = (uint64_t)n;
    for (int64_t i = 0; i < n; i += fingerprint_piece) sum += fingerprint_at(bytes, n, i);
    return sum;
}
// By the threads that run the layers which this thread calls.
uint64_t fingerprint_by_team(const uint8_t* bytes, int64_t n, int64_t threads);  // engine/run.cpp

}  // namespace PK_TARGET
