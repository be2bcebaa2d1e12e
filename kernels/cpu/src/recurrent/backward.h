// Backpropagation through all T steps of recurrent neurons: scan_backward.h, with ds[t] += R^T dI[t+1].
//
// Some images run forward again, and store their states and currents in a scratch buffer; then they run back in time together,
// so that each block of rows of R is read once per step for all of them.
#pragma once
#include "../scan_backward.h"
#include "steps.h"

namespace PK_TARGET {

constexpr int rows_together = 8, images_together = 8;  // rows of R whose products are added in one pass over the sums

// sums[j] += sum of g[i] R[i][j] over `count` rows i. Skipped if all g are zero, as they often are with a triangle surrogate.
template <int count>
static inline void add_products(const float* row, int64_t stride, const float* g, float* sums, int64_t C) {
    Vec by[count];
    bool any = false;
    for (int k = 0; k < count; k++) by[k] = broadcast(g[k]), any = any || g[k] != 0;
    if (!any) return;
    for (int64_t j = 0; j < C; j += Vec::width) {
        Vec sum = load(sums + j);
        for (int k = 0; k < count; k++) sum = multiply_add(by[k], load(row + k * stride + j), sum);
        store(sums + j, sum);
    }
}

// The memory of a thread. For each image that it runs: the states and currents of each step, [T][states + 1][stride], and the
// arrays below.
template <class Model>
struct BackwardMemory {
    ThreadMemory<char> bytes;
    Carver carver{bytes.data};
    const RecurrentMemory forward;
    const int64_t T, stride;
    ThreadMemory<float> steps, grad_state, back, sums;  // back: the gradient that returns to the spikes through R
    ThreadMemory<uint8_t> spikes;
    BackwardMemory(int64_t images, int64_t T_, int64_t C)
        : bytes(RecurrentMemory::bytes(Model::states, C)),
          forward(carver, Model::states, C),
          T(T_),
          stride(forward.stride),
          steps(images * T * (Model::states + 1) * stride),
          grad_state(images * most_states * stride),
          back(images * stride),
          sums(images * (1 + most_channelwise) * stride),
          spikes(2 * ceil_div(C, 8)) {}
    float* before(int64_t i, int64_t t, int part) { return steps.data + ((i * T + t) * (Model::states + 1) + part) * stride; }
    float* state(int64_t i, int part) { return grad_state.data + (i * most_states + part) * stride; }
    float* returning(int64_t i) { return back.data + i * stride; }
    float* sum(int64_t i, int part) { return sums.data + (i * (1 + most_channelwise) + part) * stride; }
};

template <class Model>
static void run_recurrent_forward(const RecurrentBackward& r, int64_t image, int64_t i, BackwardMemory<Model>& memory) {
    const ScanBackward& s = r.scan;
    const RecurrentRows rows{r.weight, r.stride, r.full != 0};
    load_recurrent(memory.forward, Model::states, s.v + image * (Model::states + 1) * s.C, s.C, s.C);
    const auto current = [&](int64_t t) { return s.current + t * s.time_stride + image * s.C; };
    const auto spikes = [&](int64_t t) { return memory.spikes.data + t % 2 * ceil_div(s.C, 8); };
    recurrent_steps<Model>(s.neuron, rows, s.T, s.C, memory.forward, current, spikes,
                           [&](int64_t t, int64_t channel, int n, const Block& input) {
                               for (int k = 0; k < Model::states; k++)
                                   store_block(memory.before(i, t, k) + channel,
                                               load_block(memory.forward.states + k * memory.stride + channel), n);
                               store_block(memory.before(i, t, Model::states) + channel, input, n);
                           });
}

// Runs one backward step of an image: computes the gradients of its currents, which pass_back then passes to the spikes of the
// step before.
template <class Model, class Derivative>
static void step_back(const ScanBackward& s, const Parameters<float>& shared, const Derivative derivative, int64_t image,
                      int64_t i, int64_t t, BackwardMemory<Model>& memory) {
    const float* const grad_spikes = s.grad_spikes + (t * s.N + image) * s.C;
    const float *const v = memory.before(i, t, 0), *const other = memory.before(i, t, Model::states - 1);
    const float *const current = memory.before(i, t, Model::states), *const back = memory.returning(i);
    const float* const channels = s.neuron.channels;
    const int64_t stride = s.neuron.stride, C = s.C;
    float *const out = s.grad_current + (t * s.N + image) * C, *const grad_v = memory.state(i, 0);
    float *const grad_other = memory.state(i, 1), *const sums = memory.sum(i, 0);
    const int64_t part = memory.stride;
    const float pass = s.surrogate.detach_reset ? 0 : 1;
#pragma GCC ivdep  // the arrays do not overlap
    for (int64_t c = 0; c < C; c++) {
        Parameters<float> p = shared;
        p.theta = channels[c];
        p.decay = channelwise<Model> > 1 ? channels[stride + c] : 1;
        if (channelwise<Model> > 2) p.second_decay = channels[2 * stride + c];
        if (channelwise<Model> > 3) p.increment = channels[3 * stride + c];
        Gradients grad;
        grad.v = grad_v[c], grad.other = grad_other[c];
        const Before<Derivative> start{v[c], other[c], current[c], grad_spikes[c] + back[c], pass, derivative};
        Back<Model>::step(start, p, grad);
        grad_v[c] = grad.v, grad_other[c] = grad.other;
        sums[c] += grad.current;
        sums[part + c] += grad.theta;
        if (channelwise<Model> > 1) sums[2 * part + c] += grad.decay;
        if (channelwise<Model> > 2) sums[3 * part + c] += grad.second_decay;
        if (channelwise<Model> > 3) sums[4 * part + c] += grad.increment;
        out[c] = grad.current;
    }
}

// Computes the gradients of the spikes of step t - 1 from those of the currents of step t.
template <class Model>
static void pass_back(const RecurrentBackward& r, int64_t image, int64_t images, int64_t t, BackwardMemory<Model>& memory) {
    const ScanBackward& s = r.scan;
    const auto gradient = [&](int64_t i) { return s.grad_current + (t * s.N + image + i) * s.C; };
    if (!r.full) {
        for (int64_t i = 0; i < images; i++)
            for (int64_t c = 0; c < s.C; c++) memory.returning(i)[c] = r.back[c] * gradient(i)[c];
        return;
    }
    memset(memory.back.data, 0, images * memory.stride * sizeof(float));
    int64_t row = 0;
    for (; row + rows_together <= s.C; row += rows_together)
        for (int64_t i = 0; i < images; i++)
            add_products<rows_together>(r.back + row * r.stride, r.stride, gradient(i) + row, memory.returning(i), s.C);
    for (; row < s.C; row++)
        for (int64_t i = 0; i < images; i++)
            add_products<1>(r.back + row * r.stride, r.stride, gradient(i) + row, memory.returning(i), s.C);
}

// Runs some images through all steps and back, and adds the gradients of bias and parameters to `sums` [1 + 4][C].
template <class Model, class Derivative>
static void back_through_images(const RecurrentBackward& r, const Derivative derivative, int64_t image, int64_t images,
                                BackwardMemory<Model>& memory, double* sums) {
    const ScanBackward& s = r.scan;
    const auto shared = shared_parameters<Model, float>(s.neuron);
    const int64_t C = s.C, size = C * sizeof(float);
    memset(memory.sums.data, 0, memory.sums.size * sizeof(float));
    memset(memory.grad_state.data, 0, memory.grad_state.size * sizeof(float));
    memset(memory.back.data, 0, memory.back.size * sizeof(float));
    for (int64_t i = 0; i < images; i++) {
        run_recurrent_forward(r, image + i, i, memory);
        if (!s.grad_v_last) continue;
        const float* const last = s.grad_v_last + (image + i) * (Model::states + 1) * C;
        for (int k = 0; k < Model::states; k++) memcpy(memory.state(i, k), last + k * C, size);
        memcpy(memory.returning(i), last + Model::states * C, size);
    }
    for (int64_t t = s.T - 1; t >= 0; t--) {
        for (int64_t i = 0; i < images; i++) step_back(s, shared, derivative, image + i, i, t, memory);
        pass_back(r, image, images, t, memory);
    }
    for (int64_t i = 0; i < images; i++) {
        float* const grad_v = s.grad_v + (image + i) * (Model::states + 1) * C;
        for (int k = 0; k < Model::states; k++) memcpy(grad_v + k * C, memory.state(i, k), size);
        memcpy(grad_v + Model::states * C, memory.returning(i), size);
        for (int k = 0; k < 1 + channelwise<Model>; k++)
            for (int64_t c = 0; c < C; c++) sums[k * C + c] += memory.sum(i, k)[c];
    }
}

template <class Model>
static void recurrent_backward_of(const RecurrentBackward& r) {
    const ScanBackward& s = r.scan;
    const int64_t threads = max_threads(), size = (1 + most_channelwise) * s.C;
    const int64_t images = most(1, least(images_together, ceil_div(s.N, threads)));
    ThreadMemory<double> sums(threads * size);
    with_surrogate(s.surrogate, [&](auto derivative) {
#pragma omp parallel if (s.N > 1)
        {
            BackwardMemory<Model> memory(images, s.T, s.C);
#pragma omp for schedule(dynamic)
            for (int64_t image = 0; image < s.N; image += images)
                back_through_images<Model>(r, derivative, image, least(images, s.N - image), memory,
                                           sums.data + thread_number() * size);
        }
    });
    for (int64_t i = 0; i < size; i++) {
        s.grad_parameters[i] = 0;
        for (int64_t thread = 0; thread < threads; thread++) s.grad_parameters[i] += sums.data[thread * size + i];
    }
}

void recurrent_scan_backward(const RecurrentBackward* r) {
    with_model(r->scan.neuron, [&](auto model) { recurrent_backward_of<decltype(model)>(*r); });
}

}  // namespace PK_TARGET
