// The convolutions of spikes that fire as conv2d/row_sums.h does.
#include "conv2d/event.h"
#include "conv2d/lookup.h"
#include "conv2d/period.h"
