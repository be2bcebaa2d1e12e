// What other_machine.cpp draws cases of, and the definition they are compared with, in plain loops.
#pragma once
#include "abi.h"
#include "engine/engine.h"
#include "models.h"
#include "random_values.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace portable {
extern const Kernels kernels;
extern const engine::Functions functions;
}  // namespace portable

namespace {

const Kernels* kernels;
const engine::Functions* functions;
Random generator;
std::string current_case;
std::map<std::string, int> ran, with_spikes;

int64_t draw(int64_t low, int64_t high) { return generator.draw(low, high); }
std::vector<float> sixteenths(int64_t n, int64_t low, int64_t high) { return generator.sixteenths(n, low, high); }
std::vector<float> padded(std::vector<float> values, float fill) {
    values.resize((values.size() + 31) / 32 * 32, fill);
    return values;
}
constexpr float never = __builtin_inff();
int64_t bytes_of(int64_t C) { return (C + 7) / 8; }

// Dense spikes [N][T][P][C], and the same packed.
struct Spikes {
    int64_t N, T, P, C;
    std::vector<uint8_t> dense, packed;
    Spikes(int64_t N, int64_t T, int64_t P, int64_t C)
        : N(N), T(T), P(P), C(C), dense(N * T * P * C), packed(N * T * P * bytes_of(C)) {}
    uint8_t& at(int64_t n, int64_t t, int64_t p, int64_t c) { return dense[((n * T + t) * P + p) * C + c]; }
    void draw_all() {
        const int64_t rate = draw(0, 4) ? draw(1, 60) : draw(0, 1) * 100;
        for (uint8_t& s : dense) s = draw(0, 99) < rate;
        pack();
    }
    // Some neurons fire at almost every step, and some pixels are like the one before.
    void draw_images() {
        draw_all();
        for (int64_t n = 0; n < N; n++)
            for (int64_t p = 0; p < P; p++)
                for (int64_t c = 0, like = p && draw(0, 1); c < C; c++) {
                    const bool steady = draw(0, 3) == 0;
                    for (int64_t t = 0; t < T; t++) {
                        if (like) at(n, t, p, c) = at(n, t, p - 1, c);
                        else if (steady) at(n, t, p, c) = draw(0, 9) > 0;
                    }
                }
        pack();
    }
    void pack() {
        std::fill(packed.begin(), packed.end(), 0);
        for (int64_t i = 0; i < N * T * P; i++)
            for (int64_t c = 0; c < C; c++) packed[i * bytes_of(C) + c / 8] |= (uint8_t)(dense[i * C + c] << c % 8);
    }
};

int64_t total_of(const std::vector<uint8_t>& packed) {
    int64_t total = 0;
    kernels->total(packed.data(), &total, (int64_t)packed.size(), 1, 1);
    return total;
}

[[noreturn]] void wrong(const std::string& what) {
    printf("WRONG: %s, %s\n", what.c_str(), current_case.c_str());
    exit(1);
}
template <class T>
void same(const std::string& what, const std::vector<T>& actual, const std::vector<T>& expected) {
    if (actual.size() != expected.size() || memcmp(actual.data(), expected.data(), actual.size() * sizeof(T))) wrong(what);
}

// The neurons of a case: the definition, and the kernels' view of them.
struct Population {
    bool soft;
    float v_reset;
    std::vector<float> theta, v;
    Population(int64_t N, int64_t P, int64_t C, int64_t largest) : soft(draw(0, 2) == 0), v_reset(-(float)draw(0, 1) / 2) {
        theta = sixteenths(C, 8, 16 + largest);
        v = sixteenths(N * P * C, -8, 8);
    }
    Neuron neuron(const std::vector<float>& padded_theta) const {
        const int64_t stride = (int64_t)padded_theta.size();
        return {padded_theta.data(), stride, soft ? models::SoftReset : models::HardReset, {v_reset}};
    }
    // They start from the potentials `before`; `after` and the spikes of `out` are to be written.
    Neurons layer(const std::vector<float>& padded_theta, const std::vector<float>& before, std::vector<float>& after,
                  Spikes& out) const {
        const int64_t from_image = out.P * out.C, from_pixel = out.C;
        return {neuron(padded_theta),
                before.data(),
                after.data(),
                out.packed.data(),
                from_image,
                0,
                from_pixel,
                out.T,
                out.N,
                out.P,
                out.C};
    }
    // Currents of one step for all neurons [N][P][C]; gives their spikes, updates v.
    bool step(float& potential, float current, float limit) const {
        const float h = potential + current;
        const bool fires = h >= limit;
        potential = fires ? (soft ? h - limit : v_reset) : h;
        return fires;
    }
    void run(Spikes& out, const std::function<float(int64_t n, int64_t t, int64_t p, int64_t c)>& current) {
        for (int64_t n = 0; n < out.N; n++)
            for (int64_t p = 0; p < out.P; p++)
                for (int64_t c = 0; c < out.C; c++)
                    for (int64_t t = 0; t < out.T; t++)
                        out.at(n, t, p, c) = step(v[(n * out.P + p) * out.C + c], current(n, t, p, c), theta[c]);
        out.pack();
    }
};

struct Geometry {
    int64_t H, W, C_in, C_out, kernel[2], stride[2], padding[2], dilation[2], out[2];
    bool draw_one(bool depthwise) {
        H = draw(1, 7), W = draw(1, 7);
        C_in = draw(0, 3) ? draw(1, 40) : draw(41, 140), C_out = depthwise ? C_in : draw(1, 70);
        const int64_t size[2] = {H, W};
        for (int i = 0; i < 2; i++) {
            kernel[i] = draw(1, 4), stride[i] = draw(1, 3), padding[i] = draw(0, 3), dilation[i] = draw(1, 2);
            const int64_t room = size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1;
            if (room < 0) return false;
            out[i] = room / stride[i] + 1;
        }
        return true;
    }
    int64_t taps() const { return kernel[0] * kernel[1]; }
    // Calls visit(tap, input pixel) for the taps of an output pixel that lie inside the image.
    template <class Visit>
    void each_tap(int64_t p, Visit visit) const {
        for (int64_t ky = 0; ky < kernel[0]; ky++)
            for (int64_t kx = 0; kx < kernel[1]; kx++) {
                const int64_t y = p / out[1] * stride[0] - padding[0] + ky * dilation[0];
                const int64_t x = p % out[1] * stride[1] - padding[1] + kx * dilation[1];
                if (y >= 0 && y < H && x >= 0 && x < W) visit(ky * kernel[1] + kx, y * W + x);
            }
    }
};

}  // namespace
