// The windows of an operation: what it reads.
#include "read_plan.h"

namespace proxykernels {

#define NEED(condition, what) \
    if (!(condition)) return damaged(what)

bool PlanReader::windows(Json about, Operation& op) {
    const int64_t most = op.adds() ? most_windows : op.kind == engine::Move ? most_moved : 1;
    NEED(about.is_list() && 1 <= about.size() && about.size() <= most, "too many windows, or none");
    bool sound = true;
    about.each_item([&](Json item) {
        Window read;
        sound = sound && window(item, op, read);
        op.windows.push_back(read);
    });
    return sound;
}

bool PlanReader::window(Json about, const Operation& op, Window& to) {
    NEED(about.is_object(), "a window is no object");
    if (!fields(about, to)) return false;
    if (plan.is_layer && to.slot == 2) {  // behind its output: a shortcut, whose spikes come with each run
        NEED(op.kind == engine::Fire && is_plain(to), "a shortcut has a window");
        return true;
    }
    NEED(to.slot <= plan.count(), "an operation reads what comes later");
    NEED(!to.weight || can_be_summed(tensor_of(about["weight"])), "a weight holds NaN, infinite or too large values");
    const Tensor* const bias = to.bias ? &tensor_of(about["bias"]) : nullptr;
    NEED(!bias || (bias->has_shape({op.C}) && can_be_summed(*bias)), "a bias has another size or is not finite");
    NEED(!to.averages || (op.kind == engine::Fire && to.weight && !plan.is_real(to)), "averages are part of no weight");
    const Image from = plan.source(to), out = op.image();
    if (engine::keeps_size(op.kind)) {
        NEED(is_plain(to) && out == from, "an operation has a window, or another size than it reads");
        return true;
    }
    switch (op.kind) {
        case engine::Flatten:
            NEED(out == (Image{from.size(), 1, 1}) && !to.weight, "a flattening changes the size");
            return true;
        case engine::Unflatten:
            NEED(from == (Image{out.size(), 1, 1}) && !to.weight, "an unflattening changes the size");
            return true;
        case engine::Move: NEED(is_plain(to), "a move has a window"); return true;
        default: break;
    }
    if (op.adaptive) {
        NEED(is_plain(to), "an adaptive average has a window");
        NEED(out.C == from.C, "a pooling changes the channels");
        return true;
    }
    if (op.adds() && !to.weight) {
        NEED(is_plain(to) && out == from, "an input has another size than what it adds to");
        return true;
    }
    return weights(to, about["weight"], op) && spans(to, op);
}

bool PlanReader::weights(const Window& w, Json name, const Operation& op) {
    const Image from = plan.source(w), out = op.image();
    if (w.weight) {
        const Tensor& weight = tensor_of(name);
        NEED(op.adds(), "a pooling has weights");
        NEED(from.C % w.groups == 0 && out.C % w.groups == 0, "groups do not divide the channels");
        NEED(weight.has_shape({out.C, from.C / w.groups, w.kernel_h, w.kernel_w}), "a weight has another shape");
        NEED(weight.size / out.C <= most_inputs && w.averages <= most_inputs, "a neuron has too many inputs");
        return true;
    }
    NEED(out.C == from.C && w.groups == 1, "a pooling changes the channels");
    NEED(taps_of(w) <= most_inputs, "a window is too large");
    return true;
}

// Whether the windows lie where they may.
bool PlanReader::spans(const Window& w, const Operation& op) {
    const Image from = plan.source(w), out = op.image();
    const struct {
        int64_t n, windows, kernel, stride, padding, dilation;
    } axes[] = {{from.H, out.H, w.kernel_h, w.stride_h, w.padding_h, w.dilation_h},
                {from.W, out.W, w.kernel_w, w.stride_w, w.padding_w, w.dilation_w}};
    for (const auto& [n, windows, kernel, stride, padding, dilation] : axes) {
        const int64_t span = (kernel - 1) * dilation + 1, first_of_last = (windows - 1) * stride;
        if (op.adds()) {  // a window entirely in the padding reads only zeros
            const int64_t uneven = stride == 1;  // padding "same" may have one pixel more at the end
            const int64_t left = n + 2 * padding - first_of_last - span;
            NEED(-uneven <= left && left < stride, "an image has another size");
        } else NEED(first_of_last < n + padding, "a window lies outside of what it reads");
    }
    return true;
}

}  // namespace proxykernels
