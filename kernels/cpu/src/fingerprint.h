// A hash of memory that runs at the speed of the memory: by it the weights that were packed are known to be unchanged.
#pragma once
#include <cstdint>
#include <cstring>

#include "work.h"

namespace PK_TARGET {

static inline uint64_t mix(uint64_t a, uint64_t b) {
    const unsigned __int128 product = (unsigned __int128)(a ^ 0x9e3779b97f4a7c15u) * (b ^ 0xd1b54a32d192ed03u);
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

typedef uint64_t Words __attribute__((vector_size(64)));

// Eight words side by side. Under a key of its place, each adds the product of its halves to one sum, and itself to another:
// a half that is zero would hide the other in the product alone.
struct Hash {
    Words products, words = {}, key;
    explicit Hash(uint64_t seed)
        : products(Words{} + seed), key(Words{1, 2, 3, 4, 5, 6, 7, 8} * 0xd1b54a32d192ed03u + seed * 0x9e3779b97f4a7c15u) {}
    inline void add(Words word) {
        const Words keyed = word ^ key, low = keyed & 0xffffffffu, high = keyed >> 32;
#if defined(__AVX512F__)
        products += (Words)_mm512_mul_epu32((__m512i)low, (__m512i)high);
#else
        products += low * high;
#endif
        words += word;
        key += 0x9e3779b97f4a7c15u;
    }
    uint64_t value() const {
        uint64_t hash = 0;
        for (int i = 0; i < 8; i++) hash = mix(mix(hash, products[i]), words[i]);
        return hash;
    }
};

static uint64_t hash_piece(const uint8_t* bytes, int64_t n, uint64_t seed) {
    Hash hash(seed);
    Words word;
    for (; n >= (int64_t)sizeof word; n -= sizeof word, bytes += sizeof word) {
        memcpy(&word, bytes, sizeof word);
        hash.add(word);
    }
    word = Words{};
    memcpy(&word, bytes, n);
    hash.add(word);
    return hash.value();
}

inline uint64_t fingerprint(const uint8_t* bytes, int64_t n) {
    constexpr int64_t piece = 1 << 16;
    uint64_t sum = (uint64_t)n;
#pragma omp parallel for schedule(static) reduction(+ : sum) if (n > worth_threads)
    for (int64_t i = 0; i < n; i += piece) sum += hash_piece(bytes + i, n - i < piece ? n - i : piece, (uint64_t)i);
    return sum;
}

// The same of `lines` lines of 64 bytes, evenly spread, where there are more; each is fetched while those before are hashed.
static inline uint64_t sample_fingerprint(const uint8_t* bytes, int64_t n, int64_t lines) {
    constexpr int64_t line = sizeof(Words), ahead = 16;
    if (n <= lines * line) return hash_piece(bytes, n, (uint64_t)n);
    Hash hash((uint64_t)n);
    const auto at = [&](int64_t i) { return bytes + i * (n - line) / (lines - 1); };  // the first and the last line, too
    for (int64_t i = 0; i < lines; i++) {
        if (i + ahead < lines) __builtin_prefetch(at(i + ahead));
        Words word;
        memcpy(&word, at(i), line);
        hash.add(word);
    }
    return hash.value();
}

}  // namespace PK_TARGET
