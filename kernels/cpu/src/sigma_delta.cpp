// The convolutions whose neurons send sigma-delta codes, and max pooling of them.
#include "sigma_delta/dense.h"
#include "sigma_delta/maximum.h"

namespace PK_TARGET {

template <class Value>
static void any_sigma_delta(const SigmaDelta& s) {
    const double rate = s.x ? dense_rate(s) : 2;
    if (rate <= 1 && rate_of<Value>(s) >= rate) dense_sigma_delta<Value>(s);
    else rows_sigma_delta<Value>(s);
}

void sigma_delta_conv2d(const SigmaDelta* s) {
    if (s->real) any_sigma_delta<float>(*s);
    else any_sigma_delta<int8_t>(*s);
}
void sigma_delta_depthwise(const SigmaDelta* s) {
    if (s->real) depthwise_sigma_delta<float>(*s);
    else depthwise_sigma_delta<int8_t>(*s);
}
void sigma_delta_maximum(const SigmaDelta* s) {
    if (s->real) maximum_of_sigma_delta<float>(*s);
    else maximum_of_sigma_delta<int8_t>(*s);
}

}  // namespace PK_TARGET
