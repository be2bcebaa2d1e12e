// What a file must be that holds a network of sigma-delta neurons.
#include <cmath>

#include "read_plan.h"

namespace proxykernels {

static bool is_kind_of_sigma_delta(int64_t kind) {
    return kind == engine::Changes || kind == engine::Sum || kind == engine::Send || kind == engine::SendMaxima ||
           kind == engine::AveragePool || kind == engine::Flatten || kind == engine::Unflatten || kind == engine::Move;
}

bool is_of_sigma_delta(const Plan& plan, int64_t kind) {
    return is_kind_of_sigma_delta(kind) && (kind == engine::Changes || plan.is_sigma_delta() || plan.is_layer);
}

static const char* problem_of(const Plan& plan, const Operation& op) {
    if (op.ends() && !(op.image() == plan.source(op.windows[0]))) return "what changes has another size";
    if ((op.kind == engine::Sum) != (op.scale != nullptr)) return "a scale is missing, or has another size";
    if (op.has_senders && !op.sends()) return "an operation has neurons that it cannot have";
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
    return op.real == gives_values ? nullptr : "an operation gives other values than it says";
}

// Of precision "int8" the input and all neurons have units, of which their values are not more than a code holds.
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
