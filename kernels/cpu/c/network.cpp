#include "network.h"

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "checksum.h"
#include "operations.h"
#include "read_plan.h"

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

static bool check_container(const pk_network& network, Failure& failure) {
    const Container& container = network.container;
    if (container.format != "proxykernels-engine")
        return failure.set(PK_BAD_FILE, "the file cannot be loaded: it is not an engine's; write one by Engine.save");
    if (container.version != "2")
        return failure.set(PK_BAD_FILE,
                           "the file cannot be loaded: its version is '%.40s', and this library reads '2': "
                           "compile the network again, and save that engine",
                           container.version.c_str());
    if (container.checksum != checksum(container, network.functions->fingerprint))
        return failure.set(PK_BAD_FILE, "the file cannot be loaded: it is damaged: its checksum differs");
    return true;
}

engine::Plan* pack(const Plan& plan, const engine::Functions& functions, const char* target, Failure& failure) {
    const engine::Input input{plan.image.C, plan.image.H, plan.image.W};
    const Prepared prepared(plan, !strcmp(target, "amx"));
    engine::Plan* const packed = functions.make_plan(&input, prepared.operations().data(), plan.count());
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
    std::set<const Tensor*> needed;  // later: weights are not
    for (const Operation& op : to.plan.operations)
        for (const Tensor* tensor : {op.neurons.channels, op.neurons.start, op.neurons.scale, op.scale, op.delays})
            needed.insert(tensor);
    for (Tensor& tensor : to.container.tensors) {
        const uint8_t* const bytes = tensor.bytes;
        tensor.bytes = nullptr;
        if (!needed.count(&tensor)) continue;
        to.kept.emplace_back((size_t)tensor.size_in_bytes() / 8 + 1);
        memcpy(to.kept.back().data(), bytes, (size_t)tensor.size_in_bytes());
        tensor.bytes = (const uint8_t*)to.kept.back().data();
    }
    return true;
}

// The network of a file's bytes, on a boundary of 8: all of it is checked, and nothing packed.
static bool check(const uint8_t* bytes, size_t size, const char* target, pk_network& to, Failure& failure) {
    return choose(target, to, failure) && read_container(bytes, size, to.container, failure) && check_container(to, failure) &&
           read_plan(to.container, Source::File, to.plan, failure);
}

static bool read(const uint8_t* bytes, size_t size, const char* target, pk_network** network, Failure& failure) {
    std::unique_ptr<pk_network> made(new pk_network);
    if (!check(bytes, size, target, *made, failure) || !pack(*made, failure)) return false;
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
    if (plan.changes()) return plan.operations[layer].real ? PK_GIVES_VALUES : PK_GIVES_SIGNED;
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
        return aligned(bytes, size, [&](const uint8_t* at) { return check(at, size, nullptr, network, failure); });
    });
}

void pk_network_close(pk_network** network) {
    if (!network || !is_network(*network)) return;
    leave(*network);
    *network = nullptr;
}

}  // extern "C"
