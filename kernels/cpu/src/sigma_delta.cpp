// The convolutions whose neurons send sigma-delta codes.
#include "sigma_delta/synapses.h"
