// What a pk_stream is.
#pragma once
#include <memory>

#include "../src/work.h"
#include "plan.h"

namespace proxykernels {

// What a layer gave in the last call, as the engine writes it.
struct Given {
    bool wanted = false;  // by the caller; the last layer always is
    bool is_there = false, real = false;
    PK_TARGET::Grown<uint8_t> spikes;  // [N, T, P, ceil(C / 8)], or codes [N, T, P, C]
    PK_TARGET::Grown<float> values;    // [T, N, P, C]
};

}  // namespace proxykernels

struct pk_stream {
    static constexpr uint64_t alive = 0x6d61657274736b70;
    uint64_t mark = alive;
    std::atomic<bool> busy{false};
    const pk_network* network;
    engine::Session* session = nullptr;
    const int64_t N, threads;
    bool is_fresh = true;  // at rest: the session's states mean nothing
    int64_t steps = 0;                        // since all samples were at rest
    std::vector<int64_t> began;               // [N]: after how many of these a sample began again
    int64_t last_T = 0;                       // steps of the last call
    std::vector<int32_t> counts;              // [N, C, P]; empty if the last layer gives values
    std::vector<int64_t> tally, products;     // [layers][tallies], [layers]
    std::unique_ptr<proxykernels::Given[]> given;  // [layers]
    std::vector<float> potentials, start;     // [N, P, C] of the layer that logits are read from; what logits count from
    PK_TARGET::Grown<float> converted;         // an input of bytes

    pk_stream(const pk_network& network, int64_t N, int64_t threads);
    ~pk_stream();
    const proxykernels::Plan& plan() const { return network->plan; }
    int64_t steps_of(int64_t sample) const { return steps - began[sample]; }
    void rest();  // back to rest
};

namespace proxykernels {

void put_rest(const pk_stream& stream, int64_t layer, float* state);  // the state of a layer at rest
bool check_size(const char* name, size_t size, __int128 wanted, Failure& failure);
bool check_layer(const pk_stream& stream, int64_t layer, Failure& failure);

// Runs work(stream, failure), with exclusive use of the stream.
template <class Work>
static pk_status use(pk_stream* stream, const void* needed, pk_error* error, Work work) {
    return answer(error, [&](Failure& failure) {
        if (!stream || stream->mark != pk_stream::alive)
            return failure.set(PK_BAD_ARGUMENT, "stream is NULL, was closed, or is something else");
        if (!needed) return failure.set(PK_BAD_ARGUMENT, "what is read or written must not be NULL");
        if (stream->busy.exchange(true))
            return failure.set(PK_BUSY, "another thread is using the stream: open one for each thread");
        struct Turn {
            pk_stream* stream;
            ~Turn() { stream->busy.store(false); }
        } turn{stream};
        return work(*stream, failure);
    });
}

}  // namespace proxykernels
