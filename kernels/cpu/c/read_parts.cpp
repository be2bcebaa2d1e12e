// The windows of an operation: what it reads.
#include "plan.h"

#include <cmath>

namespace proxykernels {

#define NEED(condition, what) \
    if (!(condition)) return damaged(what)

// Whether the values along an axis of a factor are those of a product, or one for all.
static bool fits(int64_t n, int64_t all) { return n == all || n == 1; }

bool PlanReader::windows(Json about, Operation& op) {
    const int64_t least = op.kind == engine::Multiply ? 2 : 1;
    const int64_t most = op.adds() ? most_windows : op.kind == engine::Move ? most_moved : least;
    NEED(about.is_list() && least <= about.size() && about.size() <= most, "too many windows, or too few");
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
        case engine::Attention:
            NEED(is_plain(to) && from == (Image{3 * out.C, out.H, out.W}), "attention does not read three times what it gives");
            NEED(op.heads && out.C % op.heads == 0, "heads do not divide the channels");
            return true;
        case engine::Multiply: {
            if (plan.is_sigma_delta()) {
                const bool is_whole = fits(from.C, out.C) && fits(from.H, out.H) && fits(from.W, out.W);
                NEED(is_plain(to) && is_whole, "the factors of a product have other sizes");
                return true;
            }
            const bool first = op.windows.empty();
            NEED(is_plain(to) && (!first || from == out), "a product has another size than it reads");
            const bool all_pixels = from.H == out.H && from.W == out.W;
            NEED(out.C % from.C == 0 && (all_pixels || from.P() == 1), "the factors of a product have other sizes");
            return true;
        }
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

// What a file must be that holds a network of sigma-delta neurons.

static bool is_of_sums(int64_t kind) { return kind == engine::Function || kind == engine::Multiply; }

static bool is_kind_of_sigma_delta(int64_t kind) {
    return kind == engine::Changes || kind == engine::Sum || kind == engine::Send || kind == engine::SendMaxima ||
           kind == engine::AveragePool || kind == engine::Flatten || kind == engine::Unflatten || kind == engine::Move ||
           is_of_sums(kind);
}

bool is_of_sigma_delta(const Plan& plan, int64_t kind) {
    return is_kind_of_sigma_delta(kind) && (kind == engine::Changes || plan.is_sigma_delta() || plan.is_layer);
}

static const char* problem_of(const Plan& plan, const Operation& op) {
    if (op.ends() && !(op.image() == plan.source(op.windows[0]))) return "what changes has another size";
    if ((op.kind == engine::Sum) != (op.scale != nullptr)) return "a scale is missing, or has another size";
    if (op.has_senders && !op.sends()) return "an operation has neurons that it cannot have";
    if (is_of_sums(op.kind) && !plan.precision.empty()) return "a function or a product is not of 8 bits";
    const Window& first = op.windows[0];
    if (op.kind == engine::SendMaxima && !(first.dilation_h == 1 && first.dilation_w == 1)) return "a pooling is dilated";
    bool reads_values = false;
    for (const Window& window : op.windows) {
        if (window.bias && (op.kind != engine::Send || !window.weight)) return "a bias has no weights";
        reads_values |= plan.is_real(window);
    }
    bool gives_values = op.kind != engine::Flatten || reads_values;
    if (op.sends()) gives_values = !op.has_senders || op.senders.threshold < INFINITY;
    if (op.kind == engine::Move || op.kind == engine::Unflatten)
        gives_values = op.real || reads_values;  // codes may become values
    if (is_of_sums(op.kind)) gives_values = true;
    return op.real == gives_values ? nullptr : "an operation gives other values than it says";
}

// With precision "int8" the input and all neurons have units; a value is at most as many of them as a code holds.
static const char* problem_of_unit(const Plan& plan, const Operation& op) {
    const bool has_unit = op.grid < INFINITY;
    if (has_unit != (!plan.precision.empty() && (op.kind == engine::Changes || op.has_senders)))
        return "a unit is missing, or of nothing";
    if (!has_unit) return nullptr;
    int exponent = 0;
    if (frexpf(op.grid, &exponent) != 0.5f) return "a unit is no power of two";
    if (op.kind == engine::Changes) return nullptr;
    const float largest = (float)(op.senders.rectifies ? most_code : most_signed_code) * op.grid;
    for (int64_t c = 0; c < op.C; c++)
        if (!(op.senders.limit[c] <= largest)) return "a limit is above the largest code";
    return op.senders.threshold < INFINITY ? nullptr : "neurons with a unit send powers of two";
}

const char* problem_of_sigma_delta(const Plan& plan) {
    bool any = false, sends = false;
    for (const Operation& op : plan.operations) any |= op.ends() || op.sends(), sends |= op.kind == engine::Send;
    if (!any) return nullptr;
#ifdef PK_WITHOUT_SIGMA_DELTA
    return "it has sigma-delta or graded neurons, and this library was built without them";
#endif
    if (plan.precision == "int16" || !plan.real) return "a network of sigma-delta neurons is not of int16, and takes values";
    for (int64_t k = 0; k < plan.count(); k++) {
        const Operation& op = plan.operations[k];
        if (!is_kind_of_sigma_delta(op.kind)) return "an operation is none of sigma-delta neurons";
        if ((op.kind == engine::Changes) != (k == 0) || (op.kind == engine::Sum) != (k == plan.count() - 1))
            return "it does not begin with what its input changes by, and end in what its outputs add up to";
        for (const Window& window : op.windows)
            if ((window.slot == 0) != (k == 0)) return "an operation reads the input";
        if (const char* const problem = problem_of(plan, op)) return problem;
        if (const char* const problem = problem_of_unit(plan, op)) return problem;
    }
    return sends ? nullptr : "it has no neurons";
}

}  // namespace proxykernels
