// Lays out the memory of a session: the states of its samples, and an arena for everything that lives during a segment.
// Existing memory is reused with a new layout, and replaced only if it is too small.
#pragma once
#include <unistd.h>

#include "../recurrent_steps.h"
#include "behind.h"
#include "marks.h"
#include "products.h"
#include "slot_lists.h"
#include "tasks.h"

namespace PK_TARGET {

// How many of `bytes` bytes are resident. The system provides a page when it is first written, and lists, which have room for
// every input to fire, are mostly untouched.
static int64_t bytes_present(const void* memory, int64_t bytes) {
#if !defined(__linux__)
    return bytes;  // unknown: count all of it
#else
    const int64_t page = sysconf(_SC_PAGESIZE), begin = (int64_t)memory, end = begin + bytes;
    constexpr int64_t most_pages = 1024;  // per query
    unsigned char present[most_pages];
    int64_t sum = 0;
    for (int64_t at = begin / page * page; at < end; at += most_pages * page) {
        const int64_t pages = least(most_pages, ceil_div(end - at, page));
        if (mincore((void*)at, (size_t)(pages * page), present)) return bytes;
        for (int64_t i = 0; i < pages; i++)
            if (present[i] & 1) sum += least(end, at + (i + 1) * page) - most(begin, at + i * page);
    }
    return sum;
#endif
}

static LayerState cut_state(const Op& op, int64_t N, Carver& carver) {
    LayerState state;
    if (op.state_size && !op.is_layer) state.v = carver.take<float>(N * op.state_size);  // the caller has a layer's
    if (op.sent_size) state.sent = carver.take<float>(N * op.sent_size);
    if (op.sent_size && !op.real) state.restless = carver.take<uint8_t>(N * op.P());
    if (op.kind == engine::Fire) state.alike = carver.take<uint8_t>(N * op.P());
    if (op.reach) state.again = carver.take<uint64_t>(N * pixel_words(op));
    if (const int64_t places = counted_places(op)) state.done = carver.take<uint32_t>(N * places + 1);
    if (op.reach && op.reach->drifts) state.due = carver.take<uint32_t>(N * pixel_words(op));
    return state;
}

// Replaces memory of a session; false if there is no memory.
static bool replace(Session& session, char*& memory, int64_t& size, int64_t bytes, bool zeros) {
    free(memory);
    memory = zeros ? allocate_zeros<char>(bytes) : try_allocate<char>(bytes);
    size = memory ? bytes : 0;
    if (!memory) session.refused = bytes, session.N = session.state_N = 0;
    return memory;
}

// False if there is no memory.
static bool cut_states(Session& session, int64_t N) {
    if (N == session.state_N) return true;
    const auto cut = [&](char* memory) {
        Carver carver{memory};
        for (int64_t k = 0; k < session.plan.count; k++) session.states[k] = cut_state(session.plan.ops[k], N, carver);
        return carver.bytes;
    };
    const int64_t bytes = cut(nullptr);
    if (bytes > session.state_bytes && !replace(session, session.state_arena, session.state_bytes, bytes, true)) return false;
    cut(session.state_arena);
    session.state_N = N;
    return true;
}

// Keeps the states of the n of N samples that do not leave. In place: each value stays or moves to a lower address.
static void keep_states(Session& session, const uint8_t* leaves, int64_t N, int64_t n) {
    catch_up(session);
    Carver before{session.state_arena}, after{session.state_arena};
    for (int64_t k = 0; k < session.plan.count; k++) {
        const Op& op = session.plan.ops[k];
        const LayerState from = cut_state(op, N, before), to = cut_state(op, n, after);
        const auto keep = [&](const void* of, void* at, int64_t bytes) {
            for (int64_t i = 0, kept = 0; i < N && at; i++)
                if (!leaves[i]) memmove((char*)at + kept++ * bytes, (const char*)of + i * bytes, bytes);
        };
        keep(from.v, to.v, op.state_size * (int64_t)sizeof(float));
        keep(from.sent, to.sent, op.sent_size * (int64_t)sizeof(float));
        keep(from.restless, to.restless, op.P());
        keep(from.alike, to.alike, op.P());
        session.states[k] = to;
    }
    session.state_N = n;
}

// Lays out the slots; a slot reuses the memory of slots that are no longer read. Returns the bytes of all.
static int64_t cut_slots(Session& session, int64_t N, int64_t steps, char* memory) {
    const Plan& plan = session.plan;
    int64_t *const at = session.slot_at, *const last = at + plan.count, all = 0;
    const auto size = [&](int64_t k) {
        if (plan.ops[k].is_sigma_delta && plan.input.is_layer) return int64_t(0);  // the caller has it
        return ceil_div(N * steps * slot_bytes(plan.ops[k], session.real[k]) + 1, 64) * 64;
    };
    for (int64_t k = 0; k < plan.count; k++) {
        last[k] = k;
        for (int64_t reader = k + 1; reader < plan.count; reader++)
            for (int64_t i = 0; i < plan.ops[reader].count; i++)
                if (plan.ops[reader].windows[i].slot == k + 1)
                    last[k] = most(last[k], most(reader, plan.ops[reader].maxima_of));
    }
    for (int64_t k = 0; k < plan.count; k++) {
        at[k] = 0;
        for (bool moved = true; moved;) {
            moved = false;
            for (int64_t other = 0; other < k; other++)
                if (last[other] >= k && at[k] < at[other] + size(other) && at[other] < at[k] + size(k)) {
                    at[k] = at[other] + size(other);
                    moved = true;
                }
        }
        all = most(all, at[k] + size(k));
        session.slots[k] = memory ? memory + at[k] : nullptr;
    }
    return all;
}

static void cut_scratch(Scratch& s, const Room& room, Carver& carver) {
    s.fired = carver.take<FiredPixel>(room.places);
    s.entries = carver.take<Entries>(room.sorted);
    s.channel = carver.take<uint32_t>(room.fired + overhang);
    s.sent = carver.take<float>(room.sent + overhang);
    for (uint32_t** list : {&s.size, &s.pattern_of}) *list = carver.take<uint32_t>(room.sorted);
    s.ids = room.sorted;
    s.patterns = carver.take<uint32_t>(64);
    s.row = carver.take<uint32_t>(room.rows + overhang);
    s.taps = carver.take<FiredTap>(room.taps);
    for (uint32_t** list : {&s.unsorted, &s.unsorted_pattern, &s.touched})
        *list = carver.take<uint32_t>(room.listed + overhang);
    s.bucket = carver.take<Bucket>(room.lists + 1);
    s.buckets = carver.take<uint32_t>(room.buckets);
    s.value = carver.take<float>(room.values + overhang);
    s.packed = carver.take<float>(room.packed);
    s.sums = carver.take<float>(room.items * columns);
    s.whole = carver.take<float>(room.whole * columns);
    for (int64_t** list : {&s.pixels, &s.copies, &s.additions, &s.spikes}) *list = carver.take<int64_t>(room.pixels);
    s.alike = carver.take<uint8_t>(room.alike);
    s.window_sums = carver.take<Block>(room.window);
    s.exact = carver.take<double>(columns);
    s.kernel = carver.take<char>(room.kernel);
    s.sigma_delta = carver.take<char>(room.sigma_delta);
    s.marks = carver.take<uint64_t>(room.marks);
    s.currents = carver.take<float>(room.currents);
    s.key = -1;
    if (!carver.memory) return;
    memset(s.size, 0, room.sorted * sizeof *s.size);
    memset(s.marks, 0, room.marks * sizeof *s.marks);
    memset(s.currents, 0, room.currents * sizeof *s.currents);
}

// The scratch memory of one thread for scattering a layer.
static Room scatter_room(const Op& op, int64_t N, int64_t threads) {
    Room room;
    if (!op.reach) return room;
    const PixelBands bands(op.P(), op.C, N, threads);
    room.marks = ceil_div(bands.words(), bands.count);
    room.currents = word_pixels * room.marks * op.C;
    return room;
}

// Takes memory for the lists of the slots that scattered layers read or write, and of max pooling between them.
static void cut_lists(Session& session, int64_t N, int64_t steps, int64_t threads, Carver& carver) {
    const Plan& plan = session.plan;
    for (int64_t slot = 0; slot <= plan.count; slot++) {
        const Op* const op = slot ? &plan.ops[slot - 1] : nullptr;
        FiredList& list = session.lists[slot] = FiredList{};
        list.C = op ? op->C : plan.input.C, list.P = op ? op->P() : plan.input.H * plan.input.W;
        list.N = N, list.steps = steps;
        bool wanted = op && op->reach;
        if (op && op->kind == engine::MaxPool && can_be_listed(list.C, list.P))
            wanted |= session.lists[op->windows[0].slot].room > 0;
        for (int64_t k = slot; k < plan.count; k++) wanted |= plan.ops[k].reach && plan.ops[k].windows[0].slot == slot;
        if (wanted) cut_list(list, threads, carver);
    }
}

// What the layers share that a thread calls by themselves, one after another.
struct SharedByLayers {
    Team* team = nullptr;
    Arena arena;
    ~SharedByLayers() { delete team; }
};

// What the calling thread's layers share, with a team of so many threads.
static SharedByLayers& shared_by_layers(int64_t threads) {
    static thread_local SharedByLayers layers;
    if (layers.team && !layers.team->fits(threads)) delete layers.team, layers.team = nullptr;
    if (!layers.team) layers.team = new Team(threads, true);
    return layers;
}

// The threads for the next run. Gives a layer the arena of the calling thread.
static Team& team_of(Session& session, int64_t threads) {
    if (session.plan.input.is_layer) {
        SharedByLayers& layers = shared_by_layers(threads);
        session.arena = &layers.arena;
        return *(session.team = layers.team);
    }
    if (!session.team || !session.team->fits(threads)) {
        delete session.team;
        session.team = new Team(threads);
    }
    return *session.team;
}

// Whether some inputs of an operation may be values.
static bool may_read_values(const Plan& plan, const Op& op) {
    bool values = false;
    for (int64_t i = 0; i < op.count; i++) {
        const int64_t slot = op.windows[i].slot;
        values |= plan.input.is_layer ? plan.input.is_real : !slot || plan.ops[slot - 1].real || plan.ops[slot - 1].of_input;
    }
    return values;
}

// Floats of the currents that tiles compute at a time, of any operation.
static int64_t tile_currents_room(const Plan& plan, int64_t N, int64_t steps) {
    int64_t room = 0;
    for (int64_t k = 0; k < plan.count; k++)
        for (const Op* op : {(const Op*)&plan.ops[k], plan.ops[k].maxima ? (const Op*)&plan.ops[k].maxima->op : nullptr})
            if (op && has_tile_currents(*op, steps))
                room = most(room, images_at_a_time(*op, N, steps) * steps * op->P() * op->C);
    return room;
}

// Bytes of the states of recurrent neurons, of any operation.
static int64_t recurrent_states_room(const Plan& plan, int64_t N) {
    int64_t room = 0;
    for (int64_t k = 0; k < plan.count; k++) {
        const Op& op = plan.ops[k];
        if (op.kind == engine::Recur) room = most(room, N * RecurrentMemory::bytes(op.states - 1, op.C));
    }
    return room;
}

// The scratch memory of one thread, when the work is cut for `threads` threads.
static Room room_of(const Plan& plan, int64_t N, int64_t steps, int64_t threads) {
    Room room;
    for (int64_t k = 0; k < plan.count; k++) {
        const Op& op = plan.ops[k];
        for (int64_t i = 0; i < op.count && (op.kind == engine::Send || op.kind == engine::SendMaxima); i++)
            room.sigma_delta = most(room.sigma_delta, sigma_delta_room(op, op.windows[i], steps));
        if (op.kind != engine::Fire && op.states) room.window = most(room.window, op.windows[0].taps());
        if (op.kind == engine::Recur) room.kernel = most(room.kernel, recurrent_room(op));
        if (op.kind == engine::Attention) room.window = most(room.window, attention_room(op));
        if (op.kind != engine::Fire) continue;
        room.include(scatter_room(op, N, threads));
        if (op.maxima) {
            room.kernel = most(room.kernel, maxima_room(op, plan, N, steps, threads));
            room.kernel = most(room.kernel, scattered_maxima_room(op, plan, N, threads));
            const Op& conv = plan.ops[op.maxima->conv];
            if (has_tile_currents(op.maxima->op, steps)) {
                const Behind behind(conv);
                const int64_t images = images_at_a_time(conv, N, steps);
                for (const int64_t some : {images, N % images})
                    if (some)
                        room.include(
                            Tasks(behind.op, some, steps, threads, false, false, &plan.ops[op.maxima->pool]).room(behind.op));
            }
            for (const int64_t some : {least(steps, most_pattern_steps), steps % most_pattern_steps}) {
                for (const bool values : {false, true})
                    if (some && (!values || may_read_values(plan, conv)))
                        room.include(Tasks(conv, N, some, threads, false, values, &plan.ops[op.maxima->pool]).room(conv));
            }
        }
        room.kernel = most(room.kernel, kernel_room(op, N, steps, threads));
        if (has_tile_currents(op, steps)) {
            const Behind behind(op);
            const int64_t images = images_at_a_time(op, N, steps);
            for (const int64_t some : {images, N % images})
                if (some) room.include(Tasks(behind.op, some, steps, threads, false, false).room(behind.op));
        }
        if (op.spikes_that_move && has_kernel(op, N, steps) && op.P() > 1) continue;  // with one pixel, either way may run
        for (const int64_t some : {least(steps, most_pattern_steps), steps % most_pattern_steps})
            for (const bool held : {false, true}) {
                for (const bool values : {false, true})
                    if (some && (!values || may_read_values(plan, op)))
                        room.include(Tasks(op, N, some, threads, held, values).room(op));
                if (const Op* const other = op.for_spikes; other && some)
                    room.include(Tasks(*other, N, some, threads, held, false).room(*other));
            }
    }
    return room;
}

// Takes working memory for networks of sigma-delta neurons, in addition to their slots.
static void cut_sigma_delta(Session& session, int64_t N, int64_t steps, Carver& carver) {
    const Plan& plan = session.plan;
    int64_t places = 0, row = 0, added = 0, brought = 0, messages = 0, message_counts = 0, codes = 0, code_lists = 0;
    for (int64_t k = 0; k < plan.count; k++) {
        const Op& op = plan.ops[k];
        session.changes[k + 1].active = carver.take<uint8_t>(N * op.P());
        places = most(places, N * op.P());
        if (op.kind != engine::Send && op.kind != engine::SendMaxima) continue;
        for (int64_t i = 0; i < op.count; i++) {
            const Window& w = op.windows[i];
            row = most(row, mark_room(op, w));
            if (op.kind != engine::Send || !has_messages(plan.ops[w.slot - 1], w)) continue;
            const int64_t lists = N * steps * w.H * w.W * w.groups;
            if (w.kind == RowKind::Bytes) {
                codes = most(codes, lists * list_room(w.C / w.groups) + codes_behind), code_lists = most(code_lists, lists);
                continue;
            }
            messages = most(messages, N * steps * w.H * w.W * w.C);
            message_counts = most(message_counts, lists);
        }
        const int64_t values = N * steps * op.P() * op.C;
        if (op.count > 1) added = most(added, values);
        if (op.count > 2) brought = most(brought, values);
    }
    session.places = carver.take<int64_t>(places);
    session.marks = carver.take<uint8_t>(places), session.mark_row = carver.take<uint8_t>(row);
    session.added = carver.take<float>(added), session.brought = carver.take<float>(brought);
    session.messages = {carver.take<Message>(messages), carver.take<uint32_t>(message_counts)};
    session.codes = {carver.take<uint16_t>(codes), carver.take<int8_t>(codes), carver.take<uint32_t>(code_lists),
                     carver.take<int32_t>(code_lists)};
}

// Lays out the arena for N images and `steps` steps, with the work cut for `threads` threads, which is 1 or `all_threads`.
// False if there is no memory.
static bool cut_arena(Session& session, int64_t N, int64_t steps, int64_t threads, int64_t all_threads) {
    const Plan& plan = session.plan;
    Arena& arena = *session.arena;
    const bool cut_so = N == session.N && steps == session.steps && threads == session.threads;
    const bool cut_here = session.cut_from == arena.memory && session.cut_bytes <= arena.bytes;
    if (cut_so && cut_here && all_threads == session.most_threads) {
        for (int64_t i = 0; i < threads && arena.last != &session; i++)  // another layer has written here
            memset(session.scratch[i].size, 0, session.scratch[i].ids * sizeof *session.scratch[i].size);
        arena.last = &session;
        return true;
    }
    const auto cut = [&](char* memory, int64_t crew) {
        const Room room = room_of(plan, N, steps, crew);
        Carver carver{memory};
        char* const slots = carver.take<char>(cut_slots(session, N, steps, nullptr));
        if (memory) cut_slots(session, N, steps, slots);
        if (plan.is_sigma_delta() && !plan.input.is_layer) cut_sigma_delta(session, N, steps, carver);
        session.sigma_delta_bytes = room.sigma_delta;
        for (int64_t i = 0; i < crew; i++) cut_scratch(session.scratch[i], room, carver);
        cut_lists(session, N, steps, crew, carver);
        session.tile_currents = carver.take<float>(tile_currents_room(plan, N, steps));
        session.recurrent = carver.take<char>(recurrent_states_room(plan, N));
        return carver.bytes;
    };
    if (all_threads > session.scratches) {
        delete[] session.scratch;
        session.scratch = new Scratch[all_threads];
        session.scratches = all_threads;
    }
    const int64_t bytes =
        most(cut(nullptr, 1), cut(nullptr, all_threads));  // enough for both, so that nothing is allocated when threads join
    if (bytes > arena.bytes && !replace(session, arena.memory, arena.bytes, bytes, false)) return false;
    cut(arena.memory, threads);
    arena.last = &session, session.cut_from = arena.memory, session.cut_bytes = bytes;
    session.N = N, session.steps = steps, session.threads = threads, session.most_threads = all_threads;
    return true;
}

}  // namespace PK_TARGET
