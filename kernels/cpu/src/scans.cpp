// Neurons on given currents, and layers whose currents never leave the registers.
#include "conv2d/depthwise.h"
#include "conv2d/pointwise_real.h"
#include "if_scan.h"
#include "periodic_spikes.h"
#include "recurrent/scan.h"

namespace PK_TARGET {

void depthwise_conv2d(const Conv2d* conv) {
    const Conv2d& c = *conv;
    const Neurons& n = c.neurons;
    with_model_or_sums(n.neuron, [&](auto model) {
#pragma omp parallel
        {
            DepthwiseTaps taps;
#pragma omp for schedule(dynamic, 16)
            for (int64_t place = 0; place < n.N * n.P; place++) fire_depthwise_pixels(c, model, place, place + 1, taps);
        }
    });
}

}  // namespace PK_TARGET
