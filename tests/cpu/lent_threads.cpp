// A lent thread that comes when the run is over, at each number that its last part may have: it must return.
#include <cstdio>

#include "engine/team.h"

int main() {
    constexpr int64_t numbers = (int64_t)1 << 24;  // of parts, which begin again at 0
    PK_TARGET::Team team(2, true);
    for (int64_t i = 0; i < numbers; i++) {
        team.begin(0);
        team.dismiss();
        if (i < 2 || i >= numbers - 2) team.help(1);
    }
    puts("done");
    return 0;
}
