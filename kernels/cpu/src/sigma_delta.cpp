// Convolutions with sigma-delta neurons, and max pooling of their codes, on OpenMP's threads.
#include "sigma_delta/call.h"

namespace PK_TARGET {

// Calls task(number, scratch, counted) for all tasks.
template <class Scratch, class Task>
static void launch(const SigmaDelta& s, int64_t tasks, Task task) {
    Carver size{nullptr};
    Scratch(s, size);
    int64_t additions = 0, spikes = 0;
#pragma omp parallel reduction(+ : additions, spikes)
    {
        const ThreadMemory<char> memory(size.bytes);
        Carver carver{memory.data};
        Scratch scratch(s, carver);
        Counted counted;
#pragma omp for schedule(dynamic)
        for (int64_t number = 0; number < tasks; number++) task(number, scratch, counted);
        additions += counted.additions, spikes += counted.spikes;
    }
    s.counts[0] += spikes, s.counts[1] += additions;
}

void sigma_delta_conv2d(const SigmaDelta* given) {
    const SigmaDelta& s = *given;
    const SigmaDeltaCall call(s);
    const double rate = dense_rate(call);
    if (rate <= 1 && rate_of(s) >= rate)
        launch<DenseScratch>(s, dense_tasks(call),
                             [&](int64_t task, auto& scratch, Counted& counted) { dense_task(call, task, scratch, counted); });
    else
        launch<SigmaDeltaTaps>(s, place_tasks(call),
                               [&](int64_t task, auto& taps, Counted& counted) { rows_task(call, task, taps, counted); });
}

void sigma_delta_depthwise(const SigmaDelta* s) {
    const SigmaDeltaCall call(*s);
    launch<SigmaDeltaTaps>(*s, place_tasks(call),
                           [&](int64_t task, auto& taps, Counted& counted) { depthwise_task(call, task, taps, counted); });
}

void sigma_delta_maximum(const SigmaDelta* given) {
    const SigmaDelta& s = *given;
    const SigmaDeltaCall call(s);
    launch<MaximumScratch>(s, place_tasks(call),
                           [&](int64_t task, auto& scratch, Counted& counted) { maximum_task(call, task, scratch, counted); });
    const int64_t P = s.H * s.W;
    if (!s.z) return;
#pragma omp parallel for
    for (int64_t image = 0; image < s.N; image++) add_up_sent(s, image * P, (image + 1) * P);
}

}  // namespace PK_TARGET
