#include "plan.h"

namespace proxykernels {

#define NEED(condition, what) \
    if (!(condition)) return damaged(what)

bool PlanReader::whole(Json value, int64_t least, bool may_be_missing, int64_t& to) {
    if (may_be_missing && !value.is_there()) return true;
    NEED(value.is_whole(least, most_size, to), "a number is missing or out of range");
    return true;
}

bool PlanReader::pair(Json values, int64_t least, int64_t& height, int64_t& width) {
    NEED(values.is_list() && values.size() == 2, "a kernel, stride, padding or dilation is no pair");
    bool sound = true;
    int64_t* to = &height;
    values.each_item([&](Json value) { sound = sound && value.is_whole(least, most_size, *to), to = &width; });
    NEED(sound, "a kernel, stride, padding or dilation is out of range");
    return true;
}

bool PlanReader::truth(Json value, bool& to) {
    NEED(value.is_bool(), "a value is neither true nor false");
    to = value.is_true();
    return true;
}

bool PlanReader::limit(Json value, bool may_be_missing, float& to) {
    if (may_be_missing && !value.is_there()) return true;
    NEED(value.is_null() || (value.is_number() && value.number() >= 0), "a limit is no number of at least 0");
    if (value.is_number()) to = (float)value.number();
    return true;
}

bool PlanReader::tensor(Json name, Type type, const Tensor*& to) {
    to = name.is_text() ? container.find(name.text()) : nullptr;
    NEED(to, "a tensor is missing");
    NEED(to->type == type, "a tensor has another type");
    read_tensors.insert(to);
    return true;
}

bool PlanReader::numbers(Json name, bool may_be_missing, bool may_be_null, const float*& to) {
    const Tensor* found = nullptr;
    if ((may_be_missing && !name.is_there()) || (may_be_null && name.is_null())) return true;
    return tensor(name, Type::Float, found) && (to = found->floats());
}

bool PlanReader::numbers(Json name, bool may_be_missing, bool may_be_null, const int64_t*& to) {
    const Tensor* found = nullptr;
    if ((may_be_missing && !name.is_there()) || (may_be_null && name.is_null())) return true;
    return tensor(name, Type::Whole, found) && (to = found->whole());
}

#define WHOLE(name, least, missing, ...) \
    if (!whole(about[#name], least, missing, to.name)) return false;
#define PAIR(name, least, ...) \
    if (!pair(about[#name], least, to.name##_h, to.name##_w)) return false;
#define TRUTH(name, ...) \
    if (!truth(about[#name], to.name)) return false;
#define LIMIT(name, least, missing, ...) \
    if (!limit(about[#name], missing, to.name)) return false;
#define NUMBERS(name, least, missing, null, kinds) \
    if ((!kinds || kinds >> kind & 1) && !numbers(about[#name], missing, null, to.name)) return false;
#define READ(Struct, FIELDS)                                                         \
    bool PlanReader::fields(Json about, Struct& to, [[maybe_unused]] int64_t kind) { \
        FIELDS(WHOLE, PAIR, TRUTH, LIMIT, NUMBERS, NUMBERS)                          \
        return true;                                                                 \
    }
READ(Window, PK_WINDOW_FIELDS)
READ(Population, PK_NEURONS_FIELDS)
READ(Senders, PK_SENDERS_FIELDS)
READ(engine::Operation, PK_OPERATION_FIELDS)
#undef READ
#undef WHOLE
#undef PAIR
#undef TRUTH
#undef LIMIT
#undef NUMBERS

bool PlanReader::shape_of(Json values, std::vector<int64_t>& shape) {
    NEED(values.is_list() && 1 <= values.size() && values.size() <= 3, "a shape has not one to three sizes");
    bool sound = true;
    int64_t product = 1;
    values.each_item([&](Json value) {
        int64_t size = 1;
        sound = sound && value.is_whole(1, most_size, size) && (product *= size) < most_size;
        shape.push_back(size);
    });
    NEED(sound, "a shape is too large, or none");
    return true;
}

bool PlanReader::read(Json about) {
    NEED(about.is_there(), "its plan is no JSON");
    NEED(about.is_object(), "it has no plan");
    const Json precision = about["precision"], calibrated = about["calibrated"], operations = about["operations"];
    NEED(precision.is_null() || (precision.is_text() && (precision.text() == "int16" || precision.text() == "int8")),
         "its precision is not known");
    if (precision.is_text()) plan.precision = precision.text();
    int64_t limits = 0;
    calibrated.each_item([&](Json value) { limits += value.is_number(); });
    NEED(!calibrated.is_there() || calibrated.is_null() || (limits == 2 && calibrated.size() == 2),
         "its calibration data have no range");
    if (!shape_of(about["shape"], plan.shape) || !truth(about["real"], plan.real)) return false;
    plan.image = image_of(plan.shape);
    if (!is_file && about["layer"].is_object()) {
        plan.is_layer = true;
        if (!truth(about["layer"]["periodic"], plan.is_periodic) || !truth(about["layer"]["long"], plan.is_long)) return false;
        NEED(operations.is_list() && operations.size() == 1, "a layer is one operation");
    }
    NEED(operations.is_list() && operations.size(), "it has no operations");
    bool sound = true;
    operations.each_item([&](Json op) { sound = sound && operation(op); });
    if (!sound) return false;
    if (is_file && !is_whole_network()) return false;
    NEED(read_tensors.size() == container.tensors.size(), "it has tensors that nothing uses");
    return true;
}

bool PlanReader::is_whole_network() {
    NEED(plan.is_moderate(), "its layers give more than 16384 times the values that they are made of");
    if (const char* const problem = problem_of_sigma_delta(plan)) return damaged(problem);
    if (plan.is_sigma_delta()) return true;
    const Operation& last = plan.last();
    bool any = false;
    for (const Operation& op : plan.operations) any |= op.has_neurons;
    NEED(any, "it has no neurons");
    NEED(!last.real || (last.has_neurons && gives_values(last.neurons)), "it ends in values");
    return true;
}

bool PlanReader::operation(Json about) {
    NEED(about.is_object(), "an operation is no object");
    Operation op;
    const Json kind = about["kind"], name = about["name"];
    op.kind = kind_count;
    for (int64_t k = 0; k < kind_count; k++)
        if (kind.is_text() && kind.text() == kind_names[k]) op.kind = k;
    NEED(op.kind < kind_count, "an operation is not known");
    NEED(name.is_text(), "an operation has no name");
    op.name = name.text();
    if (!shape_of(about["shape"], op.shape) || !fields(about, op, op.kind)) return false;
    const Image image = image_of(op.shape);
    op.C = image.C, op.H = image.H, op.W = image.W;
    NEED(!op.adaptive || op.kind == engine::AveragePool, "only an average is adaptive");
    if (!windows(about["windows"], op)) return false;
    if (op.kind == engine::Fire || op.kind == engine::Recur)
        if (!neurons(about["neurons"], op)) return false;
    if (op.kind == engine::Move && !moves(about, op)) return false;
    if (op.kind == engine::Recur && !recurrent(about["recurrent"], op)) return false;
    if (!senders(about["senders"], op)) return false;
#define FINITE(name, size)                                                                                 \
    if (op.name) {                                                                                         \
        NEED(is_finite(tensor_of(about[#name])), "a " #name " is not finite");                             \
        NEED(tensor_of(about[#name]).has_shape({op.size}), "a " #name " is missing, or has another size"); \
    }
#define CHECKED_BELOW(name, size)
    PK_OPERATION_TENSORS(FINITE, CHECKED_BELOW)
#undef FINITE
#undef CHECKED_BELOW
    if (op.kind == engine::Delay && !delays(about["delays"], op)) return false;
    if (op.kind == engine::Function && !function(about["parameters"], op)) return false;
    const bool by_other_rules = is_of_sigma_delta(plan, op.kind);
    plan.operations.push_back(std::move(op));
    return by_other_rules || gives_what_it_says(plan.last());  // problem_of_sigma_delta looks at the others
}

bool PlanReader::gives_what_it_says(const Operation& op) {
    NEED(!plan.is_layer || (op.has_neurons && !op.real), "a layer gives no spikes");
    NEED(!(op.grid < INFINITY), "an operation has a unit that it cannot have");
    NEED(op.kind != engine::Function, "a function of sums is in no network of sigma-delta neurons");
    if (plan.is_layer) return true;
    bool reads_values = false;
    for (const Window& window : op.windows) reads_values |= plan.is_real(window);
    bool expected = reads_values;
    if (op.kind == engine::Fire) expected = gives_values(op.neurons);
    if (engine::gives_values(op.kind)) expected = true;
    if (op.kind == engine::MaxRatePool || op.kind == engine::Recur) expected = false;
    NEED(op.real == expected, "an operation gives other values than it says");
    NEED(op.kind != engine::MaxRatePool || !reads_values, "an operation reads values, and not spikes");
    return true;
}

bool PlanReader::neurons(Json about, Operation& op) {
    NEED(about.is_object() && about["model"].is_text(), "neurons are missing");
    Population& to = op.neurons;
    to.model = model_count + 1;
    for (int64_t k = 0; k < model_count + plan.is_layer; k++)
        if (about["model"].text() == neuron_models[k].name) to.model = k;
    NEED(to.model < model_count + plan.is_layer, "neurons are not known");
    const Json scalars = about["scalars"];
    NEED(scalars.is_list() && scalars.size() == model_of(to).scalars, "neurons have other parameters");
    bool sound = true;
    float* scalar = to.scalars;
    scalars.each_item([&](Json value) {
        sound = sound && value.is_number();
        *scalar++ = sound ? (float)value.number() : 0;
    });
    NEED(sound, "a parameter is no number");
    if (!fields(about, to) || !channels_of_neurons(about, op, to)) return false;
    const bool integrates = to.model == models::SoftReset || to.model == models::HardReset;
    NEED(!to.scale || (integrates && to.fires), "scale needs integrate-and-fire neurons, which fire");
    to.scale_by_channel = to.scale && !tensor_of(about["scale"]).shape.empty();
    op.has_neurons = true;
    return true;
}

bool PlanReader::channels_of_neurons(Json about, const Operation& op, const Population& neurons) {
    const int64_t C = op.C, states = model_of(neurons).states + (op.kind == engine::Recur);  // its spikes
    const Tensor &channels = tensor_of(about["channels"]), &bias = tensor_of(about["bias"]), &start = tensor_of(about["start"]);
    NEED(channels.has_shape({model_of(neurons).channels, C}), "neurons have other parameters");
    const bool are_numbers =
        has_no_nan(neurons.channels, C) && proxykernels::is_finite(neurons.channels + C, channels.size - C);
    NEED(are_numbers || !is_file, "a parameter is no number");
    NEED(bias.has_shape({C}) && start.has_shape({states, C}), "a bias or a state has another size");
    NEED(can_be_summed(bias) && is_finite(start), "a bias or a state holds NaN, infinite or too large values");
    if (!neurons.scale) return true;
    const Tensor& scale = tensor_of(about["scale"]);
    NEED(scale.has_shape({}) || scale.has_shape({C}), "a scale has another size");
    NEED(is_finite(scale), "a scale is not finite");
    return true;
}

bool PlanReader::recurrent(Json name, Operation& op) {
    const int64_t C = op.C;
    const Tensor& weight = tensor_of(name);
    NEED(can_be_summed(weight), "a recurrent weight holds NaN, infinite or too large values");
    NEED(op.shape.size() == 1 && !gives_values(op.neurons), "recurrent neurons are images, or give values");
    NEED(weight.has_shape({C, C}) || weight.has_shape({C}), "a recurrent weight has another shape");
    op.recurrent_full = weight.shape.size() == 2;
    if (plan.is_layer) return true;  // it reads the currents that each run brings
    const int64_t slot = op.windows[0].slot;
    NEED(slot && plan.operations[slot - 1].has_neurons && plan.operations[slot - 1].forgets(),
         "recurrent neurons read no currents");
    return true;
}

bool PlanReader::moves(Json about, const Operation& op) {
    const Image first = plan.source(op.windows[0]);
    int64_t channels = 0;
    for (const Window& window : op.windows) {
        const Image from = plan.source(window);
        NEED(from.H == first.H && from.W == first.W, "inputs differ in size");
        channels += from.C;
    }
    const bool same = op.H == first.H && op.W == first.W;
    return moved(about["pixels"], first.P(), op.image().P(), same) && moved(about["channels"], channels, op.C, true);
}

bool PlanReader::moved(Json name, int64_t there, int64_t here, bool same) {
    if (name.is_null()) {
        NEED(there == here && same, "pixels or channels change their number");
        return true;
    }
    const Tensor& numbers = tensor_of(name);
    NEED(numbers.has_shape({here}) && lie_within(numbers, -1, there), "pixels or channels lie outside of what is read");
    return true;
}

bool PlanReader::delays(Json name, const Operation& op) {
    const Tensor& steps = tensor_of(name);
    NEED(steps.has_shape({op.C}), "delays have another size");
    NEED(lie_within(steps, 0, most_delay + 1), "a delay is out of range");
    return true;
}

bool PlanReader::function(Json parameters, Operation& op) {
    NEED(op.function >= engine::SigmoidFunction && op.function <= engine::MishFunction, "a function is not known");
    NEED(parameters.is_list() && parameters.size() == 2, "a function has other parameters");
    bool sound = true;
    double* to = op.parameters;
    parameters.each_item([&](Json value) {
        sound = sound && value.is_number();
        *to++ = sound ? value.number() : 0;
    });
    NEED(sound, "a parameter is no number");
    return true;
}

bool PlanReader::senders(Json about, Operation& op) {
    if (!about.is_there() || about.is_null()) return true;
    NEED(about.is_object(), "senders are no object");
    int64_t exponents = 0;
    NEED(about["exponents"].is_whole(1, most_exponents + 1, exponents), "exponents are not 1 to 12");
    if (!fields(about, op.senders)) return false;
    const Tensor& limit = tensor_of(about["limit"]);
    NEED(limit.has_shape({op.C}) && has_no_nan(limit.floats(), limit.size), "a limit has another size");
    return op.has_senders = true;
}

bool read_plan(const Container& container, Source source, Plan& plan, Failure& failure) {
    const Json about = read_json(container.plan.data(), container.plan.size());
    return PlanReader(container, source, plan, failure).read(about);
}

}  // namespace proxykernels
