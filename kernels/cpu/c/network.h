// What a pk_network is.
#pragma once
#include <atomic>

#include "plan.h"

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
