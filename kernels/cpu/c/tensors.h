// The tensors and texts of a safetensors container, in memory.
#pragma once
#include <string>
#include <vector>

#include "failure.h"

namespace proxykernels {

enum class Type { Float, Whole };  // float32 and int64: an engine's file has no others

struct Tensor {
    std::string name;
    Type type;
    std::vector<int64_t> shape;
    const uint8_t* bytes;  // on the boundary of a number
    int64_t size;          // numbers

    const float* floats() const { return (const float*)bytes; }
    const int64_t* whole() const { return (const int64_t*)bytes; }
    int64_t size_in_bytes() const { return size * (type == Type::Float ? 4 : 8); }
    bool has_shape(std::initializer_list<int64_t> wanted) const { return shape == std::vector<int64_t>(wanted); }
};

struct Container {
    std::vector<Tensor> tensors;  // ordered by name
    std::string format, version, plan, checksum;

    const Tensor* find(const std::string& name) const;
};

// `bytes` lie on a boundary of 8, and must outlive the tensors. The container is whole when this returns true.
bool read_container(const uint8_t* bytes, size_t size, Container& to, Failure& failure);

}  // namespace proxykernels
