// Random cases of the CPU kernels against the definition written out once more in plain loops, for machines that have no
// torch: tests/other_machine.py builds this for another processor and runs it under an emulator of that.
//
//     other_machine SEED CASES        prints how many cases of each kernel ran; ends with 1 at the first that is wrong
//
// All numbers are small multiples of 1/16, so that float sums are exact in any order and every comparison is of bits.
#include "other_machine.h"

namespace {

// The plan of a layer, as a description of it gives one.
engine::Plan* plan_of(const Conv2d& c, bool has_shortcut, bool is_long) {
    engine::Window reads[2];
    engine::Window& w = reads[0];
    w.kernel_h = c.kernel_h, w.kernel_w = c.kernel_w, w.stride_h = c.stride_h, w.stride_w = c.stride_w;
    w.padding_h = c.padding_h, w.padding_w = c.padding_w, w.dilation_h = c.dilation_h, w.dilation_w = c.dilation_w;
    w.groups = c.groups, w.weight = (const float*)c.weight;
    reads[1].slot = 2;
    engine::Operation op;
    op.kind = engine::Fire, op.reads = reads, op.count = 1 + has_shortcut, op.has_neurons = true;
    op.C = c.neurons.C, op.H = c.neurons.P / c.W_out, op.W = c.W_out;
    op.neurons.model = c.neurons.neuron.model, op.neurons.channels = c.neurons.neuron.channels, op.neurons.bias = c.bias;
    const engine::Description described{{c.C_in, c.H, c.W, true, false, is_long}, 24, &op, 1};
    return functions->make_plan(&described, false);
}

// One convolution by a plan: "floats", "shorts" and "bytes" by the rows that its weights fit, or "depthwise".
void convolve(const std::string& kernel) {
    const bool depthwise = kernel == "depthwise";
    Geometry g;
    while (!g.draw_one(depthwise)) {}
    const int64_t N = draw(1, 3), T = draw(0, 3) ? draw(1, 40) : draw(41, 150), P = g.out[0] * g.out[1];
    const int64_t inputs = depthwise ? 1 : g.C_in;
    current_case = kernel + " N " + std::to_string(N) + " T " + std::to_string(T) + " C " + std::to_string(g.C_in) + " -> " +
                   std::to_string(g.C_out) + " image " + std::to_string(g.H) + "x" + std::to_string(g.W) + " kernel " +
                   std::to_string(g.kernel[0]) + "x" + std::to_string(g.kernel[1]);
    Spikes x(N, T, g.H * g.W, g.C_in);
    x.draw_images();
    std::vector<float> weight = sixteenths(g.C_out * inputs * g.taps(), -16, 16);  // [C_out][C_in][tap]
    for (size_t i = 0; i < weight.size(); i += 7)  // as few bits as rows of integers hold, or more
        weight[i] += kernel == "floats" ? 0x1p-14f : kernel == "shorts" ? 0x1p-8f : 0;
    const std::vector<float> bias = sixteenths(g.C_out, -4, 4);
    Population population(N, P, g.C_out, draw(0, 1) ? 0 : 64);
    if (draw(0, 1))  // all pixels start alike
        for (size_t i = g.C_out; i < population.v.size(); i++) population.v[i] = population.v[i - g.C_out];
    const std::vector<float> before = population.v;
    std::vector<float> v(before.size(), never);
    Spikes y(N, T, P, g.C_out), actual(N, T, P, g.C_out);
    const bool shortcut = !depthwise && draw(0, 1);
    Spikes added(N, T, P, g.C_out);
    if (shortcut) added.draw_all();
    population.run(y, [&](int64_t n, int64_t t, int64_t p, int64_t c) {
        float sum = bias[c] + (shortcut && added.at(n, t, p, c));
        g.each_tap(p, [&](int64_t tap, int64_t pixel) {
            for (int64_t i = 0; i < inputs; i++)
                if (x.at(n, t, pixel, depthwise ? c : i)) sum += weight[(c * inputs + i) * g.taps() + tap];
        });
        return sum;
    });

    const std::vector<float> theta = padded(population.theta, never);
    Conv2d c{};
    c.neurons = population.layer(theta, before, v, actual);
    c.weight = weight.data(), c.bias = bias.data(), c.groups = depthwise ? g.C_in : 1;
    c.C_in = g.C_in, c.H = g.H, c.W = g.W, c.W_out = g.out[1];
    c.kernel_h = g.kernel[0], c.kernel_w = g.kernel[1], c.stride_h = g.stride[0], c.stride_w = g.stride[1];
    c.padding_h = g.padding[0], c.padding_w = g.padding[1], c.dilation_h = g.dilation[0], c.dilation_w = g.dilation[1];
    engine::Plan* const plan = plan_of(c, shortcut, draw(0, 1));
    engine::Session* const session = functions->make_session(plan);
    engine::Run run{};
    run.x = x.packed.data(), run.kind = engine::PackedSpikes, run.T = T, run.N = N, run.threads = draw(1, 2);
    run.neurons = &c.neurons, run.shortcut = shortcut ? added.packed.data() : nullptr;
    if (functions->run(session, &run) != engine::Ran) wrong("the run did not end");
    functions->free_session(session);
    functions->free_plan(plan);
    same("spikes", actual.packed, y.packed);
    same("potentials", v, population.v);
    with_spikes[kernel] += total_of(y.packed) > 0;
}

void scan() {
    const int64_t N = draw(1, 4), T = draw(1, 70), P = draw(1, 6), C = draw(1, 80);
    const bool held = draw(0, 1), rest = held && draw(0, 1);
    current_case = std::string(rest ? "periods found" : held ? "held scan" : "scan") + " C " + std::to_string(C);
    Population population(N, P, C, 32);
    if (rest) population.soft = false, population.v_reset = 0, std::fill(population.v.begin(), population.v.end(), 0.0f);
    const std::vector<float> before = population.v;
    std::vector<float> v = rest ? before : std::vector<float>(before.size(), never);
    const std::vector<float> current = sixteenths((held ? 1 : T) * N * P * C, -4, 20);
    Spikes y(N, T, P, C), actual(N, T, P, C);
    population.run(
        y, [&](int64_t n, int64_t t, int64_t p, int64_t c) { return current[(((held ? 0 : t) * N + n) * P + p) * C + c]; });
    const std::vector<float> theta = padded(population.theta, never);
    if (rest) {
        std::vector<uint16_t> period(N * P * C);
        const Periods found{current.data(), population.neuron(theta), v.data(), period.data(), N * P, C, T};
        kernels->find_periods(&found);
        kernels->expand_periods(period.data(), actual.packed.data(), 0, T, N, P, C);
    } else {
        const Scan s{population.layer(theta, before, v, actual), current.data(), held ? 0 : N * P * C};
        kernels->if_scan(&s);
    }
    same("spikes", actual.packed, y.packed);
    same("potentials", v, population.v);
    with_spikes["scan"] += total_of(y.packed) > 0;
}

void words() {
    const int64_t H = draw(1, 8), W = draw(1, 8), T = draw(1, 20), N = draw(1, 3), C = draw(1, 140), P = H * W;
    current_case = "words C " + std::to_string(C);
    Spikes x(N, T, P, C);
    x.draw_all();
    std::vector<uint8_t> dense(T * N * C * P), packed(x.packed.size()), again(dense.size());  // dense [T][N][C][P]
    std::vector<int32_t> counts(N * C * P), expected(N * C * P);
    std::vector<uint8_t> flat(N * T * bytes_of(C * P)), flat_expected(flat.size());
    std::vector<int64_t> totals(P), totals_expected(P);
    const int64_t until = draw(0, T);
    for (int64_t n = 0; n < N; n++)
        for (int64_t t = 0; t < T; t++)
            for (int64_t p = 0; p < P; p++)
                for (int64_t c = 0; c < C; c++) {
                    const uint8_t s = x.at(n, t, p, c);
                    dense[((t * N + n) * C + c) * P + p] = s;
                    expected[(n * C + c) * P + p] += t < until ? s : 0;
                    flat_expected[(n * T + t) * bytes_of(C * P) + (c * P + p) / 8] |= (uint8_t)(s << (c * P + p) % 8);
                    totals_expected[p] += s;
                }
    const int64_t image = C * P, strides[] = {N * image, image, P, W, 1};
    auto whole = [&](std::vector<uint8_t>& values) {
        return DenseSpikes{values.data(), packed.data(), 1,          0,          1,         T, N, C, H, W,
                           strides[0],    strides[1],    strides[2], strides[3], strides[4]};
    };
    const DenseSpikes from = whole(dense), back = whole(again);
    if (!kernels->pack(&from)) packed.clear();  // all values are 0 and 1
    same("pack", packed, x.packed);
    kernels->unpack(&back);
    same("unpack", again, dense);
    kernels->count(packed.data(), counts.data(), T, until, N, C, P);
    same("count", counts, expected);
    kernels->flatten(packed.data(), flat.data(), N * T, C, P);
    same("flatten", flat, flat_expected);
    kernels->total(packed.data(), totals.data(), N * T, P, bytes_of(C));
    same("total", totals, totals_expected);

    Geometry g;
    while (!g.draw_one(true)) {}
    g.H = H, g.W = W, g.dilation[0] = g.dilation[1] = 1;
    for (int i = 0; i < 2; i++) {
        const int64_t size = i ? W : H;
        g.kernel[i] = draw(1, size), g.padding[i] = draw(0, g.kernel[i] / 2);
        g.out[i] = (size + 2 * g.padding[i] - g.kernel[i]) / g.stride[i] + 1;
    }
    Spikes y(N, T, g.out[0] * g.out[1], C), pooled(N, T, y.P, C);
    for (int64_t n = 0; n < N; n++)
        for (int64_t t = 0; t < T; t++)
            for (int64_t p = 0; p < y.P; p++)
                for (int64_t c = 0; c < C; c++)
                    g.each_tap(p, [&](int64_t, int64_t pixel) { y.at(n, t, p, c) |= x.at(n, t, pixel, c); });
    y.pack();
    // clang-format off
    const Pool2d pool{x.packed.data(), pooled.packed.data(), N * T, H, W, bytes_of(C), g.out[0], g.out[1],
                      g.kernel[0], g.kernel[1], g.stride[0], g.stride[1], g.padding[0], g.padding[1]};
    // clang-format on
    kernels->max_pool2d(&pool);
    same("max pooling", pooled.packed, y.packed);
    with_spikes["words"] += total_of(packed) > 0;
}

}  // namespace

int main(int count, char** arguments) {
    generator.state = count > 1 ? strtoull(arguments[1], nullptr, 10) : 0;
    const int64_t cases = count > 2 ? atoll(arguments[2]) : 1000;
    kernels = &portable::kernels;
    functions = &portable::functions;
    const char* names[] = {"floats", "shorts", "bytes", "depthwise"};
    for (int64_t i = 0; i < cases; i++) {
        const int64_t which = i % 6;
        const std::string name = which < 4 ? names[which] : which == 4 ? "scan" : "words";
        which < 4 ? convolve(name) : which == 4 ? scan() : words();
        ran[name]++;
    }
    for (const auto& [name, n] : ran) printf("%s: %d cases, %d with spikes\n", name.c_str(), n, with_spikes[name]);
    for (const auto& [name, n] : ran)
        if (2 * with_spikes[name] < n) wrong("too few spikes to say anything: " + name);
    printf("%lld passed, 0 failed\n", (long long)cases);
}
