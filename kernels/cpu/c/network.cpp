#include "plan.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

// Containers of GCC 11 and later ask for it, and the libstdc++ of manylinux_2_28 does not have it.
#if defined(__GLIBCXX__) && defined(__cpp_exceptions)
namespace std {
__attribute__((weak)) void __throw_bad_array_new_length() { throw std::bad_array_new_length(); }
}  // namespace std
#endif

pk_network::~pk_network() {
    mark = 0;
    if (packed) functions->free_plan(packed);
}

namespace proxykernels {

void leave(const pk_network* network) {
    if (network->users.fetch_sub(1) == 1) delete network;
}

// The functions of an instruction set: kernels/cpu/compiled.py.
static bool choose(const char* wanted, pk_network& to, Failure& failure) {
    static constexpr const char* targets[] = {"amx", "avx512", "avx2", "portable"};  // fastest first
    const char* most = getenv("PROXYKERNELS_CPU");
    if (!most || !*most) most = targets[0];
    bool knows_most = false, knows_wanted = !wanted, counts = false;
    for (const char* target : targets) knows_most |= !strcmp(most, target), knows_wanted |= wanted && !strcmp(wanted, target);
    if (!knows_most)
        return failure.set(PK_BAD_ARGUMENT,
                           "the environment variable PROXYKERNELS_CPU must be amx, avx512, avx2 or portable, "
                           "got %.40s",
                           most);
    if (!knows_wanted)
        return failure.set(PK_BAD_ARGUMENT, "target must be amx, avx512, avx2, portable or NULL, got %.40s", wanted);
    for (const char* target : targets) {
        counts |= !strcmp(most, target);
        if (!counts || (wanted && strcmp(wanted, target))) continue;
        if ((to.functions = proxykernels_engine(target))) return to.target = target, true;
    }
    return failure.set(PK_NOT_HERE,
                       "the network cannot run %s here: this machine lacks it, or PROXYKERNELS_CPU or the build "
                       "leave it out",
                       wanted ? wanted : most);
}

static bool check_container(const pk_network& network, const Container& container, Failure& failure) {
    if (container.format != "proxykernels-engine")
        return failure.set(PK_BAD_FILE, "the file cannot be loaded: it is not an engine's; write one by Engine.save");
    if (container.version != "2" && container.version != "3")
        return failure.set(PK_BAD_FILE,
                           "the file cannot be loaded: its version is '%.40s', and this library reads '2' and '3': "
                           "compile the network again, and save that engine",
                           container.version.c_str());
    if (container.checksum != checksum(container, network.functions->fingerprint))
        return failure.set(PK_BAD_FILE, "the file cannot be loaded: it is damaged: its checksum differs");
    return true;
}

engine::Plan* pack(const Plan& plan, const engine::Functions& functions, const char* target, Failure& failure) {
    std::vector<engine::Operation> operations(plan.operations.begin(), plan.operations.end());
    for (size_t k = 0; k < operations.size(); k++) {
        const std::vector<Window>& windows = plan.operations[k].windows;
        operations[k].reads = windows.data(), operations[k].count = (int64_t)windows.size();
    }
    constexpr int64_t bits_of_layer = 24;  // rows are of integers if the weights have few bits
    const int64_t bits = plan.is_layer               ? (plan.real ? 0 : bits_of_layer)
                         : plan.precision == "int8"  ? 8
                         : plan.precision == "int16" ? 16
                                                     : 0;
    const engine::Input input{plan.image.C,     plan.image.H, plan.image.W, plan.is_layer,
                              plan.is_periodic, plan.is_long, plan.real};
    const engine::Description described{input, bits, operations.data(), plan.count()};
    engine::Plan* const packed = functions.make_plan(&described, !strcmp(target, "amx"));
    if (!packed) failure.set(PK_NO_MEMORY, "there is no memory to pack the weights; take a smaller network");
    return packed;
}

// Packs the weights. Of the file nothing but what is needed later is kept, as a copy.
static bool pack(pk_network& to, Failure& failure) {
    to.packed = pack(to.plan, *to.functions, to.target.c_str(), failure);
    if (!to.packed) return false;
    engine::Session* const session = to.functions->make_session(to.packed);
    engine::Sizes sizes{};
    to.functions->sizes(session, &sizes);
    to.functions->free_session(session);
    to.packed_bytes = sizes.weights;
    const auto keep = [&](auto*& numbers, int64_t count) {
        if (!numbers) return;
        to.kept.emplace_back((size_t)count * sizeof *numbers / 8 + 1);
        memcpy(to.kept.back().data(), numbers, (size_t)count * sizeof *numbers);
        numbers = (std::remove_reference_t<decltype(numbers)>)to.kept.back().data();
    };
    static constexpr float there = 0;  // later nobody reads more than whether there are some
    static constexpr int64_t place = 0;
    for (Operation& op : to.plan.operations) {
        Population& neurons = op.neurons;
        keep(neurons.channels, op.C * model_of(neurons).channels), keep(neurons.start, op.C * to.plan.states(op));
        keep(neurons.scale, neurons.scale_by_channel ? op.C : 1), keep(op.scale, op.C), keep(op.delays, op.C);
        for (Window& window : op.windows)
            for (const float** values : {&window.weight, &window.bias}) *values = *values ? &there : nullptr;
        for (const float** values : {&neurons.bias, &op.senders.limit, &op.recurrent}) *values = *values ? &there : nullptr;
        for (const int64_t** values : {&op.pixels, &op.channels}) *values = *values ? &place : nullptr;
    }
    return true;
}

// The network of a file's bytes, on a boundary of 8: all of it is checked, and nothing packed. The weights are
// those of the bytes and of the container.
static bool check(const uint8_t* bytes, size_t size, const char* target, Container& container, pk_network& to,
                  Failure& failure) {
    return choose(target, to, failure) && read_container(bytes, size, container, failure) &&
           check_container(to, container, failure) && take_units(container, failure) &&
           read_plan(container, Source::File, to.plan, failure);
}

static bool read(const uint8_t* bytes, size_t size, const char* target, pk_network** network, Failure& failure) {
    std::unique_ptr<pk_network> made(new pk_network);
    Container container;
    if (!check(bytes, size, target, container, *made, failure) || !pack(*made, failure)) return false;
    *network = made.release();
    return true;
}

// Calls use(bytes) on a boundary of 8: where they lie, or of a copy.
template <class Use>
static bool aligned(const void* bytes, size_t size, Use use) {
    if ((uintptr_t)bytes % 8 == 0) return use((const uint8_t*)bytes);
    std::vector<uint64_t> words(size / 8 + 1);
    memcpy(words.data(), bytes, size);
    return use((const uint8_t*)words.data());
}

struct File {
    FILE* const file;
    explicit File(const char* path) : file(fopen(path, "rb")) {}
    ~File() {
        if (file) fclose(file);
    }
    File(const File&) = delete;
};

// All of a file, on a boundary of 8 bytes.
static bool read_file(const char* path, std::vector<uint64_t>& words, size_t& size, Failure& failure) {
    const File opened(path);
    if (!opened.file) return failure.set(PK_NO_FILE, "there is no file %.300s, or it cannot be read", path);
    words.resize(1 << 13);
    size = 0;
    while (const size_t some = fread((char*)words.data() + size, 1, 8 * words.size() - size, opened.file)) {
        size += some;
        if (size == 8 * words.size()) words.resize(2 * words.size());
    }
    if (ferror(opened.file)) return failure.set(PK_NO_FILE, "the file %.300s cannot be read", path);
    return true;
}

int32_t gives(const Plan& plan, int64_t layer) {
    if (plan.is_sigma_delta()) return plan.operations[layer].real ? PK_GIVES_VALUES : PK_GIVES_SIGNED;
    const bool of_values = plan.slots({true, true})[layer + 1].real, of_spikes = plan.slots({false, false})[layer + 1].real;
    if (of_values != of_spikes) return PK_GIVES_EITHER;
    return of_values ? PK_GIVES_VALUES : PK_GIVES_SPIKES;
}

}  // namespace proxykernels

using namespace proxykernels;

extern "C" {

const char* pk_version(void) { return PK_VERSION; }

pk_status pk_network_open(const char* path, const char* target, pk_network** network, pk_error* error) {
    return answer(error, [&](Failure& failure) {
        if (!path || !network) return failure.set(PK_BAD_ARGUMENT, "%s must not be NULL", path ? "network" : "path");
        std::vector<uint64_t> words;
        size_t size = 0;
        return read_file(path, words, size, failure) && read((const uint8_t*)words.data(), size, target, network, failure);
    });
}

pk_status pk_network_read(const void* bytes, size_t size, const char* target, pk_network** network, pk_error* error) {
    return answer(error, [&](Failure& failure) {
        if (!bytes || !network) return failure.set(PK_BAD_ARGUMENT, "%s must not be NULL", bytes ? "network" : "bytes");
        return aligned(bytes, size, [&](const uint8_t* at) { return read(at, size, target, network, failure); });
    });
}

// For Python, which reads a file that is sound into a plan of its own (proxykernels/plan/file.py).
PK_API pk_status proxykernels_check_file(const void* bytes, size_t size, pk_error* error) {
    return answer(error, [&](Failure& failure) {
        pk_network network;
        Container container;
        return aligned(bytes, size, [&](const uint8_t* at) { return check(at, size, nullptr, container, network, failure); });
    });
}

void pk_network_close(pk_network** network) {
    if (!network || !is_network(*network)) return;
    leave(*network);
    *network = nullptr;
}

}  // extern "C"

namespace proxykernels {

// The door for Python: a plan as a file describes it, whose tensors lie where Python has them (proxykernels/plan/library.py).

static Container container_of(const char* description, const engine::Handed* handed, int64_t count) {
    Container to;
    to.plan = description;
    for (int64_t i = 0; i < count; i++) {
        Tensor tensor{handed[i].name, (Type)handed[i].type, {}, (const uint8_t*)handed[i].data, 1};
        for (int64_t k = 0; k < handed[i].dims; k++) {
            tensor.shape.push_back(handed[i].shape[k]);
            tensor.size *= handed[i].shape[k];
        }
        to.tensors.push_back(std::move(tensor));
    }
    std::sort(to.tensors.begin(), to.tensors.end(), [](const Tensor& a, const Tensor& b) { return a.name < b.name; });
    return to;
}

}  // namespace proxykernels

using namespace proxykernels;

// Makes a plan of the engine for an instruction set that this machine has. All is copied.
extern "C" PK_API pk_status proxykernels_make_plan(const char* description, const engine::Handed* tensors, int64_t count,
                                                   const char* target, engine::Plan** made, pk_error* error) {
    return answer(error, [&](Failure& failure) {
        const Container container = container_of(description, tensors, count);
        Plan plan;
        return read_plan(container, Source::Python, plan, failure) &&
               (*made = pack(plan, *proxykernels_engine(target), target, failure));
    });
}

namespace proxykernels {

// What a network is made of.

// As much of a text as there is room for, whole characters of UTF-8.
template <size_t room>
static void copy_text(char (&to)[room], const std::string& text) {
    size_t size = text.size() < room ? text.size() : room - 1;
    while (size < text.size() && size && ((unsigned char)text[size] & 0xc0) == 0x80) size--;
    memset(to, 0, room);
    memcpy(to, text.data(), size);
}

static bool check_layer(const pk_network* network, int64_t layer, const void* to, Failure& failure) {
    if (!is_network(network)) return failure.set(PK_BAD_ARGUMENT, "network is NULL, was closed, or is something else");
    if (!to) return failure.set(PK_BAD_ARGUMENT, "what is written must not be NULL");
    if (layer < 0 || layer >= network->plan.count())
        return failure.set(PK_BAD_ARGUMENT, "layer must be 0 to %lld, got %lld", (long long)network->plan.count() - 1,
                           (long long)layer);
    return true;
}

}  // namespace proxykernels

using namespace proxykernels;

extern "C" {

pk_status pk_network_info(const pk_network* network, pk_info* info, pk_error* error) {
    return answer(error, [&](Failure& failure) {
        if (!check_layer(network, 0, info, failure)) return false;
        const Plan& plan = network->plan;
        const Image in = plan.image, out = plan.last().image();
        pk_info to{};
        to.C = in.C, to.H = in.H, to.W = in.W, to.out_C = out.C, to.out_H = out.H, to.out_W = out.W;
        to.dims = (int64_t)plan.shape.size(), to.layers = plan.count(), to.packed_bytes = network->packed_bytes;
        for (const Operation& op : plan.operations) to.parameters += plan.parameters(op);
        to.takes_values = network->takes_values(), to.takes_spikes = !plan.is_sigma_delta(),
        to.is_sigma_delta = plan.is_sigma_delta();
        to.fires = !plan.last().real, to.has_logits = plan.is_sigma_delta() || plan.with_logits() >= 0;
        copy_text(to.precision, plan.precision.empty() ? "float32" : plan.precision);
        copy_text(to.target, network->target);
        *info = to;
        return true;
    });
}

pk_status pk_layer_info(const pk_network* network, int64_t layer, pk_layer* info, pk_error* error) {
    return answer(error, [&](Failure& failure) {
        if (!check_layer(network, layer, info, failure)) return false;
        const Plan& plan = network->plan;
        const Operation& op = plan.operations[layer];
        pk_layer to{};
        copy_text(to.name, op.name);
        copy_text(to.kind, kind_names[op.kind]);
        copy_text(to.neuron, op.has_neurons ? model_of(op.neurons).name : "");
        to.C = op.C, to.H = op.H, to.W = op.W, to.dims = (int64_t)op.shape.size();
        to.parameters = plan.parameters(op), to.state_size = plan.state_size(op);
        to.gives = gives(plan, layer), to.reads = (int32_t)op.windows.size();
        *info = to;
        return true;
    });
}

pk_status pk_layer_source(const pk_network* network, int64_t layer, int64_t input, int64_t* source, pk_error* error) {
    return answer(error, [&](Failure& failure) {
        if (!check_layer(network, layer, source, failure)) return false;
        const Operation& op = network->plan.operations[layer];
        if (input < 0 || input >= (int64_t)op.windows.size())
            return failure.set(PK_BAD_ARGUMENT, "input must be 0 to %d, got %lld", (int)op.windows.size() - 1,
                               (long long)input);
        *source = op.windows[input].slot - 1;
        return true;
    });
}

}  // extern "C"
