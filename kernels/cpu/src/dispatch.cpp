// Chooses the fastest instruction set that this machine has, once, when the library is loaded.
//
// PK_TARGETS, of setup.py, lists those that the library was compiled for, the fastest first: TARGET(avx2)TARGET(portable).
#include "abi.h"
#include "machine.h"

#include <cstring>

#define TARGET(name) \
    namespace name { extern const Kernels kernels; }
PK_TARGETS
#undef TARGET

namespace {

struct Target {
    const char* name;
    const Kernels* kernels;
    bool (*runs_here)();
};

const Target targets[] = {
#define TARGET(name) {#name, &name::kernels, Machine::name},
    PK_TARGETS
#undef TARGET
};

}  // namespace

extern "C" {

// What the library was built from. Never change this function's signature: Python files of any version call it before they
// know the library.
__attribute__((visibility("default"))) const char* proxykernels_interface() { return "sources: " PK_SOURCES "\n"; }

// The kernels for an instruction set, or for the fastest one if `name` is null; null if this machine cannot run it.
__attribute__((visibility("default"))) const Kernels* proxykernels_cpu(const char* name) {
    for (const Target& target : targets)
        if (target.runs_here() && (!name || !strcmp(name, target.name))) return target.kernels;
    return nullptr;
}

}  // extern "C"
