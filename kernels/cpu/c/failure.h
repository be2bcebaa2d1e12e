// What went wrong, as it travels from where it is seen to the caller's pk_error. Nothing is thrown across the interface; where a
// build has no exceptions (WebAssembly), nothing is thrown at all.
#pragma once
#include <cstdarg>
#include <cstdio>
#include <new>

#include "include/proxykernels.h"

namespace proxykernels {

struct Failure {
    pk_status status = PK_OK;
    char sentence[PK_SENTENCE];

    // Always false: `return failure.set(...)`.
    __attribute__((format(printf, 3, 4))) bool set(pk_status what, const char* format, ...) {
        status = what;
        va_list values;
        va_start(values, format);
        vsnprintf(sentence, sizeof sentence, format, values);
        va_end(values);
        return false;
    }
};

// Calls work(failure), which returns whether all went well, and tells the caller.
template <class Work>
static pk_status answer(pk_error* error, Work work) {
    Failure failure;
#if defined(__cpp_exceptions)
    try {
        work(failure);
    } catch (const std::bad_alloc&) {
        failure.set(PK_NO_MEMORY, "there is no memory for this call; free some, or take a smaller batch or network");
    }
#else
    work(failure);
#endif
    if (error) {
        error->status = failure.status;
        if (failure.status == PK_OK) error->sentence[0] = 0;
        else snprintf(error->sentence, sizeof error->sentence, "%s", failure.sentence);
    }
    return failure.status;
}

}  // namespace proxykernels
