// The kernel of recurrent neurons. Each image runs through all steps by itself.
#pragma once
#include "steps.h"

namespace PK_TARGET {

template <class Model>
static void recurrent_scan_of(const Recurrent& r) {
    const Neurons& n = r.scan.neurons;
    const RecurrentRows rows{r.weight, r.stride, r.full != 0};
    const int64_t bytes = ceil_div(n.C, 8), images = n.N;
#pragma omp parallel if (images > 1 && images * n.T * n.C > worth_threads / 4)
    {
        Memory<char> bytes_of_thread(RecurrentMemory::bytes(Model::states, n.C));
        Carver carver{bytes_of_thread.data};
        const RecurrentMemory memory(carver, Model::states, n.C);
#pragma omp for schedule(dynamic)
        for (int64_t image = 0; image < images; image++) {
            load_recurrent(memory, Model::states, n.start + image * n.start_image, n.start_state, n.C);
            const auto current = [&](int64_t t) { return r.scan.current + t * r.scan.time_stride + image * n.C; };
            const auto spikes = [&](int64_t t) { return n.spikes + (image * n.T + t) * bytes; };
            recurrent_steps<Model>(n.neuron, rows, n.T, n.C, memory, current, spikes, [](auto&&...) {});
            store_recurrent(memory, Model::states, n.v + image * (Model::states + 1) * n.C, n.C);
        }
    }
}

void recurrent_scan(const Recurrent* r) {
    with_model(r->scan.neurons.neuron, [&](auto model) { recurrent_scan_of<decltype(model)>(*r); });
}

}  // namespace PK_TARGET
