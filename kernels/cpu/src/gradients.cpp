// Backward passes: of neurons and of weights.
#include "conv2d/weight_gradient.h"
#include "recurrent/backward.h"
#include "scan_backward.h"
