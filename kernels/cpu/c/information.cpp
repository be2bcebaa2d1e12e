// What a network is made of.
#include <cstring>

#include "network.h"

namespace proxykernels {

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
