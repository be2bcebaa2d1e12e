// Backward passes: of a convolution's weights, and of recurrent neurons; scan_backward.h has those of neurons and pooling.
#include "set_bits.h"
#include "conv2d/weight_rows.h"
#include "work.h"
#include "scan_backward.h"
#include "recurrent_steps.h"

namespace PK_TARGET {

// The gradient of a convolution's weights, computed event by event from spikes and the gradient of the currents. The gradient
// of a weight is the sum of the gradients of its output over all pixels and steps at which its input fired. Each spike
// therefore adds one row for each tap of the kernel: the gradients of a block of output channels at the pixel that the tap
// leads to.
//
// A task is an image at one step. The stages:
//
// 1. list_spikes: lists, for each band of input rows and each input channel, the pixels that fired.
// 2. spread_rows: lays out the rows of all output pixels, for a block of output channels, on the grid of input pixels
//    (by stride and padding), with zeros between and around them, so that every tap of every pixel finds a row.
// 3. add_rows: adds up all taps in registers, for each band and input channel. The rows that a band reaches fit the
//    first-level cache for every channel.
//
// Each thread has its own sums, which are finally added in the order of the threads.

// How the rows of one image lie in memory.
struct SpreadImage {
    static constexpr int64_t cached_rows = 320;  // rows that a band reaches: 20 kB of a first-level cache of 32 kB or more
    static constexpr int64_t most_taps = 9;      // taps whose sums are in registers at a time

    int64_t H, W, first_y, first_x;      // size; coordinates of its first row and column on the grid of padded input pixels
    int64_t band, bands;                 // input rows of a band; bands
    int64_t taps;

    explicit SpreadImage(const Conv2d& c)
        : H(c.H + (c.kernel_h - 1) * c.dilation_h),
          W(c.W + (c.kernel_w - 1) * c.dilation_w),
          first_y(c.padding_h - (c.kernel_h - 1) * c.dilation_h),
          first_x(c.padding_w - (c.kernel_w - 1) * c.dilation_w),
          band(most(1, cached_rows / W - (c.kernel_h - 1) * c.dilation_h)),
          taps(c.kernel_h * c.kernel_w) {
        band = least(band, c.H);
        bands = ceil_div(c.H, most(1, band));
    }
    // The distance in bytes from a pixel's row to the row of one of its taps.
    int64_t offset(const Conv2d& c, int64_t tap) const {
        const int64_t y = (c.kernel_h - 1 - tap / c.kernel_w) * c.dilation_h;
        const int64_t x = (c.kernel_w - 1 - tap % c.kernel_w) * c.dilation_w;
        return (y * W + x) * row_line;
    }
};

struct WeightGradientMemory {
    Grown<uint32_t> spikes;  // [band][channel][pixel of a band]: byte offsets of the rows of pixels that fired
    Grown<int32_t> count;    // [band][channel]: how many fired
    ThreadMemory<float> rows;      // [SpreadImage.H][SpreadImage.W][channel of a block]
    ThreadMemory<float> sums;      // [block][C_in][tap][channel of a block]
    WeightGradientMemory(int64_t rows_size, int64_t sums_size) : rows(rows_size), sums(sums_size) {}

    void list_spikes(const Conv2d& c, const SpreadImage& spread, const uint8_t* x) {
        const int64_t bytes = (c.C_in + 7) / 8, longest = spread.band * c.W;
        uint32_t* const lists = spikes.reserve(spread.bands * c.C_in * longest);
        int32_t* const counts = count.reserve(spread.bands * c.C_in);
        memset(counts, 0, spread.bands * c.C_in * sizeof *counts);
        for (int64_t y = 0; y < c.H; y++) {
            const int64_t first = y / spread.band * c.C_in;
            for (int64_t column = 0; column < c.W; column++, x += bytes) {
                const uint32_t offset = (uint32_t)((y * spread.W + column) * row_line);
                for (int64_t byte = 0; byte < bytes; byte += 8)
                    for (uint64_t word = load_bits(x + byte, bytes - byte); word; word &= word - 1) {
                        const int64_t list = first + byte * 8 + __builtin_ctzll(word);
                        lists[list * longest + counts[list]++] = offset;
                    }
            }
        }
    }

    void spread_rows(const Conv2d& c, const SpreadImage& spread, const float* grad, int64_t channel) {
        const Neurons& n = c.neurons;
        const int channels = (int)least(n.C - channel, row);
        for (int64_t p = 0; p < n.P; p++) {
            const int64_t y = p / c.W_out * c.stride_h - spread.first_y, x = p % c.W_out * c.stride_w - spread.first_x;
            if (y < 0 || y >= spread.H || x < 0 || x >= spread.W) continue;  // its window holds only padding
            store_block(rows.data + (y * spread.W + x) * row, load_block<row>(grad + p * n.C + channel, channels));
        }
    }
};

// For each of `taps` taps: adds up the rows at that tap's offset from the rows of the listed pixels.
template <int taps>
OUT_OF_LINE static void add_rows(const char* rows, const uint32_t* pixels, int64_t n, const int64_t* offsets, float* sums) {
    int64_t offset[taps];
    for (int k = 0; k < taps; k++) offset[k] = offsets[k];
    for (int lane = 0; lane < row; lane += Vec::width) {  // one vector of each tap's sum at a time: all taps fit registers
        Vec sum[taps];
        for (int k = 0; k < taps; k++) sum[k] = load(sums + k * row + lane);
        const char* const first = rows + lane * sizeof(float);
        for (int64_t i = 0; i < n; i++) {
            const char* const pixel = first + pixels[i];
            for (int k = 0; k < taps; k++) sum[k] = sum[k] + load((const float*)(pixel + offset[k]));
        }
        for (int k = 0; k < taps; k++) store(sums + k * row + lane, sum[k]);
    }
}

template <int taps>
static void add_taps(int64_t count, const char* rows, const uint32_t* pixels, int64_t n, const int64_t* offsets, float* sums) {
    if (count == taps) add_rows<taps>(rows, pixels, n, offsets, sums);
    else if constexpr (taps > 1) add_taps<taps - 1>(count, rows, pixels, n, offsets, sums);
}

// Adds the spikes of one image at one step. grad: [P, C_out].
static void add_frame(const Conv2d& c, const SpreadImage& spread, const uint8_t* x, const float* grad, const int64_t* offsets,
                      WeightGradientMemory& memory) {
    memory.list_spikes(c, spread, x);
    const int64_t longest = spread.band * c.W;
    float* sums = memory.sums.data;
    for (int64_t channel = 0; channel < c.neurons.C; channel += row, sums += c.C_in * spread.taps * row) {
        memory.spread_rows(c, spread, grad, channel);
        for (int64_t list = 0; list < spread.bands * c.C_in; list++) {
            const int64_t n = memory.count.data[list];
            float* const its = sums + list % c.C_in * spread.taps * row;
            for (int64_t tap = 0; n && tap < spread.taps; tap += SpreadImage::most_taps)
                add_taps<SpreadImage::most_taps>(least(SpreadImage::most_taps, spread.taps - tap),
                                                 (const char*)memory.rows.data, memory.spikes.data + list * longest, n,
                                                 offsets + tap, its + tap * row);
        }
    }
}

void conv2d_weight_gradient(const WeightGradient* gradient) {
    const Conv2d& c = gradient->conv;
    const Neurons& n = c.neurons;
    const SpreadImage spread(c);
    const int64_t size = ceil_div(n.C, row) * c.C_in * spread.taps * row, threads = max_threads();
    ThreadMemory<int64_t> offsets(spread.taps);
    for (int64_t tap = 0; tap < spread.taps; tap++) offsets.data[tap] = spread.offset(c, tap);
    ThreadMemory<float*> parts(threads);
    memset(gradient->grad_weight, 0, size * sizeof(float));
#pragma omp parallel
    {
        WeightGradientMemory memory(spread.H * spread.W * row, size);
        parts.data[thread_number()] = memory.sums.data;
#pragma omp for schedule(static)
        for (int64_t frame = 0; frame < n.T * n.N; frame++) {  // frame = t * N + n
            const uint8_t* const x = c.x + (frame % n.N * n.T + frame / n.N) * c.H * c.W * ((c.C_in + 7) / 8);
            add_frame(c, spread, x, gradient->grad_current + frame * n.P * n.C, offsets.data, memory);
        }
#pragma omp for schedule(static)
        for (int64_t first = 0; first < size; first += row)
            for (int64_t thread = 0; thread < threads; thread++)
                if (parts.data[thread])
                    for (int64_t i = first; i < first + row; i++) gradient->grad_weight[i] += parts.data[thread][i];
    }
}

// Backpropagation through all T steps of recurrent neurons: scan_backward.h, with ds[t] += R^T dI[t+1].
//
// Some images run forward again, and store their states and currents in a scratch buffer; then they run back in time together,
// so that each block of rows of R is read once per step for all of them.

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
