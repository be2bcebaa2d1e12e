// The only list of an instruction set's functions: KERNEL(result, name, arguments...). abi.h makes the table's type from it,
// target.cpp the table, and headers.py what Python calls. A function that an instruction set lacks is null.
// clang-format off: a list
KERNEL(void, if_scan, const Scan*)
KERNEL(void, scan_backward, const ScanBackward*)
KERNEL(void, recurrent_scan_backward, const RecurrentBackward*)
KERNEL(void, conv2d_weight_gradient, const WeightGradient*)
KERNEL(void, max_pool2d_backward, const PoolBackward*)
KERNEL(void, im2col, const Conv2d*, uint8_t* y)  // only the shapes and x are used: spikes.cpp
KERNEL(void, round_weights, const Rounding*)
KERNEL(void, max_pool2d, const Pool2d*)
KERNEL(void, max_rate_pool2d, const MaxRatePool*)
// For tests: the row_channels of the shortest rows that the weights [C, inputs] fit. Writes the units [C], unless rows are of
// floats.
KERNEL(int64_t, row_channels, const float* weight, int64_t C, int64_t inputs, float* unit)
// For tests: how many int8 digits the weights [C_out, K] of neurons with thresholds theta [C_out] need; 0 if the most are not enough. Null
// without matrix tiles.
KERNEL(int64_t, count_digits, const float* weight, const float* theta, int64_t C_out, int64_t K)
KERNEL(void, first_and_last, const Column*, int64_t n, int64_t* found)  // writes the smallest and the largest value, [2]
KERNEL(int64_t, pack_events, const Events*)  // 1 if all events are within the sensor and the steps and have a valid polarity
KERNEL(int64_t, pack, const DenseSpikes*)  // 1 if all values are 0 or 1
KERNEL(void, unpack, const DenseSpikes*)  // writes contiguous values; strides are ignored
// Adds to counts [N, C, P] the spikes of the steps before `until`.
KERNEL(void, count, const uint8_t* spikes, int32_t* counts, int64_t T, int64_t until, int64_t N, int64_t C, int64_t P)
// [M, P, ceil(C / 8)] -> [M, ceil(C * P / 8)], feature c * P + p. `out` must be zero on entry.
KERNEL(void, flatten, const uint8_t* spikes, uint8_t* out, int64_t M, int64_t C, int64_t P)
KERNEL(void, total, const uint8_t* spikes, int64_t* totals, int64_t M, int64_t P, int64_t bytes)  // writes [P], by pixel
KERNEL(void, sample_rates, Sample*)
// Finds the periods of neurons that are reset to 0 and start at rest.
KERNEL(void, find_periods, const Periods*)
// periods [N, P, C] -> spikes [N, T, P, ceil(C / 8)] of T steps from `start` on. `spikes` must be zero on entry.
KERNEL(void, expand_periods, const uint16_t* periods, uint8_t* spikes, int64_t start, int64_t T, int64_t N, int64_t P, int64_t C)
// The same as `total`, for T steps from `start` on.
KERNEL(void, total_periods, const uint16_t* periods, int64_t* totals, int64_t start, int64_t T, int64_t N, int64_t P, int64_t C)
KERNEL(uint64_t, fingerprint, const uint8_t* bytes, int64_t n)  // a hash
KERNEL(int64_t, max_threads)  // the number of threads that a kernel called by this thread would use; 1 without OpenMP
// clang-format on
