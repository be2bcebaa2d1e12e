// Recurrent neurons, on currents that an earlier operation has computed. A task is one image, since each step depends on the
// one before. Each neuron that fired adds a row of weights, of floats or integers, to the currents of the next step.
#include "../recurrent/steps.h"
#include "operations.h"
#include "add_rows.h"
#include "watch.h"

namespace PK_TARGET {

static_assert(behind_list >= overhang);

int64_t recurrent_room(const Step& step) { return RecurrentMemory::bytes(step.states - 1, step.C); }

struct Recurring {
    const Session& session;
    const Step& step;
    const int64_t k, steps, states;
    const bool fresh;
    decltype(&step_channels<SoftReset>) step_neurons;  // for the neuron model
    const RowAdder of_blocks, of_last;  // for full blocks of channels, and for the last one

    Recurring(const Session& session, const Step& step, int64_t k, int64_t steps, bool fresh)
        : session(session),
          step(step),
          k(k),
          steps(steps),
          states(step.states - 1),
          fresh(fresh),
          of_blocks(row_adder(step.back.kind, block_vecs, is_far(step.back))),
          of_last(row_adder(step.back.kind, step.vecs_of(step.blocks() - 1), is_far(step.back))) {
        with_model(step.neuron, [&](auto model) { step_neurons = step_channels<decltype(model)>; });
    }

    void run(int64_t image, Scratch& scratch) const {
        Carver carver{scratch.kernel};
        const RecurrentMemory memory(carver, states, step.C);
        float* const v = session.states[k].v + image * step.state_size;
        load_recurrent(memory, states, fresh ? step.start : v, step.C, step.C);
        const View& x = session.views[step.windows[0].slot];
        uint8_t* const out = (uint8_t*)session.slots[k] + image * steps * step.bytes();
        const uint8_t* fired = memory.fired;
        for (int64_t t = 0; t < steps; t++) {
            uint8_t* const spikes = out + t * step.bytes();
            run_step(memory, x.values_at(image, t, 0), fired, spikes);
            fired = spikes;
        }
        memmove(memory.fired, fired, step.bytes());
        store_recurrent(memory, states, v, step.C);
        const int64_t sent = count_bits(out, steps * step.bytes());
        scratch.tally[0] += sent, scratch.tally[1] += sent * (step.recurrent_full ? step.C : 1);
    }

    void run_step(const RecurrentMemory& memory, const float* current, const uint8_t* fired, uint8_t* spikes) const {
        const int64_t count = step.recurrent_full ? list_fired(fired, step.bytes(), memory.list) : 0;
        for (int i = 0; i < most_group; i++) memory.list[count + i] = (uint32_t)step.C;  // the row that adds nothing
        alignas(64) float sums[columns] = {};
        for (int64_t b = 0; b < step.blocks(); b++) {
            const int64_t first = b * columns, last = least(first + columns, step.C);
            memcpy(sums, current + first, (last - first) * sizeof(float));
            if (count) add_rows(memory.list, count, b, sums);
            for (int64_t channel = first; channel < last; channel += block) {
                Block input = load_block(sums + channel - first);
                if (!step.recurrent_full) add_own(input, step.back.matrix, channel, fired, step.bytes());
                step_neurons(step.neuron, memory, channel, (int)least(block, step.C - channel), input, spikes);
            }
        }
    }

    // Adds the listed rows to the currents of a block. Integer rows are summed first and added once, so an exact sum is rounded
    // once.
    void add_rows(const uint32_t* list, int64_t count, int64_t b, float* sums) const {
        const Window& w = step.back;
        const RowAdder& add = b + 1 < step.blocks() ? of_blocks : of_last;
        const Bucket all{0, (uint32_t)count, 1};
        if (w.kind == RowKind::Floats) return add.buckets(w.block(b), list, &all, &all + 1, sums);
        alignas(64) char whole[columns * sizeof(int32_t)] = {};
        add.buckets(w.block(b), list, &all, &all + 1, whole);
        add.whole(whole, w.unit + b * columns, sums);
    }
};

void run_recurrent(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh) {
    const Recurring recurring(session, session.plan.steps[k], k, steps, fresh);
    struct Context {
        const Recurring& recurring;
        Scratch* scratch;
    } context{recurring, session.scratch};
    share(session, N, &context, [](void* given, int64_t image, int64_t thread) {
        const Context& c = *(const Context*)given;
        c.recurring.run(image, c.scratch[thread]);
    });
}

}  // namespace PK_TARGET
