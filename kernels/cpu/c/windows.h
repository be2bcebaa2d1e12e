// In front of every C++ source on Windows (CMakeLists.txt), which gives aligned memory back by a function of its own: all
// memory of the kernels is taken so.
#pragma once
#include <cstdlib>
#include <cstring>
#include <malloc.h>

namespace PK_TARGET {

static inline void* aligned_alloc(size_t alignment, size_t size) { return _aligned_malloc(size, alignment); }
static inline void* calloc(size_t n, size_t size) {
    void* const data = _aligned_malloc(n * size, 64);
    return data ? memset(data, 0, n * size) : nullptr;
}
static inline void free(void* data) { _aligned_free(data); }

}  // namespace PK_TARGET
