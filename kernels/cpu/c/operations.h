// A plan as the engine takes it: numbers filled up to whole blocks of channels, weights in the order of some kernels, and what
// kernels cost.
#pragma once
#include <deque>

#include "plan.h"

namespace proxykernels {

// The operations, and memory that they refer to until the engine has copied it.
class Prepared {
public:
    // has_tiles: whether the instruction set has matrix tiles.
    Prepared(const Plan& plan, bool has_tiles);
    const std::vector<engine::Operation>& operations() const { return made; }

private:
    engine::Operation operation(const Plan& plan, const Operation& op, bool has_tiles);
    void put_terms(const Operation& op, engine::Operation& to);
    void put_neurons(const Operation& op, engine::Operation& to);
    void put_lines(const Plan& plan, const Operation& op, bool has_tiles, engine::Operation& to);
    float* numbers(int64_t n, float fill = 0);
    const float* padded(const Tensor& values);

    std::deque<std::vector<float>> memory;
    std::deque<std::vector<engine::Term>> terms;
    std::vector<engine::Operation> made;
};

}  // namespace proxykernels
