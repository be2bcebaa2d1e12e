// Which instruction sets this machine has.
#pragma once

#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

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
