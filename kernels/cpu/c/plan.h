// A network as its file describes it: proxykernels/plan/plan.py, in C++. Operations stand in the order in which they run, and
// the k-th gives what lies in slot k + 1; slot 0 is the input.
#pragma once
#include <atomic>
#include <set>

#include "../src/engine/engine.h"
#include "../src/models.h"
#include "json.h"
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
#define COUNT(...) +1
constexpr Model neuron_models[] = {PK_MODELS(MODEL) PK_COUNTING_MODELS(MODEL){"CurrentSums", 2, 1, 0}};
constexpr int64_t binary_models = 0 PK_MODELS(COUNT);  // their neurons fire once at most in a step
#undef COUNT
#undef MODEL
constexpr int64_t model_count = models::CurrentSums;  // that networks have

#define KIND(name, text) text,
constexpr const char* kind_names[] = {PK_KINDS(KIND)};  // in a file
#undef KIND
constexpr int64_t kind_count = sizeof kind_names / sizeof *kind_names;

using engine::Population;
using engine::Senders;
using engine::Window;

static inline int64_t taps_of(const Window& w) { return w.kernel_h * w.kernel_w; }
bool is_plain(const Window& window);  // of one pixel, which is read as it is

static inline const Model& model_of(const Population& neurons) { return neuron_models[neurons.model]; }
static inline bool counts(const Population& neurons) { return binary_models <= neurons.model && neurons.model < model_count; }
static inline bool gives_values(const Population& neurons) { return !neurons.fires || counts(neurons); }
static inline bool has_logits(const Population& neurons) { return neurons.scale && neurons.model == models::SoftReset; }

// An operation by its name, with the windows that it reads.
struct Operation : engine::Operation {
    std::string name;
    std::vector<int64_t> shape;
    std::vector<Window> windows;

    Image image() const { return {C, H, W}; }
    bool forgets() const;  // whether the outputs of its neurons are just the currents of each step
    int64_t recurrent_size() const { return recurrent ? recurrent_full ? C * C : C : 0; }
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
    // Whether it is one layer, with what engine::Input says of it.
    bool is_layer = false, is_periodic = false, is_long = false;
    std::vector<Operation> operations;

    int64_t count() const { return (int64_t)operations.size(); }
    const Operation& last() const { return operations.back(); }
    bool is_sigma_delta() const { return !operations.empty() && operations[0].kind == engine::Changes; }
    Image source(const Window& window) const { return window.slot ? operations[window.slot - 1].image() : image; }
    bool is_real(const Window& window) const { return window.slot ? operations[window.slot - 1].real : real; }
    bool is_moderate() const;   // whether a step works on no more values than most_growth allows
    bool takes_any() const;     // whether the input may be values and spikes alike
    int64_t with_logits() const;  // the operation that logits are read from; -1: there is none
    int64_t state_size(const Operation& operation) const;  // values of a sample
    int64_t states(const Operation& operation) const;      // of a neuron, or of an input of a pooling
    int64_t weights(const Operation& operation, const Window& window) const;  // their number; 0: there are none
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

// What a pk_network is.

struct pk_network {
    static constexpr uint64_t alive = 0x6b726f7774656e70;  // or it is another thing, or was closed
    uint64_t mark = alive;
    mutable std::atomic<int64_t> users{1};  // the caller, and streams
    proxykernels::Plan plan;                  // most of whose tensors are no longer there
    std::vector<std::vector<uint64_t>> kept;  // the others
    std::string target;
    const engine::Functions* functions = nullptr;
    engine::Plan* packed = nullptr;
    int64_t packed_bytes = 0;

    bool takes_values() const { return plan.real || plan.takes_any(); }
    ~pk_network();
};

extern "C" const engine::Functions* proxykernels_engine(const char* target);  // ../src/dispatch.cpp

namespace proxykernels {

// Packs the weights for an instruction set, whose functions these are; null, and a sentence: there is no memory.
engine::Plan* pack(const Plan& plan, const engine::Functions& functions, const char* target, Failure& failure);

static inline bool is_network(const pk_network* network) { return network && network->mark == pk_network::alive; }
void leave(const pk_network* network);  // the last user frees it

// What a layer gives, a pk_gives.
int32_t gives(const Plan& plan, int64_t layer);

}  // namespace proxykernels

// Reads a plan from its description and its tensors, and looks at all of it: the engine looks at nothing.
// proxykernels/plan/description.py writes it, and there is no other reader.

namespace proxykernels {

// A file may come from anywhere, and holds a whole network. What Python hands over may be a layer, and was made of modules whose
// values are its user's: neither its size nor the values of its weights are looked at.
enum class Source { File, Python };

// The plan refers to the container's tensors.
bool read_plan(const Container& container, Source source, Plan& plan, Failure& failure);

// read_parts.cpp: why a plan whose operations are sound by themselves is no network of sigma-delta neurons; null: it is one, or
// has none of it.
const char* problem_of_sigma_delta(const Plan& plan);
// Whether the rules of such networks, and not the others, are those of an operation that comes next.
bool is_of_sigma_delta(const Plan& plan, int64_t kind);

// What a file has, one operation after another. A function returns whether what it read is sound.
class PlanReader {
public:
    PlanReader(const Container& container, Source source, Plan& plan, Failure& failure)
        : container(container), is_file(source == Source::File), plan(plan), failure(failure) {}
    bool read(Json about);

private:
    bool damaged(const char* what) {
        return failure.set(PK_BAD_FILE, "the %s: %s", is_file ? "file cannot be loaded" : "plan cannot be made", what);
    }
    bool is_whole_network();
    bool is_finite(const Tensor& tensor) const { return !is_file || proxykernels::is_finite(tensor); }
    bool can_be_summed(const Tensor& tensor) const { return !is_file || proxykernels::can_be_summed(tensor); }
    bool shape_of(Json values, std::vector<int64_t>& shape);
    // Reads the fields that kernels/table.py lists, of an operation of a kind.
    bool fields(Json about, Window& to, int64_t kind = 0);
    bool fields(Json about, Population& to, int64_t kind = 0);
    bool fields(Json about, Senders& to, int64_t kind = 0);
    bool fields(Json about, engine::Operation& to, int64_t kind);
    bool whole(Json value, int64_t least, bool may_be_missing, int64_t& to);
    bool pair(Json values, int64_t least, int64_t& height, int64_t& width);
    bool truth(Json value, bool& to);
    bool limit(Json value, bool may_be_missing, float& to);
    bool numbers(Json name, bool may_be_missing, bool may_be_null, const float*& to);
    bool numbers(Json name, bool may_be_missing, bool may_be_null, const int64_t*& to);
    bool tensor(Json name, Type type, const Tensor*& to);
    const Tensor& tensor_of(Json name) const { return *container.find(name.text()); }  // of one that was read
    bool operation(Json about);
    bool gives_what_it_says(const Operation& op);
    bool window(Json about, const Operation& op, Window& to);
    bool windows(Json about, Operation& op);
    bool weights(const Window& window, Json weight, const Operation& op);
    bool spans(const Window& window, const Operation& op);
    bool neurons(Json about, Operation& op);
    bool channels_of_neurons(Json about, const Operation& op, const Population& neurons);
    bool recurrent(Json name, Operation& op);
    bool moves(Json about, const Operation& op);
    bool moved(Json name, int64_t there, int64_t here, bool same);
    bool delays(Json name, const Operation& op);
    bool function(Json parameters, Operation& op);
    bool senders(Json about, Operation& op);

    const Container& container;
    const bool is_file;
    Plan& plan;
    Failure& failure;
    std::set<const Tensor*> read_tensors;
};

}  // namespace proxykernels
