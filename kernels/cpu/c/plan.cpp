#include "plan.h"

#include <algorithm>

namespace proxykernels {

bool is_plain(const Window& w) {
    const bool moves =
        w.stride_h != 1 || w.stride_w != 1 || w.padding_h || w.padding_w || w.dilation_h != 1 || w.dilation_w != 1;
    return taps_of(w) == 1 && !moves && w.groups == 1 && !w.weight && !w.bias && !w.averages;
}

bool Operation::forgets() const {
    if (neurons.fires || (neurons.model != models::LeakyHardReset && neurons.model != models::LeakySoftReset)) return false;
    const float rest = neurons.scalars[model_of(neurons).scalars - 1];
    const float* const decay = neurons.channels + C;
    return rest == 0 && std::all_of(decay, decay + C, [](float value) { return value == 0; });
}

bool Plan::is_moderate() const {
    __int128 values = 0, made_of = image.size();
    for (const Operation& op : operations) {
        const Image from = source(op.windows[0]);
        const bool one_tap = op.has_neurons || op.kind == engine::Send || op.adaptive ||
                             (engine::passes_on(op.kind) && op.kind != engine::MaxPool);
        const int64_t taps = one_tap ? 1 : taps_of(op.windows[0]);
        values += (__int128)op.image().size() * (op.heads ? op.C / op.heads : std::min(taps, from.P()));
        made_of += (int64_t)op.windows.size();
        for (const Window& window : op.windows) made_of += weights(op, window);
        made_of += op.recurrent_size() + (op.pixels ? op.image().P() : 0) + (op.channels ? op.C : 0);
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
    return operations[k].has_neurons && has_logits(operations[k].neurons) ? k : -1;
}

int64_t Plan::states(const Operation& op) const {
    if (op.delays) return std::max<int64_t>(1, *std::max_element(op.delays, op.delays + op.C));
    if (op.has_neurons) return model_of(op.neurons).states + (op.kind == engine::Recur);
    return op.kind == engine::MaxRatePool || op.kind == engine::RunningMaxPool;
}

int64_t Plan::state_size(const Operation& op) const {
    if (is_sigma_delta()) {
        if (op.ends()) return op.image().size();
        if (op.kind == engine::SendMaxima) return source(op.windows[0]).P() * op.C + op.image().size();
        if (op.kind == engine::Function) return 2 * op.image().size();
        if (op.kind == engine::Multiply) return source(op.windows[0]).size() + source(op.windows[1]).size();
        return op.has_senders ? 2 * op.image().size() : 0;
    }
    return states(op) * (op.has_neurons ? op.image() : source(op.windows[0])).size();
}

int64_t Plan::weights(const Operation& op, const Window& window) const {
    return window.weight ? op.C * (source(window).C / window.groups) * taps_of(window) : 0;
}

int64_t Plan::parameters(const Operation& op) const {
    int64_t sum = op.recurrent_size();
    for (const Window& window : op.windows) sum += weights(op, window) + (window.bias ? op.C : 0);
    return op.has_neurons ? sum + op.C * (1 + model_of(op.neurons).channels) : sum;
}

std::vector<Slot> Plan::slots(Slot given) const {
    std::vector<Slot> slots = {given};
    for (const Operation& op : operations) {
        bool held = true, real = false;
        for (const Window& window : op.windows) held &= slots[window.slot].held, real |= slots[window.slot].real;
        const bool alike = op.has_neurons ? op.forgets() : !engine::changes_in_time(op.kind);
        slots.push_back({engine::passes_on(op.kind) && !is_sigma_delta() ? real : op.real, held && alike});
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
            const int64_t inputs = window.averages ? window.averages : weights(op, window) / op.C;
            sum += (slot.held ? samples : sample_steps) * op.image().size() * inputs;
        }
        products.push_back(sum);
    }
    return products;
}

}  // namespace proxykernels
