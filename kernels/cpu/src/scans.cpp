// Neurons on given currents.
#include "if_scan.h"
#include "periodic_spikes.h"
