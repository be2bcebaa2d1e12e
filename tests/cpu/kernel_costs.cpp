// Prints which groups an engine joins, and what it is told that its kernels take: a convolution of 3 x 3 pixels on 14 x 12.
#include <cstdio>
#include <cstdlib>

#include "cost_model.h"
#include "engine/engine.h"

int main(int, char** arguments) {
    const int64_t C = atoi(arguments[1]), C_in = atoi(arguments[2]), groups = atoi(arguments[3]);
    const costs::ConvSizes layer{1, 1, 14 * 12, C, 14, 12, C_in, 3, 3, 1, 1, 1};
    engine::Cost found[engine::cost_count] = {};
    costs::find_costs(layer, groups, costs::float_row, atoi(arguments[4]), found);
    printf("%lld\n", (long long)costs::join_in_rows(C, C_in, groups));
    for (const engine::Cost& cost : found) printf("%.17g %.17g\n", cost.silent, cost.busy);
}
