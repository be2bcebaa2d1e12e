// Neurons on given currents, and layers whose currents stay in registers.
#include "conv2d/depthwise.h"
#include "conv2d/product.h"
#include "if_scan.h"
#include "periods.h"
