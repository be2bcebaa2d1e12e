// What this library was built from, in words: abi.py compares it with its own lists before it calls anything.
#include "abi.h"
#include "models.h"
#include "surrogate_names.h"

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <type_traits>

namespace {

// clang-format off: lists
template <class T> const char* const name = nullptr;
#define NAME(type, words) template <> const char* const name<type> = words;
NAME(void, "void") NAME(float, "float") NAME(double, "double") NAME(int64_t, "int64") NAME(uint64_t, "uint64")
NAME(Neuron, "Neuron") NAME(Neurons, "Neurons") NAME(Scan, "Scan") NAME(Surrogate, "Surrogate") NAME(ScanBackward, "ScanBackward")
NAME(Conv2d, "Conv2d") NAME(Product, "Product") NAME(Rounding, "Rounding") NAME(MaxRatePool, "MaxRatePool") NAME(WeightGradient, "WeightGradient") NAME(PoolBackward, "PoolBackward")
NAME(Periods, "Periods") NAME(PeriodConv2d, "PeriodConv2d") NAME(Pool2d, "Pool2d") NAME(DenseSpikes, "DenseSpikes")
// clang-format on

// A type as abi.py spells it; pointers to anything but a struct are all alike.
template <class T> struct Type {
    static void print(FILE* out) { fputs(name<T>, out); }
};
template <class T> struct Type<T*> {
    static void print(FILE* out) {
        if constexpr (std::is_class_v<T>) fprintf(out, "%s*", name<std::remove_const_t<T>>);
        else fputs("pointer", out);
    }
};
template <class T, size_t length> struct Type<T[length]> {
    static void print(FILE* out) {
        Type<T>::print(out);
        fprintf(out, "[%zu]", length);
    }
};
template <class Result, class... Arguments> struct Type<Result (*)(Arguments...)> {
    static void print(FILE* out) {
        [[maybe_unused]] const char* comma = "";
        Type<Result>::print(out);
        fputs("(", out);
        ((fputs(comma, out), comma = ", ", Type<Arguments>::print(out)), ...);
        fputs(")", out);
    }
};

// By stdio: a manylinux2014 wheel may find a libstdc++ that is older than today's std::string.
const char* describe() {
    char* text = nullptr;
    size_t size = 0;
    FILE* out = open_memstream(&text, &size);
    if (!out) abort();  // out of memory
    fprintf(out, "sources: %s\n", PK_SOURCES);
#define SIZE(Struct) fprintf(out, #Struct ": %zu bytes\n", sizeof(Struct));
#define FIELD(Struct, field)                   \
    fprintf(out, #Struct "." #field ": ");     \
    Type<decltype(Struct::field)>::print(out); \
    fprintf(out, " at %zu\n", offsetof(Struct, field));

    // clang-format off
#define F(field) FIELD(Neuron, field)
    SIZE(Neuron)
    F(channels) F(stride) F(model) F(scalars)
#undef F
#define F(field) FIELD(Neurons, field)
    SIZE(Neurons)
    F(neuron) F(start) F(v) F(spikes) F(start_image) F(start_state) F(start_pixel) F(T) F(N) F(P) F(C)
#undef F
#define F(field) FIELD(Scan, field)
    SIZE(Scan)
    F(neurons) F(current) F(time_stride)
#undef F
#define F(field) FIELD(Surrogate, field)
    SIZE(Surrogate)
    F(shape) F(numbers) F(detach_reset)
#undef F
#define F(field) FIELD(ScanBackward, field)
    SIZE(ScanBackward)
    F(neuron) F(surrogate) F(v) F(current) F(time_stride) F(grad_spikes) F(grad_v_last) F(grad_current) F(grad_v)
    F(grad_parameters) F(T) F(N) F(P) F(C)
#undef F
#define F(field) FIELD(Conv2d, field)
    SIZE(Conv2d)
    F(neurons) F(x) F(weight) F(bias) F(unit) F(currents) F(shortcut) F(digits) F(row_channels) F(slice_rows) F(negated) F(groups) F(C_in) F(H) F(W) F(W_out)
    F(kernel_h) F(kernel_w) F(stride_h) F(stride_w) F(padding_h) F(padding_w) F(dilation_h) F(dilation_w)
#undef F
#define F(field) FIELD(Product, field)
    SIZE(Product)
    F(neurons) F(x) F(weight) F(bias) F(C_in)
#undef F
#define F(field) FIELD(Rounding, field)
    SIZE(Rounding)
    F(weight) F(bias) F(rounded) F(rounded_bias) F(unit) F(C) F(inputs) F(largest) F(room) F(half_room)
#undef F
#define F(field) FIELD(WeightGradient, field)
    SIZE(WeightGradient)
    F(conv) F(grad_current) F(grad_weight)
#undef F
#define F(field) FIELD(Periods, field)
    SIZE(Periods)
    F(current) F(neuron) F(v) F(periods) F(M) F(C) F(T)
#undef F
#define F(field) FIELD(PeriodConv2d, field)
    SIZE(PeriodConv2d)
    F(conv) F(periods) F(start) F(longest)
#undef F
#define F(field) FIELD(Pool2d, field)
    SIZE(Pool2d)
    F(x) F(y) F(M) F(H) F(W) F(bytes) F(H_out) F(W_out)
    F(kernel_h) F(kernel_w) F(stride_h) F(stride_w) F(padding_h) F(padding_w)
#undef F
#define F(field) FIELD(MaxRatePool, field)
    SIZE(MaxRatePool)
    F(pool) F(counts) F(T) F(C)
#undef F
#define F(field) FIELD(PoolBackward, field)
    SIZE(PoolBackward)
    F(pool) F(grad_y) F(grad_x) F(T) F(N) F(C)
#undef F
#define F(field) FIELD(DenseSpikes, field)
    SIZE(DenseSpikes)
    F(dense) F(spikes) F(size) F(is_float) F(one) F(T) F(N) F(C) F(H) F(W) F(step) F(image) F(channel) F(row) F(pixel)
#undef F
#define F(field) FIELD(Kernels, field)
    SIZE(Kernels)
    F(if_scan) F(scan_backward) F(conv2d_weight_gradient) F(max_pool2d_backward) F(event_conv2d) F(pattern_conv2d) F(period_conv2d)
    F(depthwise_conv2d) F(lookup_conv2d) F(tile_conv2d) F(im2col) F(real_product) F(round_weights) F(max_pool2d) F(max_rate_pool2d) F(pack_rows) F(rows_size) F(count_digits) F(pack_tiles) F(tiles_size)
    F(pack) F(unpack) F(count) F(flatten) F(total) F(count_rows) F(find_periods) F(expand_periods) F(total_periods)
    F(fingerprint) F(max_threads)
#undef F
#define MODEL(name, states, channels, scalars) fputs("model: " #name " " #states " " #channels " " #scalars "\n", out);
    PK_MODELS(MODEL)
#undef MODEL
#define SURROGATE(name) fputs("surrogate: " #name "\n", out);
    PK_SURROGATES(SURROGATE)
#undef SURROGATE
    // clang-format on
    if (fclose(out)) abort();
    return text;
}

}  // namespace

// Never change this function's signature: Python files of any version call it before they know the library.
extern "C" __attribute__((visibility("default"))) const char* proxykernels_interface() {
    static const char* const text = describe();
    return text;
}
