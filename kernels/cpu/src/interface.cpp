// What this library was built from, in words: abi.py compares it with its own lists before it calls anything.
#include "abi.h"

#include <cstddef>
#include <string>
#include <type_traits>

namespace {

template <class T> const char* const name = nullptr;
#define NAME(type, words) template <> const char* const name<type> = words;
NAME(void, "void") NAME(float, "float") NAME(int64_t, "int64") NAME(uint64_t, "uint64")
NAME(Neuron, "Neuron") NAME(Neurons, "Neurons") NAME(Scan, "Scan") NAME(ScanBackward, "ScanBackward") NAME(Conv2d, "Conv2d")
NAME(Periods, "Periods") NAME(PeriodConv2d, "PeriodConv2d") NAME(Pool2d, "Pool2d") NAME(Kernels, "Kernels")

// A type as abi.py spells it; pointers to anything but a struct are all alike.
template <class T> struct Type {
    static std::string spell() { return name<T>; }
};
template <class T> struct Type<T*> {
    static std::string spell() {
        if constexpr (std::is_class_v<T>) return std::string(name<std::remove_const_t<T>>) + "*";
        return "pointer";
    }
};
template <class Result, class... Arguments> struct Type<Result (*)(Arguments...)> {
    static std::string spell() {
        std::string list;
        ((list += (list.empty() ? "" : ", ") + Type<Arguments>::spell()), ...);
        return Type<Result>::spell() + "(" + list + ")";
    }
};

std::string describe() {
    std::string text = "sources: " PK_SOURCES "\n";
#define SIZE(Struct) text += std::string(#Struct ": ") + std::to_string(sizeof(Struct)) + " bytes\n";
#define FIELD(Struct, field)                                                                      \
    text += std::string(#Struct "." #field ": ") + Type<decltype(Struct::field)>::spell() + " at " + \
            std::to_string(offsetof(Struct, field)) + "\n";

#define F(field) FIELD(Neuron, field)
    SIZE(Neuron)
    F(theta) F(soft_reset) F(v_reset)
#undef F
#define F(field) FIELD(Neurons, field)
    SIZE(Neurons)
    F(neuron) F(v) F(spikes) F(T) F(N) F(P) F(C)
#undef F
#define F(field) FIELD(Scan, field)
    SIZE(Scan)
    F(neurons) F(current) F(time_stride)
#undef F
#define F(field) FIELD(ScanBackward, field)
    SIZE(ScanBackward)
    F(neuron) F(scale) F(current) F(grad_spikes) F(grad_current) F(T) F(N) F(P) F(C)
#undef F
#define F(field) FIELD(Conv2d, field)
    SIZE(Conv2d)
    F(neurons) F(x) F(weight) F(bias) F(unit) F(digits) F(slice_rows) F(groups) F(C_in) F(H) F(W) F(W_out)
    F(kernel_h) F(kernel_w) F(stride_h) F(stride_w) F(padding_h) F(padding_w) F(dilation_h) F(dilation_w)
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
#define F(field) FIELD(Kernels, field)
    SIZE(Kernels)
    F(if_scan) F(if_scan_backward) F(event_conv2d) F(period_conv2d) F(depthwise_conv2d) F(lookup_conv2d)
    F(tile_conv2d) F(max_pool2d) F(pack_rows) F(rows_size) F(count_digits) F(pack_tiles) F(tiles_size)
    F(pack) F(unpack) F(count) F(flatten) F(total) F(count_rows) F(find_periods) F(expand_periods) F(total_periods)
    F(fingerprint)
#undef F
    return text;
}

}  // namespace

// Never change this function's signature: Python files of any version call it before they know the library.
extern "C" __attribute__((visibility("default"))) const char* proxykernels_interface() {
    static const std::string text = describe();
    return text.c_str();
}
