// Lists of the values of a slot that are not 0.
#pragma once
#include <cstdint>

namespace PK_TARGET {

// A value that is not 0, and the number of its channel within its group.
struct Message {
    uint32_t input;
    float value;
};

// The messages of an input with float values, in the order of the channels.
struct Messages {
    Message* of = nullptr;  // [N, T_in, H * W, C_in]: of a pixel's group as many as there are, from its first channel on
    uint32_t* count = nullptr;  // [N, T_in, H * W, groups]
};

}  // namespace PK_TARGET
