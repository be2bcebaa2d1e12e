// The double nearest to a decimal number, exactly, in any locale and with any C library.
#pragma once

namespace proxykernels {

// [at, end) has a number as JSON writes it, such as -12.5e-3. Of two doubles that are as near, the even one; infinite, if it is too
// large. The time grows with the square of the exponent: for a few parameters, not for tensors.
double nearest_double(const char* at, const char* end);

}  // namespace proxykernels
