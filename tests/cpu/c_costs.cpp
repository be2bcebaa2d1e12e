// Prints what the C interface's cost model says of layers: numbers on standard input, a layer a line.
#include <cstdio>

#include "cost_model.h"

using namespace proxykernels;

int main() {
    Layer layer{};
    long long v[13];
    while (true) {
        for (long long& value : v)
            if (scanf("%lld", &value) != 1) return 0;
        layer = {v[0], v[1], v[2], v[3], v[4], {v[5], v[6]}, v[7], v[8], v[9], v[10]};
        engine::Line lines[11] = {};
        const int64_t joined = join_in_rows(layer.C, layer.C_in, layer.groups);
        find_lines(layer, joined, v[11], v[12] != 0, lines);
        printf("%lld", (long long)joined);
        for (const engine::Line& line : lines) printf(" %.17g %.17g", line.silent, line.busy);
        printf("\n");
    }
}
