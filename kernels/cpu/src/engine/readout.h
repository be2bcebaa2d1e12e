// Logits from spike counts and potentials; a stopping rule on logits; and the logits of a run.
#pragma once
#include "session.h"

namespace PK_TARGET {

// Calls visit(c * P + p, logit) for the logits of a sample.
template <class Visit>
static inline void each_logit(const engine::Readout& of, const int32_t* counts, const float* v, int64_t t, Visit visit) {
    for (int64_t p = 0; p < of.P; p++)
        for (int64_t c = 0; c < of.C; c++, v++) {
            const int64_t at = c * of.P + p;
            const float charge = of.theta[c] * (float)counts[at] + (*v - of.start[c]);
            visit(at, fminf(fmaxf(of.scale[c] * charge / (float)t, of.lowest), of.highest));
        }
}

static void leads(void* context, const int32_t* counts, const float* v, const int64_t*, int64_t n, int64_t t,
                  uint8_t* decided) {
    const engine::Lead& rule = *(const engine::Lead*)context;
    const int64_t size = rule.of.C * rule.of.P;
    for (int64_t i = 0; i < n; i++, counts += size, v += size) {
        float first = -INFINITY, second = -INFINITY;
        each_logit(rule.of, counts, v, t, [&](int64_t, float logit) {
            second = logit > first ? first : fmaxf(second, logit);
            first = fmaxf(first, logit);
        });
        decided[i] = (first - second) * (float)t >= rule.least;
    }
}

// Writes the logits of all samples of a finished run.
static void write_logits(const Run& run) {
    const engine::Readout& of = *run.readout;
    const int64_t size = of.C * of.P;
    for (int64_t i = 0; i < run.N; i++) {
        const float* const v = run.kept[run.logits_of].v + i * size;
        const auto write = [&](int64_t at, float logit) { run.logits[i * size + at] = logit; };
        each_logit(of, run.counts + i * size, v, run.steps ? run.steps[i] : run.T, write);
    }
}

}  // namespace PK_TARGET
