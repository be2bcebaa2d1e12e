// A hash of weights, as fast as memory: tells packed weights that are still current from stale ones.
#pragma once
#include <cstdint>
#include <cstring>

namespace PK_TARGET {

static inline uint64_t mix(uint64_t a, uint64_t b) {
    const unsigned __int128 product = (unsigned __int128)(a ^ 0x9e3779b97f4a7c15u) * (b ^ 0xd1b54a32d192ed03u);
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

// Four chains side by side hide the latency of the multiplications.
static uint64_t hash_piece(const uint8_t* bytes, int64_t n, uint64_t seed) {
    constexpr int chains = 4;
    uint64_t state[chains] = {seed, seed + 1, seed + 2, seed + 3}, word[2 * chains];
    for (; n > 0; n -= sizeof word, bytes += sizeof word) {
        if (n < (int64_t)sizeof word) memset(word, 0, sizeof word);
        memcpy(word, bytes, n < (int64_t)sizeof word ? n : sizeof word);
        for (int i = 0; i < chains; i++) state[i] = mix(word[2 * i] ^ state[i], word[2 * i + 1] + state[i]);
    }
    return mix(mix(state[0], state[1]), mix(state[2], state[3]));
}

static uint64_t fingerprint(const uint8_t* bytes, int64_t n) {
    constexpr int64_t piece = 1 << 16;
    uint64_t sum = (uint64_t)n;
#pragma omp parallel for schedule(static) reduction(+ : sum)
    for (int64_t i = 0; i < n; i += piece) sum += hash_piece(bytes + i, n - i < piece ? n - i : piece, (uint64_t)i);
    return sum;
}

}  // namespace PK_TARGET
