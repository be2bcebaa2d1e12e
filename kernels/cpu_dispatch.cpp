// Chooses the fastest instruction set that this machine has, once, when the library is loaded.
#include "cpu_kernels.h"

#include <cstring>

namespace portable { extern const Kernels kernels; }
#if defined(__x86_64__)
namespace avx2 { extern const Kernels kernels; }
namespace avx512 { extern const Kernels kernels; }
#endif

namespace {

struct Target {
    const char* name;
    const Kernels* kernels;
    bool (*runs_here)();
};

// Fastest first. The features of each are those of its flags in setup.py.
const Target targets[] = {
#if defined(__x86_64__)
    {"avx512", &avx512::kernels,
     [] { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                 __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt"); }},
    {"avx2", &avx2::kernels,
     [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt"); }},
#endif
    {"portable", &portable::kernels, [] { return true; }},
};

}  // namespace

extern "C" {

// The kernels for an instruction set, or for the fastest one if `name` is null; null if this machine cannot run it.
__attribute__((visibility("default"))) const Kernels* proxykernels_cpu(const char* name) {
    for (const Target& target : targets)
        if (target.runs_here() && (!name || !strcmp(name, target.name))) return target.kernels;
    return nullptr;
}

}  // extern "C"
