// The functions of the fastest instruction set that this machine has, or of a named one.
#include "../machine.h"
#include "engine.h"

#include <cstring>

#define TARGET(name) \
    namespace name { extern const engine::Functions functions; }
PK_TARGETS
#undef TARGET

extern "C" {

// What the library was built from: library.py compares. Never change this function's signature.
__attribute__((visibility("default"))) const char* proxykernels_engine_sources() { return PK_SOURCES; }

// Null: this machine cannot run the target.
__attribute__((visibility("default"))) const engine::Functions* proxykernels_engine(const char* wanted) {
#define TARGET(name) \
    if (Machine::name() && (!wanted || !strcmp(wanted, #name))) return &name::functions;
    PK_TARGETS
#undef TARGET
    return nullptr;
}

}  // extern "C"
