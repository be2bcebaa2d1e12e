// The functions of each instruction set, of which the fastest that this machine has is taken. Compiled once.
//
// PK_TARGETS lists those that the library was compiled for, the fastest first: TARGET(avx2)TARGET(portable). PK_ENGINE_ONLY
// leaves out the kernels of layers that Python calls one by one: the C library and the browser have no use for them.
#include "abi.h"
#include "engine/engine.h"
#include "machine.h"

#include <cstring>

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
