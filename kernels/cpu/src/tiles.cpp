// The convolution by matrix tiles; nothing where there are none.
#if defined(__AMXINT8__) && !defined(__AMX_INT8__)  // as clang calls it before version 17
#define __AMX_INT8__ 1
#endif
#include "conv2d/amx.h"
