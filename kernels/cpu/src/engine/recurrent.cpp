// Recurrent neurons, on currents that an earlier operation has computed. Each neuron that fired adds a row of weights, of floats
// or integers, to the currents of the next step.
//
// Each step depends on the one before, so a task is all steps of one image. If there are fewer images than threads, the threads
// share each step of all images instead (shared_steps.h): each has some blocks of neurons.
#include <algorithm>

#include "../recurrent_steps.h"
#include "tasks.h"
#include "add_rows.h"
#include "shared_steps.h"

namespace PK_TARGET {

static_assert(behind_list >= overhang);

constexpr int64_t most_images = 16;  // whose steps are shared at a time

// The lists of what fired in the last step that a thread looked at, for some images.
struct FiredLists {
    const int64_t room;  // entries of one list
    uint32_t* const list;
    int64_t* const count;
    int64_t step = -1;
    FiredLists(Carver& carver, int64_t images, const Op& op)
        : room(op.recurrent_full ? op.C + behind_list : 0),
          list(carver.take<uint32_t>(images * room)),
          count(carver.take<int64_t>(images)) {}
};

int64_t recurrent_room(const Op& op) {
    Carver carver{nullptr};
    FiredLists(carver, most_images, op);
    return carver.bytes;
}

struct Recurring {
    const Session& session;
    const Op& op;
    const Neurons n;
    const int64_t k, steps, states;
    uint8_t* const out;
    decltype(&step_channels<SoftReset>) step_neurons;  // for the neuron model
    const RowAdder of_blocks, of_last;  // for full blocks of channels, and for the last one

    Recurring(const Session& session, const Op& op, int64_t k, int64_t N, int64_t steps, bool fresh)
        : session(session),
          op(op),
          n(neurons_of(session, k, N, steps, fresh)),
          k(k),
          steps(steps),
          states(op.states - 1),
          out((uint8_t*)session.slots[k]),
          of_blocks(row_adder(op.back.kind, block_vecs, is_far(op.back))),
          of_last(row_adder(op.back.kind, op.vecs_of(op.blocks() - 1), is_far(op.back))) {
        with_model(op.neuron, [&](auto model) { step_neurons = step_channels<decltype(model)>; });
    }

    RecurrentMemory memory_of(int64_t image) const {
        Carver carver{session.recurrent + image * RecurrentMemory::bytes(states, op.C)};
        return RecurrentMemory(carver, states, op.C);
    }
    uint8_t* spikes_of(int64_t image, int64_t t) const { return out + (image * steps + t) * op.bytes(); }
    const uint8_t* fired_before(int64_t image, int64_t t) const { return t ? spikes_of(image, t - 1) : memory_of(image).fired; }

    void begin(int64_t image) const {
        load_recurrent(memory_of(image), states, n.start + image * n.start_image, n.start_state, op.C);
    }
    void end(int64_t image, Scratch& scratch) const {
        const RecurrentMemory memory = memory_of(image);
        memcpy(memory.fired, spikes_of(image, steps - 1), op.bytes());
        store_recurrent(memory, states, session.states[k].v + image * op.state_size, op.C);
        const int64_t sent = count_bits(spikes_of(image, 0), steps * op.bytes());
        scratch.tally[0] += sent, scratch.tally[1] += sent * (op.recurrent_full ? op.C : 1);
    }

    // An estimate of the nanoseconds that a step of an image takes, by what the first one fired in the step before.
    double step_time() const {
        constexpr double per_neuron = 0.25, per_byte = 0.05, least_rate = 0.02;
        const float* const spikes = n.start + states * n.start_state;
        int64_t fired = 0;
        for (int64_t c = 0; c < op.C; c++) fired += spikes[c] != 0;
        const double rows = op.recurrent_full ? std::max(least_rate * (double)op.C, (double)fired) : 0;
        return per_neuron * (double)op.C + per_byte * rows * (double)(op.back.row_bytes * op.blocks());
    }

    // All steps of an image.
    void run(int64_t image, Scratch& scratch) const {
        Carver carver{scratch.kernel};
        FiredLists lists(carver, 1, op);
        begin(image);
        for (int64_t t = 0; t < steps; t++) run_step(image, 1, t, 0, op.blocks(), lists);
        end(image, scratch);
    }

    // A step of the neurons of some blocks.
    void run_step(int64_t first, int64_t images, int64_t t, int64_t block_from, int64_t block_to, FiredLists& lists) const {
        if (lists.step != t && op.recurrent_full)
            for (int64_t i = 0; i < images; i++) {
                uint32_t* const list = lists.list + i * lists.room;
                lists.count[i] = list_fired(fired_before(first + i, t), op.bytes(), list);
                for (int64_t j = 0; j < most_group; j++) list[lists.count[i] + j] = (uint32_t)op.C;  // a row that adds nothing
            }
        lists.step = t;
        for (int64_t b = block_from; b < block_to; b++)
            for (int64_t i = 0; i < images; i++)
                run_block(first + i, t, b, lists.list + i * lists.room, op.recurrent_full ? lists.count[i] : 0);
    }

    void run_block(int64_t image, int64_t t, int64_t b, const uint32_t* list, int64_t count) const {
        const RecurrentMemory memory = memory_of(image);
        const float* const current = session.views[op.windows[0].slot].values_at(image, t, 0);
        uint8_t* const spikes = spikes_of(image, t);
        const int64_t first = b * columns, last = least(first + columns, op.C);
        alignas(64) float sums[columns];
        if (last < first + columns) memset(sums, 0, sizeof sums);
        memcpy(sums, current + first, (last - first) * sizeof(float));
        if (count) add_rows(list, count, b, sums);
        for (int64_t channel = first; channel < last; channel += block) {
            Block input = load_block(sums + channel - first);
            if (!op.recurrent_full) add_own(input, op.back.matrix, channel, fired_before(image, t), op.bytes());
            step_neurons(n.neuron, memory, channel, (int)least(block, op.C - channel), input, spikes);
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

// Runs N images, each on one thread.
static void run_images(Session& session, const Recurring& recurring, int64_t N) {
    struct Context {
        const Recurring& recurring;
        Scratch* scratch;
    } context{recurring, session.scratch};
    share(session, N, &context, [](void* given, int64_t image, int64_t thread) {
        const Context& c = *(const Context*)given;
        c.recurring.run(image, c.scratch[thread]);
    });
}

// Runs N images, each step on all threads.
static void run_in_parts(Session& session, const Recurring& recurring, int64_t N, int64_t count) {
    struct Context {
        const Recurring& recurring;
        Scratch* scratch;
        SharedSteps* shared;
        int64_t first, images;
    } context{recurring, session.scratch, nullptr, 0, 0};
    share(session, N, &context, [](void* given, int64_t image, int64_t) { ((const Context*)given)->recurring.begin(image); });
    for (int64_t first = 0; first < N; first += most_images) {
        SharedSteps shared(count, recurring.steps);
        context.shared = &shared, context.first = first, context.images = least(most_images, N - first);
        share(session, count, &context, [](void* given, int64_t own, int64_t thread) {
            const Context& c = *(const Context*)given;
            const Op& op = c.recurring.op;
            Carver carver{c.scratch[thread].kernel};
            FiredLists lists(carver, c.images, op);
            c.shared->run(own, [&](int64_t t, int64_t part) {
                const int64_t blocks = op.blocks(), parts = c.shared->count;
                c.recurring.run_step(c.first, c.images, t, blocks * part / parts, blocks * (part + 1) / parts, lists);
            });
        });
    }
    share(session, N, &context, [](void* given, int64_t image, int64_t thread) {
        const Context& c = *(const Context*)given;
        c.recurring.end(image, c.scratch[thread]);
    });
}

// How many threads share each step: 1 if there is an image for each of them, or if they would wait for each other longer than they
// save.
static int64_t parts_of(const Session& session, const Recurring& recurring, int64_t N) {
    constexpr double worth = PK_IS_CHECKED ? 1 : 500;  // nanoseconds of a part's step
    const Op& op = recurring.op;
    const int64_t crew = session.team->crew();
    if (N >= crew) return 1;
    const double parts = (double)N * recurring.step_time() / worth;
    return most(1, least(least(crew, op.blocks()), parts < most_parts ? (int64_t)parts : most_parts));
}

void run_recurrent(Session& session, int64_t k, int64_t N, int64_t steps, bool fresh) {
    const Recurring recurring(session, session.plan.ops[k], k, N, steps, fresh);
    const int64_t parts = parts_of(session, recurring, N);
    if (parts > 1) run_in_parts(session, recurring, N, parts);
    else run_images(session, recurring, N);
}

}  // namespace PK_TARGET
