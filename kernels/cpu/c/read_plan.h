// Reads a plan from its description and its tensors, and looks at all of it: the engine looks at nothing.
// proxykernels/plan/description.py writes it, and there is no other reader.
#pragma once
#include <set>

#include "json.h"
#include "plan.h"
#include "tensors.h"

namespace proxykernels {

// A file may come from anywhere, and holds a whole network. What Python hands over may be a layer, and was made of modules whose
// values are its user's: neither its size nor the values of its weights are looked at.
enum class Source { File, Python };

// The plan refers to the container's tensors.
bool read_plan(const Container& container, Source source, Plan& plan, Failure& failure);

// read_parts.cpp: why a plan whose operations are sound by themselves is no network of sigma-delta neurons; null: it is one, or
// has none of it.
const char* problem_of_sigma_delta(const Plan& plan);
// Whether the rules of such networks, and not the others, are those of an operation that comes next.
bool is_of_sigma_delta(const Plan& plan, int64_t kind);

// What a file has, one operation after another. A function returns whether what it read is sound.
class PlanReader {
public:
    PlanReader(const Container& container, Source source, Plan& plan, Failure& failure)
        : container(container), is_file(source == Source::File), plan(plan), failure(failure) {}
    bool read(Json about);

private:
    bool damaged(const char* what) {
        return failure.set(PK_BAD_FILE, "the %s: %s", is_file ? "file cannot be loaded" : "plan cannot be made", what);
    }
    bool is_whole_network();
    bool is_finite(const Tensor& tensor) const { return !is_file || proxykernels::is_finite(tensor); }
    bool can_be_summed(const Tensor& tensor) const { return !is_file || proxykernels::can_be_summed(tensor); }
    bool shape_of(Json values, std::vector<int64_t>& shape);
    // Reads the fields that kernels/table.py lists, of an operation of a kind.
    bool fields(Json about, Window& to, int64_t kind = 0);
    bool fields(Json about, Population& to, int64_t kind = 0);
    bool fields(Json about, Senders& to, int64_t kind = 0);
    bool fields(Json about, engine::Operation& to, int64_t kind);
    bool whole(Json value, int64_t least, bool may_be_missing, int64_t& to);
    bool pair(Json values, int64_t least, int64_t& height, int64_t& width);
    bool truth(Json value, bool& to);
    bool limit(Json value, bool may_be_missing, float& to);
    bool numbers(Json name, bool may_be_missing, bool may_be_null, const float*& to);
    bool numbers(Json name, bool may_be_missing, bool may_be_null, const int64_t*& to);
    bool tensor(Json name, Type type, const Tensor*& to);
    const Tensor& tensor_of(Json name) const { return *container.find(name.text()); }  // of one that was read
    bool operation(Json about);
    bool gives_what_it_says(const Operation& op);
    bool window(Json about, const Operation& op, Window& to);
    bool windows(Json about, Operation& op);
    bool weights(const Window& window, Json weight, const Operation& op);
    bool spans(const Window& window, const Operation& op);
    bool neurons(Json about, Operation& op);
    bool channels_of_neurons(Json about, const Operation& op, const Population& neurons);
    bool recurrent(Json name, Operation& op);
    bool moves(Json about, const Operation& op);
    bool moved(Json name, int64_t there, int64_t here, bool same);
    bool delays(Json name, const Operation& op);
    bool senders(Json about, Operation& op);

    const Container& container;
    const bool is_file;
    Plan& plan;
    Failure& failure;
    std::set<const Tensor*> read_tensors;
};

}  // namespace proxykernels
