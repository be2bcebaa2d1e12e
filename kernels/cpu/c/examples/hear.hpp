// Spoken words by a network, as they are said: a model of the cochlea, 64 spikes every 10 ms, where a word begins and ends, and
// its class.
#pragma once
#include <proxykernels.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <vector>

// pk.samples.cochlea_spikes of Python, step by step; there is told what its numbers mean.
class Cochlea {
public:
    static constexpr int bands = 32, order = 4, spikes = 2 * bands;

    explicit Cochlea(int rate) : samples(rate / 100) {
        const auto erbs = [](double hertz) { return 21.4 * std::log10(0.00437 * hertz + 1); };
        const double lowest = erbs(100), highest = erbs(3700);
        for (int k = 0; k < bands; ++k) {
            const double hertz = (std::pow(10, (lowest + (highest - lowest) * k / (bands - 1)) / 21.4) - 1) / 0.00437;
            const double width = 1.019 * 24.7 * (0.00437 * hertz + 1), turn = 2 * std::acos(-1.0) / rate;
            band[k].pole = std::exp(std::complex<double>(-width * turn, hertz * turn));
            band[k].last = level_of(0);
        }
    }

    // The spikes of the next 10 ms, of `samples` values from -1 to 1: written to fired[64], 32 OFF and 32 ON.
    void step(const float* sound, uint8_t* fired) {
        loudness = 0;
        for (int k = 0; k < bands; ++k) {
            const double level = level_of(band[k].power(sound, samples));
            const bool below = level <= band[k].last - 3, above = level >= band[k].last + 3;
            if (below || above) band[k].last = level;
            fired[k] = below, fired[bands + k] = above;
            loudness += (level - level_of(0)) / bands;
        }
    }

    const int samples;  // of a step
    double loudness = 0;  // of the last step: the bands' mean, in dB above silence

private:
    struct Band {
        std::complex<double> pole, y[order] = {};
        double last = 0;
        double power(const float* sound, int samples) {
            const double gain = 1 - std::abs(pole);
            double sum = 0;
            for (int n = 0; n < samples; ++n) {
                std::complex<double> x = sound[n];
                for (auto& stage : y) stage = x = x * gain + times(pole, stage);
                sum += std::norm(x);
            }
            return sum / samples;
        }
        static std::complex<double> times(std::complex<double> a, std::complex<double> b) {  // without checks for infinity
            return {a.real() * b.real() - a.imag() * b.imag(), a.real() * b.imag() + a.imag() * b.real()};
        }
    };

    static double level_of(double power) { return 10 * std::log10(power + 1e-8); }

    Band band[bands];
};

// Runs a network of 64 inputs, whose last layer gives potentials, while a word is said.
class Listener {
public:
    static constexpr int nothing = -1;

    explicit Listener(int rate) : cochlea(rate) {}
    ~Listener() { pk_stream_close(&stream); }
    Listener(const Listener&) = delete;
    Listener& operator=(const Listener&) = delete;

    pk_status open(const pk_network* network, pk_error* error) {
        pk_info about;
        if (const pk_status failed = pk_network_info(network, &about, error)) return failed;
        if (about.C * about.H * about.W != Cochlea::spikes || !about.takes_spikes || about.fires) {
            *error = pk_error{PK_BAD_ARGUMENT, "the network must take 64 spikes a step and give potentials"};
            return PK_BAD_ARGUMENT;
        }
        last_layer = about.layers - 1, classes = (size_t)about.out_C;
        potentials.resize(classes), sums.resize(classes), said.resize(classes);
        return pk_stream_open(network, 1, 1, &stream, error);
    }

    // Hears 10 ms, cochlea.samples values from -1 to 1. word: the class of a word that has ended, or `nothing`.
    pk_status step(const float* sound, int* word, pk_error* error) {
        *word = nothing;
        std::rotate(heard.begin(), heard.begin() + Cochlea::spikes, heard.end());
        cochlea.step(sound, now());
        const double above = cochlea.loudness - quiet;
        quiet += above * (above < 0 ? 0.1 : 0.002);
        const bool loud = above > loud_from;
        if (!speaking && !loud) return PK_OK;
        if (const pk_status failed = speaking ? advance(now(), error) : begin(error)) return failed;
        since = loud ? 0 : since + 1;
        if (since <= after) said = sums;
        if (since < pause) return PK_OK;
        speaking = false;
        if (steps - pause >= shortest) *word = (int)(std::max_element(said.begin(), said.end()) - said.begin());
        return PK_OK;
    }

    uint8_t* now() { return heard.data() + heard.size() - Cochlea::spikes; }  // the last step's spikes

    Cochlea cochlea;
    size_t classes = 0;
    bool speaking = false;
    std::vector<float> sums;  // of the potentials since the word began

private:
    static constexpr double loud_from = 6;  // dB above what is quiet
    // Steps: heard of what came before a word was loud; after it; without which it has not ended; that a word has at least.
    static constexpr int before = 10, after = 10, pause = 25, shortest = 15;

    pk_status begin(pk_error* error) {
        speaking = true, steps = since = 0;
        std::fill(sums.begin(), sums.end(), 0.0f);
        if (const pk_status failed = pk_reset(stream, error)) return failed;
        for (int k = 0; k < before; ++k)
            if (const pk_status failed = advance(heard.data() + k * Cochlea::spikes, error)) return failed;
        return PK_OK;
    }

    pk_status advance(const uint8_t* fired, pk_error* error) {
        uint8_t packed[Cochlea::spikes / 8];
        pk_status failed = pk_pack_spikes(fired, 1, 1, Cochlea::spikes, 1, 1, packed, sizeof packed, error);
        if (!failed) failed = pk_advance(stream, PK_SPIKES, packed, sizeof packed, 1, error);
        if (!failed) failed = pk_layer_values(stream, last_layer, potentials.data(), classes, error);
        if (failed) return failed;
        for (size_t k = 0; k < classes; ++k) sums[k] += potentials[k];
        ++steps;
        return PK_OK;
    }

    pk_stream* stream = nullptr;
    int64_t last_layer = 0;
    std::vector<uint8_t> heard = std::vector<uint8_t>(before * Cochlea::spikes);  // of the last steps
    std::vector<float> potentials, said;
    double quiet = 0;  // loudness between words
    int steps = 0, since = 0;  // of the word; since it was loud
};
