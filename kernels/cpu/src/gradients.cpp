// The way back: of neurons, and of weights.
#include "conv2d/weight_gradient.h"
#include "scan_backward.h"
