// Recurrent neurons on the currents that an operation before them gives: an image is a task, for each step waits for the one
// before it.
#include "../recurrent/steps.h"
#include "operations.h"
#include "watch.h"

namespace PK_TARGET {

int64_t recurrent_room(const Step& step) { return RecurrentMemory::bytes(step.states - 1, step.C); }

template <class Model>
struct Recurring {
    const Session& session;
    const Step& step;
    const int64_t k, steps;
    const bool fresh;

    void run(int64_t image, Scratch& scratch) const {
        Carver carver{scratch.kernel};
        const RecurrentMemory memory(carver, Model::states, step.C);
        float* const v = session.states[k].v + image * step.state_size;
        load_recurrent(memory, Model::states, fresh ? step.start : v, step.C, step.C);
        const View& x = session.views[step.windows[0].slot];
        uint8_t* const out = (uint8_t*)session.slots[k] + image * steps * step.bytes();
        const RecurrentRows rows{step.recurrent, step.recurrent_stride, step.recurrent_full != 0};
        recurrent_steps<Model>(
            step.neuron, rows, steps, step.C, memory, [&](int64_t t) { return x.values_at(image, t, 0); },
            [&](int64_t t) { return out + t * step.bytes(); }, [](auto&&...) {});
        store_recurrent(memory, Model::states, v, step.C);
        const int64_t fired = count_bits(out, steps * step.bytes());
        scratch.tally[0] += fired, scratch.tally[1] += fired * (rows.full ? step.C : 1);
    }
};

void run_recurrent(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh) {
    const Step& step = session.plan.steps[k];
    with_model(step.neuron, [&](auto model) {
        const Recurring<decltype(model)> recurring{session, step, k, steps, fresh};
        struct Context {
            const Recurring<decltype(model)>& recurring;
            Scratch* scratch;
        } context{recurring, session.scratch};
        share(session, N, &context, [](void* given, int64_t image, int64_t thread) {
            const Context& c = *(const Context*)given;
            c.recurring.run(image, c.scratch[thread]);
        });
    });
}

}  // namespace PK_TARGET
