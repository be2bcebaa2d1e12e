// The functions of each instruction set, of which the fastest that this machine has is taken. Compiled once.
//
// PK_TARGETS lists those that the library was compiled for, the fastest first: TARGET(avx2)TARGET(portable). PK_ENGINE_ONLY
// leaves out the kernels of layers that Python calls one by one: the C library and the browser have no use for them.
#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "abi.h"
#include "engine/engine.h"

#include <cstring>

// Which instruction sets this machine has.

namespace {

// Whether this machine has the features that an instruction set is compiled for (its flags in setup.py).
struct Machine {
    static bool portable() { return true; }
#if defined(__x86_64__)
    static bool avx2() {
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
               __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
    }
    static bool avx512() {
        return avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    }
#if defined(PK_EMULATED_TILES)
    static bool amx() { return avx512(); }
#elif defined(__linux__)
    // The tile registers are large, so Linux grants them only to processes that request them.
    static bool amx() {
        unsigned a = 7, b = 0, c = 0, d = 0;
        __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
        constexpr unsigned amx_tile = 1u << 24, amx_int8 = 1u << 25;
        constexpr long request_permission = 0x1023, tile_data = 18;
        return avx512() && (d & amx_tile) && (d & amx_int8) && !syscall(SYS_arch_prctl, request_permission, tile_data);
    }
#else
    static bool amx() { return false; }
#endif
#endif
};

}  // namespace

#if defined(PK_ENGINE_ONLY)
#define TARGET(name) \
    namespace name { extern const engine::Functions functions; }
#else
#define TARGET(name)                          \
    namespace name {                          \
    extern const engine::Functions functions; \
    extern const Kernels kernels;             \
    }
#endif
PK_TARGETS
#undef TARGET

#define EXPORTED extern "C" __attribute__((visibility("default")))

// What the library was built from. Never change this function's signature: Python files of any version call it before they
// know the library.
EXPORTED const char* proxykernels_interface() { return "sources: " PK_SOURCES "\ntable: " PK_TABLE "\n"; }

// The engine for an instruction set, or for the fastest one if `wanted` is null; null if this machine cannot run it.
EXPORTED const engine::Functions* proxykernels_engine(const char* wanted) {
#define TARGET(name) \
    if (Machine::name() && (!wanted || !strcmp(wanted, #name))) return &name::functions;
    PK_TARGETS
#undef TARGET
    return nullptr;
}

#if !defined(PK_ENGINE_ONLY)
// The same of the kernels.
EXPORTED const Kernels* proxykernels_cpu(const char* wanted) {
#define TARGET(name) \
    if (Machine::name() && (!wanted || !strcmp(wanted, #name))) return &name::kernels;
    PK_TARGETS
#undef TARGET
    return nullptr;
}
#endif
