// Packing, camera events, pooling and im2col of spikes, and rounding of weights.
#include "conv2d/im2col.h"
#include "dense_spikes.h"
#include "camera_events.h"
#include "max_rate_pool.h"
#include "rounding.h"
