// Recurrent neurons, on currents that an earlier operation has computed. A task is one image, since each step depends on the
// one before. Each neuron that fired adds a row of weights, of floats or integers, to the currents of the next step.
#include "../recurrent_steps.h"
#include "tasks.h"
#include "add_rows.h"

namespace PK_TARGET {

static_assert(behind_list >= overhang);

int64_t recurrent_room(const Op& op) { return RecurrentMemory::bytes(op.states - 1, op.C); }

struct Recurring {
    const Session& session;
    const Op& op;
    const Neurons n;
    const int64_t k, steps, states;
    decltype(&step_channels<SoftReset>) step_neurons;  // for the neuron model
    const RowAdder of_blocks, of_last;  // for full blocks of channels, and for the last one

    Recurring(const Session& session, const Op& op, int64_t k, int64_t N, int64_t steps, bool fresh)
        : session(session),
          op(op),
          n(neurons_of(session, k, N, steps, fresh)),
          k(k),
          steps(steps),
          states(op.states - 1),
          of_blocks(row_adder(op.back.kind, block_vecs, is_far(op.back))),
          of_last(row_adder(op.back.kind, op.vecs_of(op.blocks() - 1), is_far(op.back))) {
        with_model(op.neuron, [&](auto model) { step_neurons = step_channels<decltype(model)>; });
    }

    void run(int64_t image, Scratch& scratch) const {
        Carver carver{scratch.kernel};
        const RecurrentMemory memory(carver, states, op.C);
        load_recurrent(memory, states, n.start + image * n.start_image, n.start_state, op.C);
        const View& x = session.views[op.windows[0].slot];
        uint8_t* const out = (uint8_t*)session.slots[k] + image * steps * op.bytes();
        const uint8_t* fired = memory.fired;
        for (int64_t t = 0; t < steps; t++) {
            uint8_t* const spikes = out + t * op.bytes();
            run_step(memory, x.values_at(image, t, 0), fired, spikes);
            fired = spikes;
        }
        memmove(memory.fired, fired, op.bytes());
        store_recurrent(memory, states, session.states[k].v + image * op.state_size, op.C);
        const int64_t sent = count_bits(out, steps * op.bytes());
        scratch.tally[0] += sent, scratch.tally[1] += sent * (op.recurrent_full ? op.C : 1);
    }

    void run_step(const RecurrentMemory& memory, const float* current, const uint8_t* fired, uint8_t* spikes) const {
        const int64_t count = op.recurrent_full ? list_fired(fired, op.bytes(), memory.list) : 0;
        for (int i = 0; i < most_group; i++) memory.list[count + i] = (uint32_t)op.C;  // the row that adds nothing
        alignas(64) float sums[columns] = {};
        for (int64_t b = 0; b < op.blocks(); b++) {
            const int64_t first = b * columns, last = least(first + columns, op.C);
            memcpy(sums, current + first, (last - first) * sizeof(float));
            if (count) add_rows(memory.list, count, b, sums);
            for (int64_t channel = first; channel < last; channel += block) {
                Block input = load_block(sums + channel - first);
                if (!op.recurrent_full) add_own(input, op.back.matrix, channel, fired, op.bytes());
                step_neurons(n.neuron, memory, channel, (int)least(block, op.C - channel), input, spikes);
            }
        }
    }

    // Adds the listed rows to the currents of a block. Integer rows are summed first and added once, so an exact sum is rounded
    // once.
    void add_rows(const uint32_t* list, int64_t count, int64_t b, float* sums) const {
        const Window& w = op.back;
        const RowAdder& add = b + 1 < op.blocks() ? of_blocks : of_last;
        const Bucket all{0, (uint32_t)count, 1};
        if (w.kind == RowKind::Floats) return add.buckets(w.block(b), list, &all, &all + 1, sums);
        alignas(64) char whole[columns * sizeof(int32_t)] = {};
        add.buckets(w.block(b), list, &all, &all + 1, whole);
        add.whole(whole, w.unit + b * columns, sums);
    }
};

void run_recurrent(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh) {
    const Recurring recurring(session, session.plan.ops[k], k, N, steps, fresh);
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
