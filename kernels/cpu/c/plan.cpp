#include "plan.h"

#include <algorithm>

namespace proxykernels {

bool Population::forgets() const {
    if (fires || (model != models::LeakyHardReset && model != models::LeakySoftReset)) return false;
    const float rest = scalars[about().scalars - 1];
    const float* const decay = channels->floats() + channels->shape[1];
    return rest == 0 && std::all_of(decay, decay + channels->shape[1], [](float value) { return value == 0; });
}

bool Plan::is_moderate() const {
    __int128 values = 0, made_of = image.size();
    for (const Operation& op : operations) {
        const Image from = source(op.windows[0]);
        const bool one_tap =
            op.has_neurons || op.kind == engine::Send || op.adaptive || (op.passes_on() && op.kind != engine::MaxPool);
        const int64_t taps = one_tap ? 1 : op.windows[0].taps();
        values += (__int128)op.image.size() * std::min(taps, from.P());
        made_of += (int64_t)op.windows.size();
        for (const Window& window : op.windows) made_of += window.weight ? window.weight->size : 0;
        for (const Tensor* tensor : {op.recurrent, op.pixels, op.channels}) made_of += tensor ? tensor->size : 0;
    }
    return values <= most_growth * made_of;
}

bool Plan::takes_any() const {
    for (const Operation& op : operations)
        for (const Window& window : op.windows)
            if (!window.slot && op.kind != engine::Fire) return false;
    return true;
}

int64_t Plan::with_logits() const {
    int64_t k = count() - 1;
    while (k > 0 && (operations[k].kind == engine::Flatten || operations[k].kind == engine::Unflatten)) k--;
    return operations[k].has_neurons && operations[k].neurons.has_logits() ? k : -1;
}

int64_t Plan::states(const Operation& op) const {
    if (op.delays) return std::max<int64_t>(1, *std::max_element(op.delays->whole(), op.delays->whole() + op.delays->size));
    if (op.has_neurons) return op.neurons.about().states + (op.kind == engine::Recur);
    return op.kind == engine::MaxRatePool || op.kind == engine::RunningMaxPool;
}

int64_t Plan::state_size(const Operation& op) const {
    if (changes()) {
        if (op.ends()) return op.image.size();
        if (op.kind == engine::SendMaxima) return source(op.windows[0]).P() * op.image.C + op.image.size();
        return op.has_senders ? 2 * op.image.size() : 0;
    }
    return states(op) * (op.has_neurons ? op.image : source(op.windows[0])).size();
}

int64_t Plan::parameters(const Operation& op) const {
    int64_t sum = 0;
    for (const Window& window : op.windows)
        sum += (window.weight ? window.weight->size : 0) + (window.bias ? window.bias->size : 0);
    if (op.recurrent) sum += op.recurrent->size;
    return op.has_neurons ? sum + op.neurons.bias->size + op.neurons.channels->size : sum;
}

std::vector<Slot> Plan::slots(Slot given) const {
    std::vector<Slot> slots = {given};
    for (const Operation& op : operations) {
        bool held = true, real = false;
        for (const Window& window : op.windows) held &= slots[window.slot].held, real |= slots[window.slot].real;
        const bool alike = op.has_neurons ? op.neurons.forgets() : op.kind != engine::MaxRatePool && op.kind != engine::Delay;
        slots.push_back({op.passes_on() && !changes() ? real : op.real, held && alike});
    }
    return slots;
}

int64_t Plan::additions(int64_t operation, int64_t added) const {
    for (const Window& window : operations[operation].windows)
        if (window.averages) return 0;
    return added;
}

std::vector<int64_t> Plan::products(Slot given, int64_t samples, int64_t sample_steps) const {
    const std::vector<Slot> in = slots(given);
    std::vector<int64_t> products;
    for (const Operation& op : operations) {
        int64_t sum = 0;
        for (const Window& window : op.windows) {
            const Slot& slot = in[window.slot];
            if (!window.weight || !(slot.real || window.averages)) continue;
            const int64_t inputs = window.averages ? window.averages : window.weight->size / window.weight->shape[0];
            sum += (slot.held ? samples : sample_steps) * op.image.size() * inputs;
        }
        products.push_back(sum);
    }
    return products;
}

}  // namespace proxykernels
