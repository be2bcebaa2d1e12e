// A network as its file describes it: proxykernels/plan/plan.py, in C++. Operations stand in the order in which they run, and
// the k-th gives what lies in slot k + 1; slot 0 is the input.
#pragma once
#include <limits>

#include "../src/engine/engine.h"
#include "../src/models.h"
#include "tensors.h"

namespace proxykernels {

struct Image {
    int64_t C, H, W;
    int64_t P() const { return H * W; }
    int64_t size() const { return C * H * W; }
    bool operator==(const Image& o) const { return C == o.C && H == o.H && W == o.W; }
};

struct Model {
    const char* name;
    int64_t states, channels, scalars;
};
#define MODEL(name, states, channels, scalars) {#name, states, channels, scalars},
constexpr Model neuron_models[] = {PK_MODELS(MODEL)};
#undef MODEL
constexpr int64_t model_count = sizeof neuron_models / sizeof *neuron_models;

#define KIND(name, text) text,
constexpr const char* kind_names[] = {PK_KINDS(KIND)};  // in a file
#undef KIND
constexpr int64_t kind_count = sizeof kind_names / sizeof *kind_names;

struct Window {
    int64_t slot = 0;
    int64_t kernel[2] = {1, 1}, stride[2] = {1, 1}, padding[2] = {0, 0}, dilation[2] = {1, 1};
    int64_t groups = 1;
    int64_t averages = 0;  // of spikes, part of the weight: what a neuron reads, and multiplies where operations are counted
    const Tensor *weight = nullptr, *bias = nullptr;

    int64_t taps() const { return kernel[0] * kernel[1]; }
    bool is_plain() const {  // of one pixel, which is read as it is
        const auto are = [](const int64_t* pair, int64_t value) { return pair[0] == value && pair[1] == value; };
        return are(kernel, 1) && are(stride, 1) && are(padding, 0) && are(dilation, 1) && groups == 1 && !weight && !bias &&
               !averages;
    }
};

struct Population {
    int64_t model = 0;
    float scalars[4] = {};
    bool fires = true, rectifies = false;
    float limit = std::numeric_limits<float>::infinity();
    const Tensor *channels = nullptr, *bias = nullptr, *start = nullptr, *scale = nullptr;  // scale: or null

    const Model& about() const { return neuron_models[model]; }
    bool has_logits() const { return scale && model == models::SoftReset; }
    // Whether their outputs are just the currents of each step.
    bool forgets() const;
};

struct Senders {
    int64_t exponents = 1;
    bool rectifies = true;
    const Tensor* limit = nullptr;
};

struct Operation {
    int64_t kind = 0;
    std::string name;
    std::vector<Window> windows;
    std::vector<int64_t> shape;
    Image image{};
    bool real = false, has_neurons = false, has_senders = false, count_padding = true, adaptive = false;
    int64_t divisor = 0;
    Population neurons;
    Senders senders;
    const Tensor *pixels = nullptr, *channels = nullptr, *recurrent = nullptr, *scale = nullptr, *delays = nullptr;

    bool passes_on() const {
        return kind == engine::MaxPool || kind == engine::Flatten || kind == engine::Unflatten || kind == engine::Move ||
               kind == engine::Delay;
    }
    bool sends() const { return kind == engine::Send || kind == engine::SendMaxima; }
    bool ends() const { return kind == engine::Changes || kind == engine::Sum; }
    bool adds() const { return kind == engine::Fire || kind == engine::Send; }
};

// What is in a slot while a network runs.
struct Slot {
    bool real, held;
};

struct Plan {
    std::vector<int64_t> shape;
    Image image{};
    bool real = false;
    std::string precision;  // "": weights are as they were
    std::vector<Operation> operations;

    int64_t count() const { return (int64_t)operations.size(); }
    const Operation& last() const { return operations.back(); }
    bool changes() const { return !operations.empty() && operations[0].kind == engine::Changes; }
    Image source(const Window& window) const { return window.slot ? operations[window.slot - 1].image : image; }
    bool is_real(const Window& window) const { return window.slot ? operations[window.slot - 1].real : real; }
    bool is_moderate() const;   // whether a step works on no more values than most_growth allows
    bool takes_any() const;     // whether the input may be values and spikes alike
    int64_t with_logits() const;  // the operation that logits are read from; -1: there is none
    int64_t state_size(const Operation& operation) const;  // values of a sample
    int64_t states(const Operation& operation) const;      // of a neuron, or of an input of a pooling
    int64_t parameters(const Operation& operation) const;
    std::vector<Slot> slots(Slot given) const;
    // The additions of a weight for a spike in an operation, from the number `added` that the engine counted.
    int64_t additions(int64_t operation, int64_t added) const;
    // The multiplications of a real value by a weight in each operation; held values count once per sample.
    std::vector<int64_t> products(Slot given, int64_t samples, int64_t sample_steps) const;
};

static inline Image image_of(const std::vector<int64_t>& shape) {
    if (shape.size() == 3) return {shape[0], shape[1], shape[2]};
    return {shape[0], 1, shape.size() == 2 ? shape[1] : 1};
}

}  // namespace proxykernels
