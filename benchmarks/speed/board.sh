#!/bin/sh
# Runs proxykernels on a board or a phone: sh board.sh
#
# Compiles the C library that lies beside this script, runs three networks, compares their answers with those of a
# desktop, times a step, and packs all of it into an archive to be sent back. Needs a C++ compiler: apt install g++ on a
# Raspberry Pi, pkg install clang in Termux. What it reads of the machine it prints: processor, memory, compiler, clock.
#
# CXX: the compiler; JOBS: how many run at once (fewer need less memory); RUN: an emulator, with which times are no figures.
set -eu
cd "$(dirname "$0")"
for name in c++ g++ clang++; do
    [ -n "${CXX:-}" ] || CXX=$(command -v $name) || CXX=
done
[ -n "$CXX" ] || { echo "board.sh: there is no C++ compiler: apt install g++, in Termux pkg install clang" >&2; exit 1; }
RUN=${RUN:-}
result=result-$(uname -m)-$(date +%Y%m%d-%H%M%S)
rm -rf build
mkdir build "$result"

machine() {
    echo "system: $(uname -srm)"
    echo "compiler: $("$CXX" --version | head -n 1)"
    [ -z "$RUN" ] || echo "emulator: $RUN"
    getprop ro.product.model 2>/dev/null | sed 's/^/model: /' || true
    tr -d '\0' 2>/dev/null </proc/device-tree/model | sed 's/^/model: /' || true
    echo
    grep -h MemTotal /proc/meminfo || true
    cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor 2>/dev/null | sort | uniq -c || true
    cat /sys/devices/system/cpu/cpu*/cpufreq/cpuinfo_max_freq 2>/dev/null | sort | uniq -c || true
    grep -iE '^(model name|hardware|cpu (implementer|part)|features)' /proc/cpuinfo | sort | uniq -c || true
}
machine >"$result/machine.txt"
cat "$result/machine.txt"

echo "compiling $(wc -l <compile.txt) files"
start=$(date +%s)
xargs -P "${JOBS:-$(nproc)}" -L 1 "$CXX" <compile.txt
"$CXX" -shared -s -pthread build/library-*.o -o build/libproxykernels.so
"$CXX" -s -pthread build/*.o -o build/proxykernels
{
    echo "seconds of compilation: $(($(date +%s) - start))"
    echo "library, stripped: $(wc -c <build/libproxykernels.so) bytes"
    echo "program, stripped: $(wc -c <build/proxykernels) bytes"
} | tee "$result/sizes.txt"

# The last bytes of a .npy file are its values.
same() {
    tail -c "$(wc -c <"$1/expected")" "$2" | cmp -s - "$1/expected" && echo equal || echo DIFFERENT
}

printf '\n| network | answers | parameters | file, kB | weights, kB | a stream, kB | a step, µs | half of the steps, µs |\n' >"$result/table.md"
printf '|---|---|---|---|---|---|---|---|\n' >>"$result/table.md"
for net in keywords gestures saccades; do
    log=$result/$net.txt
    {
        $RUN build/proxykernels info $net/net.pk
        $RUN build/proxykernels run $net/net.pk $net/x.npy --threads 1 --layers --out build/run.npy
        $RUN build/proxykernels bench $net/net.pk $net/x.npy --threads 1 --runs "${RUNS:-30}" --out build/steps.npy
    } >"$log"
    answers="$(same $net build/run.npy), $(same $net build/steps.npy)"
    awk -v net=$net -v answers="$answers" -v file="$(wc -c <$net/net.pk)" -v emulated="$RUN" '
        / parameters, / { match($0, /[0-9]+ parameters/); parameters = substr($0, RSTART, RLENGTH - 11) }
        /^a step of a stream/ { step = 1000 * $6; low = 1000 * $13; high = $15; sub(/\)/, "", high); high *= 1000 }
        /^memory/ { weights = $2; stream = $6 }
        END {
            times = emulated != "" ? "no figure | no figure" : sprintf("%.1f | %.1f to %.1f", step, low, high)
            printf "| %s | %s | %s | %.1f | %s | %s | %s |\n", net, answers, parameters, file / 1000, weights, stream, times
        }' "$log" >>"$result/table.md"
done
cat "$result/table.md"
echo "answers: of a run, and of a stream step by step" | tee -a "$result/table.md"
tar czf "$result.tar.gz" "$result"
echo "send back: $PWD/$result.tar.gz"
! grep -q DIFFERENT "$result/table.md"
