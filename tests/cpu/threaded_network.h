// The network that engine_threads.cpp runs, of random weights whose sums are exact.
#pragma once
#include "engine/engine.h"
#include "models.h"
#include "random_values.h"

#include <cmath>

namespace {

bool changes = false;  // whether the neurons are sigma-delta

// 2 x 8 x 8, a convolution, maxima, a convolution, a layer of classes.
constexpr int64_t C = 2, H = 8, W = 8, hidden = 24, classes = 10, most_N = 8, most_T = 32;
constexpr int64_t enough = 90;  // spikes of a sample, more than 8 steps give
int64_t frame_bytes() { return changes ? classes * (int64_t)sizeof(float) : (classes + 7) / 8; }

// What the operations of the network point to, until a plan has copied it.
struct Network {
    std::vector<std::vector<float>> kept;
    std::vector<engine::Term> terms;
    std::vector<engine::Operation> operations;

    const float* keep(std::vector<float> values) { return kept.emplace_back(std::move(values)).data(); }
    void add(int64_t kind, engine::Term term, int64_t C, int64_t H, int64_t W) {
        terms.push_back(term);
        engine::Operation operation{};
        operation.kind = kind, operation.terms = &terms.back(), operation.count = 1;
        operation.C = C, operation.H = H, operation.W = W;
        operations.push_back(operation);
    }
    void add_neurons(Random& random, engine::Term term, int64_t inputs, int64_t C, int64_t H, int64_t W) {
        term.slot = (int64_t)operations.size();
        term.weight = keep(random.sixteenths(C * inputs, -4, 5));
        add(engine::Fire, term, C, H, W);
        engine::Operation& operation = operations.back();
        std::vector<float> thresholds(ceil_32(C), INFINITY);
        for (int64_t c = 0; c < C; c++) thresholds[c] = (float)random.draw(16, 48) / 16;
        operation.neuron.channels = keep(std::move(thresholds)), operation.neuron.stride = ceil_32(C);
        operation.neuron.model = models::HardReset;
        operation.bias = keep(std::vector<float>(ceil_32(C))), operation.start = keep(std::vector<float>(C));
    }
    static int64_t ceil_32(int64_t C) { return (C + 31) / 32 * 32; }

    // Of C channels, filled up to multiples of 16 in the rows of their weights; what arrives is passed on where they never fire.
    void add_senders(Random& random, engine::Term term, int64_t inputs, int64_t C, int64_t H, int64_t W, bool fires) {
        term.slot = (int64_t)operations.size();
        term.weight = keep(random.sixteenths((C + 15) / 16 * 16 * inputs, -4, 5));
        term.bias = keep(random.sixteenths(C, -4, 5));
        add(engine::Send, term, C, H, W);
        engine::Operation& operation = operations.back();
        operation.real = !fires, operation.exponents = 6;
        operation.limit = keep(std::vector<float>(C, INFINITY));
    }
    void add_changes(Random& random, const engine::Term& window, const engine::Term& all, engine::Term pool) {
        add(engine::Changes, all, ::C, ::H, ::W);
        operations.back().real = 1;
        add_senders(random, window, ::C * 9, hidden, ::H, ::W, false);
        pool.slot = 2;
        add(engine::SendMaxima, pool, hidden, ::H / 2, ::W / 2);
        operations.back().exponents = 6, operations.back().limit = keep(std::vector<float>(hidden, INFINITY));
        add_senders(random, window, hidden * 9, hidden, ::H / 2, ::W / 2, true);
        engine::Term flat = all;
        flat.slot = 4;
        add(engine::Flatten, flat, hidden * ::H / 2 * ::W / 2, 1, 1);
        add_senders(random, all, hidden * ::H / 2 * ::W / 2, classes, 1, 1, false);
        flat.slot = 6;
        add(engine::Sum, flat, classes, 1, 1);
        operations.back().real = 1, operations.back().scale = keep(std::vector<float>(classes, 1));
    }

    explicit Network(Random& random) {
        terms.reserve(8);
        const engine::Term window{0, nullptr, 3, 3, 1, 1, 1, 1, 1, 1, 1, 0, nullptr};
        const engine::Term all{0, nullptr, 1, 1, 1, 1, 0, 0, 1, 1, 1, 0, nullptr};
        engine::Term pool{1, nullptr, 2, 2, 2, 2, 0, 0, 1, 1, 1, 0, nullptr};
        if (changes) {
            add_changes(random, window, all, pool);
            return;
        }
        add_neurons(random, window, C * 9, hidden, H, W);
        add(engine::MaxPool, pool, hidden, H / 2, W / 2);
        add_neurons(random, window, hidden * 9, hidden, H / 2, W / 2);
        engine::Term flat = all;
        flat.slot = 3;
        add(engine::Flatten, flat, hidden * H / 2 * W / 2, 1, 1);
        add_neurons(random, all, hidden * H / 2 * W / 2, classes, 1, 1);
    }
};

}  // namespace
