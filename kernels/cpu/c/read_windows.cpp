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

bool PlanReader::sizes_of(Json about, Window& to) {
    const struct {
        const char* name;
        int64_t least, *values;
    } pairs[] = {{"kernel", 1, to.kernel}, {"stride", 1, to.stride}, {"padding", 0, to.padding}, {"dilation", 1, to.dilation}};
    for (const auto& pair : pairs) {
        const Json values = about[pair.name];
        NEED(values.is_list() && values.size() == 2, "a kernel, stride, padding or dilation is no pair");
        bool sound = true;
        int64_t* at = pair.values;
        values.each_item([&](Json value) { sound = sound && value.is_whole(pair.least, most_size, *at++); });
        NEED(sound, "a kernel, stride, padding or dilation is out of range");
    }
    return true;
}

bool PlanReader::window(Json about, const Operation& op, Window& to) {
    NEED(about.is_object(), "a window is no object");
    if (!whole(about["slot"], 0, to.slot) || !whole(about["groups"], 1, to.groups)) return false;
    NEED(to.slot <= plan.count(), "an operation reads what comes later");
    if (!sizes_of(about, to)) return false;
    const Json weight = about["weight"], bias = about["bias"], averages = about["averages"];
    if (averages.is_there() && !whole(averages, 1, to.averages)) return false;
    if (!weight.is_null() && !tensor(weight, Type::Float, to.weight)) return false;
    if (bias.is_there() && !bias.is_null() && !tensor(bias, Type::Float, to.bias)) return false;
    NEED(!to.weight || can_be_summed(*to.weight), "a weight holds NaN, infinite or too large values");
    NEED(!to.bias || (to.bias->has_shape({op.image.C}) && can_be_summed(*to.bias)), "a bias has another size or is not finite");
    NEED(!to.averages || (op.kind == engine::Fire && to.weight && !plan.is_real(to)), "averages are part of no weight");
    const Image from = plan.source(to), out = op.image;
    switch (op.kind) {
        case engine::Flatten:
            NEED(out == (Image{from.size(), 1, 1}) && !to.weight, "a flattening changes the size");
            return true;
        case engine::Unflatten:
            NEED(from == (Image{out.size(), 1, 1}) && !to.weight, "an unflattening changes the size");
            return true;
        case engine::Changes:
        case engine::Sum:
        case engine::Delay:
        case engine::Recur:
            NEED(to.is_plain() && out == from, "an operation has a window, or another size than it reads");
            return true;
        case engine::Move: NEED(to.is_plain(), "a move has a window"); return true;
        default: break;
    }
    if (op.adaptive) {
        NEED(to.is_plain(), "an adaptive average has a window");
        NEED(out.C == from.C, "a pooling changes the channels");
        return true;
    }
    if (op.adds() && !to.weight) {
        NEED(to.is_plain() && out == from, "an input has another size than what it adds to");
        return true;
    }
    return weights(to, op) && spans(to, op);
}

bool PlanReader::weights(const Window& w, const Operation& op) {
    const Image from = plan.source(w), out = op.image;
    if (w.weight) {
        NEED(op.adds(), "a pooling has weights");
        NEED(from.C % w.groups == 0 && out.C % w.groups == 0, "groups do not divide the channels");
        NEED(w.weight->has_shape({out.C, from.C / w.groups, w.kernel[0], w.kernel[1]}), "a weight has another shape");
        NEED(w.weight->size / out.C <= most_inputs && w.averages <= most_inputs, "a neuron has too many inputs");
        return true;
    }
    NEED(out.C == from.C && w.groups == 1, "a pooling changes the channels");
    NEED(w.taps() <= most_inputs, "a window is too large");
    return true;
}

// Whether the windows lie where they may.
bool PlanReader::spans(const Window& w, const Operation& op) {
    const Image from = plan.source(w), out = op.image;
    const int64_t sizes[2] = {from.H, from.W}, windows[2] = {out.H, out.W};
    for (int axis = 0; axis < 2; axis++) {
        const int64_t span = (w.kernel[axis] - 1) * w.dilation[axis] + 1, stride = w.stride[axis];
        const int64_t n = sizes[axis], padding = w.padding[axis], first_of_last = (windows[axis] - 1) * stride;
        if (op.adds()) {  // a window entirely in the padding reads only zeros
            const int64_t uneven = stride == 1;  // padding "same" may have one pixel more at the end
            const int64_t left = n + 2 * padding - first_of_last - span;
            NEED(-uneven <= left && left < stride, "an image has another size");
        } else NEED(first_of_last < n + padding, "a window lies outside of what it reads");
    }
    return true;
}

}  // namespace proxykernels
