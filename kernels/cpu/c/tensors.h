// What went wrong, as it travels from where it is seen to the caller's pk_error. Nothing is thrown across the interface; where a
// build has no exceptions (WebAssembly), nothing is thrown at all.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <new>
#include <string>
#include <vector>

#include "include/proxykernels.h"

namespace proxykernels {

struct Failure {
    pk_status status = PK_OK;
    char sentence[PK_SENTENCE];

    // Always false: `return failure.set(...)`.
    __attribute__((format(printf, 3, 4))) bool set(pk_status what, const char* format, ...) {
        status = what;
        va_list values;
        va_start(values, format);
        vsnprintf(sentence, sizeof sentence, format, values);
        va_end(values);
        return false;
    }
};

// Calls work(failure), which returns whether all went well, and tells the caller.
template <class Work>
static pk_status answer(pk_error* error, Work work) {
    Failure failure;
#if defined(__cpp_exceptions)
    try {
        work(failure);
    } catch (const std::bad_alloc&) {
        failure.set(PK_NO_MEMORY, "there is no memory for this call; free some, or take a smaller batch or network");
    }
#else
    work(failure);
#endif
    if (error) {
        error->status = failure.status;
        if (failure.status == PK_OK) error->sentence[0] = 0;
        else snprintf(error->sentence, sizeof error->sentence, "%s", failure.sentence);
    }
    return failure.status;
}

// The tensors and texts of a safetensors container, in memory, and whether they can be used.

enum class Type { Float, Whole, Byte };  // float32, int64 and int8: an engine's file has no others

static constexpr int64_t size_of(Type type) { return type == Type::Float ? 4 : type == Type::Whole ? 8 : 1; }

struct Tensor {
    std::string name;
    Type type;
    std::vector<int64_t> shape;
    const uint8_t* bytes;  // on the boundary of a number
    int64_t size;  // numbers

    const float* floats() const { return (const float*)bytes; }
    const int64_t* whole() const { return (const int64_t*)bytes; }
    int64_t size_in_bytes() const { return size * size_of(type); }
    bool has_shape(std::initializer_list<int64_t> wanted) const { return shape == std::vector<int64_t>(wanted); }
};

struct Container {
    std::vector<Tensor> tensors;  // ordered by name
    std::string format, version, plan, checksum;
    std::vector<std::vector<float>> made;  // of the tensors that lay in bytes

    const Tensor* find(const std::string& name) const;
};

// `bytes` lie on a boundary of 8, and must outlive the tensors; so must the container. The container is whole when this returns true.
bool read_container(const uint8_t* bytes, size_t size, Container& to, Failure& failure);

// Makes float32 of tensors in bytes, NAME, whose rows are multiples of NAME.unit: proxykernels/plan/byte_weights.py writes
// them. Units are no tensors of the container any more.
bool take_units(Container& container, Failure& failure);

using Fingerprint = uint64_t (*)(const uint8_t* bytes, int64_t n);  // of engine::Functions

// 16 hexadecimal digits that tell a damaged file: proxykernels/plan/file.py has the definition.
std::string checksum(const Container& container, Fingerprint fingerprint);

static inline bool is_finite(const float* values, int64_t n) {
    return std::all_of(values, values + n, [](float value) { return std::isfinite(value); });
}
static inline bool is_finite(const Tensor& tensor) { return is_finite(tensor.floats(), tensor.size); }
static inline bool has_no_nan(const float* values, int64_t n) {
    return std::none_of(values, values + n, [](float value) { return std::isnan(value); });
}
// 2^27 such values stay finite.
static inline bool can_be_summed(const Tensor& tensor) {
    const float* const values = tensor.floats();
    return std::all_of(values, values + tensor.size, [](float value) { return std::fabs(value) <= 0x1p100f; });
}
static inline bool lie_within(const Tensor& tensor, int64_t least, int64_t end) {
    const int64_t* const values = tensor.whole();
    return std::all_of(values, values + tensor.size, [&](int64_t value) { return least <= value && value < end; });
}

}  // namespace proxykernels
