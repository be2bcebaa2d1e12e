// Neurons on given currents, and layers whose currents never leave the registers.
#include "conv2d/pointwise_real.h"
#include "if_scan.h"
#include "periodic_spikes.h"
