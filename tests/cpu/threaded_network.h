// The networks that engine_threads.cpp runs, of random weights whose sums are exact.
#pragma once
#include "engine/engine.h"
#include "models.h"
#include "random_values.h"

#include <cmath>

namespace {

bool is_sigma_delta = false;  // whether the neurons are sigma-delta
bool is_recurrent = false;  // whether the hidden layer is recurrent

// 2 x 8 x 8, a convolution, maxima, a convolution, a layer of classes.
constexpr int64_t C = 2, H = 8, W = 8, hidden = 24, classes = 10, most_N = 8, most_T = 32;
constexpr int64_t recurrent = 416;  // neurons, whose threads share the steps even of one sample, in 13 blocks
constexpr int64_t enough = 90;  // spikes of a sample, more than 8 steps give
int64_t frame_bytes() { return is_sigma_delta ? classes * (int64_t)sizeof(float) : (classes + 7) / 8; }

// What the operations of the network point to, until a plan has copied it.
struct Network {
    std::vector<std::vector<float>> kept;
    std::vector<engine::Window> windows;
    std::vector<engine::Operation> operations;

    const float* keep(std::vector<float> values) { return kept.emplace_back(std::move(values)).data(); }
    void add(int64_t kind, engine::Window window, int64_t C, int64_t H, int64_t W) {
        windows.push_back(window);
        engine::Operation operation{};
        operation.kind = kind, operation.reads = &windows.back(), operation.count = 1;
        operation.C = C, operation.H = H, operation.W = W;
        operations.push_back(operation);
    }
    void add_neurons(Random& random, engine::Window window, int64_t inputs, int64_t C, int64_t H, int64_t W) {
        window.slot = (int64_t)operations.size();
        window.weight = keep(random.sixteenths(C * inputs, -4, 5));
        add(engine::Fire, window, C, H, W);
        engine::Operation& operation = operations.back();
        std::vector<float> thresholds(C);
        for (float& threshold : thresholds) threshold = (float)random.draw(16, 48) / 16;
        operation.has_neurons = true, operation.neurons.model = models::HardReset;
        operation.neurons.channels = keep(std::move(thresholds));
        operation.neurons.bias = keep(std::vector<float>(C)), operation.neurons.start = keep(std::vector<float>(C));
    }

    // Of C channels, filled up to multiples of 16 in the rows of their weights; what arrives is passed on where they never fire.
    void add_senders(Random& random, engine::Window window, int64_t inputs, int64_t C, int64_t H, int64_t W, bool fires) {
        window.slot = (int64_t)operations.size();
        window.weight = keep(random.sixteenths((C + 15) / 16 * 16 * inputs, -4, 5));
        window.bias = keep(random.sixteenths(C, -4, 5));
        add(engine::Send, window, C, H, W);
        engine::Operation& operation = operations.back();
        operation.real = !fires;
        if (fires) fire(operation);
    }
    void fire(engine::Operation& operation) {
        operation.has_senders = true, operation.senders.exponents = 6;
        operation.senders.limit = keep(std::vector<float>(operation.C, INFINITY));
    }
    void add_changes(Random& random, const engine::Window& window, const engine::Window& all, engine::Window pool) {
        add(engine::Changes, all, ::C, ::H, ::W);
        operations.back().real = 1;
        add_senders(random, window, ::C * 9, hidden, ::H, ::W, false);
        pool.slot = 2;
        add(engine::SendMaxima, pool, hidden, ::H / 2, ::W / 2);
        fire(operations.back());
        add_senders(random, window, hidden * 9, hidden, ::H / 2, ::W / 2, true);
        engine::Window flat = all;
        flat.slot = 4;
        add(engine::Flatten, flat, hidden * ::H / 2 * ::W / 2, 1, 1);
        add_senders(random, all, hidden * ::H / 2 * ::W / 2, classes, 1, 1, false);
        flat.slot = 6;
        add(engine::Sum, flat, classes, 1, 1);
        operations.back().real = 1, operations.back().scale = keep(std::vector<float>(classes, 1));
    }

    // Neurons that leak, which give the current of the step, and recurrent ones on these.
    void add_recurrent(Random& random, const engine::Window& all) {
        engine::Window flat = all;
        add(engine::Flatten, flat, ::C * ::H * ::W, 1, 1);
        add_neurons(random, all, ::C * ::H * ::W, recurrent, 1, 1);
        engine::Operation& sums = operations.back();
        std::vector<float> channels(2 * recurrent);  // thresholds and decays
        for (int64_t c = 0; c < recurrent; c++) channels[c] = INFINITY;
        sums.real = true, sums.neurons.fires = false, sums.neurons.model = models::LeakyHardReset;
        sums.neurons.channels = keep(std::move(channels));
        engine::Window currents = all;
        currents.slot = 2;
        add(engine::Recur, currents, recurrent, 1, 1);
        engine::Operation& neurons = operations.back();
        std::vector<float> thresholds(recurrent);
        for (float& threshold : thresholds) threshold = (float)random.draw(64, 256) / 16;
        neurons.has_neurons = true, neurons.neurons.model = models::SoftReset;
        neurons.neurons.channels = keep(std::move(thresholds));
        neurons.neurons.bias = keep(std::vector<float>(recurrent)),
        neurons.neurons.start = keep(std::vector<float>(2 * recurrent));
        neurons.recurrent = keep(random.sixteenths(recurrent * recurrent, -4, 4)), neurons.recurrent_full = true;
        add_neurons(random, all, recurrent, classes, 1, 1);
    }

    explicit Network(Random& random) {
        windows.reserve(8);
        const engine::Window window{0, 3, 3, 1, 1, 1, 1}, all{};
        if (is_recurrent) {
            add_recurrent(random, all);
            return;
        }
        const engine::Window pool{1, 2, 2, 2, 2};
        if (is_sigma_delta) {
            add_changes(random, window, all, pool);
            return;
        }
        add_neurons(random, window, C * 9, hidden, H, W);
        add(engine::MaxPool, pool, hidden, H / 2, W / 2);
        add_neurons(random, window, hidden * 9, hidden, H / 2, W / 2);
        engine::Window flat = all;
        flat.slot = 3;
        add(engine::Flatten, flat, hidden * H / 2 * W / 2, 1, 1);
        add_neurons(random, all, hidden * H / 2 * W / 2, classes, 1, 1);
    }
};

}  // namespace
