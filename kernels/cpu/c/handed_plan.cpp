// The door for Python: a plan as a file describes it, whose tensors lie where Python has them (proxykernels/plan/library.py).
#include <algorithm>

#include "network.h"
#include "read_plan.h"

namespace proxykernels {

static Container container_of(const char* description, const engine::Handed* handed, int64_t count) {
    Container to;
    to.plan = description;
    for (int64_t i = 0; i < count; i++) {
        Tensor tensor{handed[i].name, (Type)handed[i].type, {}, (const uint8_t*)handed[i].data, 1};
        for (int64_t k = 0; k < handed[i].dims; k++) {
            tensor.shape.push_back(handed[i].shape[k]);
            tensor.size *= handed[i].shape[k];
        }
        to.tensors.push_back(std::move(tensor));
    }
    std::sort(to.tensors.begin(), to.tensors.end(), [](const Tensor& a, const Tensor& b) { return a.name < b.name; });
    return to;
}

}  // namespace proxykernels

using namespace proxykernels;

// Makes a plan of the engine for an instruction set that this machine has. All is copied.
extern "C" PK_API pk_status proxykernels_make_plan(const char* description, const engine::Handed* tensors, int64_t count,
                                                   const char* target, engine::Plan** made, pk_error* error) {
    return answer(error, [&](Failure& failure) {
        const Container container = container_of(description, tensors, count);
        Plan plan;
        return read_plan(container, Source::Python, plan, failure) &&
               (*made = pack(plan, *proxykernels_engine(target), target, failure));
    });
}
