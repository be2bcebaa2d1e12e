// Random numbers, the same on every machine, and weights whose sums are exact.
#pragma once
#include <cstdint>
#include <vector>

namespace {

struct Random {
    uint64_t state;
    int64_t draw(int64_t low, int64_t high) {  // splitmix64
        uint64_t z = state += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return low + (int64_t)((z ^ z >> 31) % (uint64_t)(high - low + 1));
    }
    std::vector<float> sixteenths(int64_t n, int64_t low, int64_t high) {
        std::vector<float> values(n);
        for (float& v : values) v = (float)draw(low, high) / 16;
        return values;
    }
};

}  // namespace
