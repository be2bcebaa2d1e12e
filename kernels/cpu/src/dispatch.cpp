// Chooses the fastest instruction set that this machine has, once, when the library is loaded.
#include "abi.h"

#include <cstring>

namespace portable { extern const Kernels kernels; }
#if defined(__x86_64__)
namespace avx2 { extern const Kernels kernels; }
namespace avx512 { extern const Kernels kernels; }
#endif
#if defined(PK_AMX)  // the compiler knows the matrix tiles
#include <sys/syscall.h>
#include <unistd.h>
namespace amx { extern const Kernels kernels; }
#endif

namespace {

#if defined(__x86_64__)
bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
}
bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
#endif
#if defined(PK_AMX) && defined(PK_CHECKED)
bool has_amx() { return has_avx512(); }  // conv2d/amx_emulated.h
#elif defined(PK_AMX)
// The tiles are large, so Linux asks each process to request them.
bool has_amx() {
    unsigned a = 7, b = 0, c = 0, d = 0;
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    constexpr unsigned amx_tile = 1u << 24, amx_int8 = 1u << 25;
    constexpr long request_permission = 0x1023, tile_data = 18;
    return has_avx512() && (d & amx_tile) && (d & amx_int8) && !syscall(SYS_arch_prctl, request_permission, tile_data);
}
#endif

struct Target {
    const char* name;
    const Kernels* kernels;
    bool (*runs_here)();
};

// Fastest first. The features of each are those of its flags in setup.py.
const Target targets[] = {
#if defined(PK_AMX)
    {"amx", &amx::kernels, has_amx},
#endif
#if defined(__x86_64__)
    {"avx512", &avx512::kernels, has_avx512},
    {"avx2", &avx2::kernels, has_avx2},
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
