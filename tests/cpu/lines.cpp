// Prints which groups an engine joins, and what it is told that its kernels take: a convolution of 3 x 3 pixels on 14 x 12.
#include <cstdio>
#include <cstdlib>

#include "lines.h"

int main(int, char** arguments) {
    const int64_t C = atoi(arguments[1]), C_in = atoi(arguments[2]), groups = atoi(arguments[3]);
    const costs::Layer layer{1, 1, 14 * 12, C, 14, 12, C_in, 3, 3, 1, 1, 1};
    engine::Line lines[engine::line_count] = {};
    costs::find_lines(layer, groups, costs::float_row, atoi(arguments[4]), lines);
    printf("%lld\n", (long long)costs::join_in_rows(C, C_in, groups));
    for (const engine::Line& line : lines) printf("%.17g %.17g\n", line.silent, line.busy);
}
