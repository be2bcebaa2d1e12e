// Packs inputs.
#include "../src/dense_spikes.h"
#include "../src/camera_events.h"
#include "tensors.h"
#include "plan.h"

namespace proxykernels {

// The bytes of packed spikes; false, and a sentence, if they are not those that were given.
static bool check_packed(__int128 wanted, size_t size, Failure& failure) {
    if (wanted == (__int128)size) return true;
    return failure.set(PK_BAD_ARGUMENT, "packed must have %.0f bytes, got %zu", (double)wanted, size);
}

static bool are_sizes(std::initializer_list<int64_t> sizes, Failure& failure) {
    for (const int64_t size : sizes)
        if (size < 1 || size >= most_size)
            return failure.set(PK_BAD_ARGUMENT, "T, N, C, H and W must be at least 1 and below 2^31, got %lld",
                               (long long)size);
    return true;
}

template <class Number>
static Column column(const Number* values) {
    return {(const uint8_t*)values, sizeof(Number), sizeof(Number), 1};
}

}  // namespace proxykernels

using namespace proxykernels;

extern "C" {

pk_status pk_pack_spikes(const uint8_t* dense, int64_t T, int64_t N, int64_t C, int64_t H, int64_t W, uint8_t* packed,
                         size_t packed_size, pk_error* error) {
    return answer(error, [&](Failure& failure) {
        if (!dense || !packed) return failure.set(PK_BAD_ARGUMENT, "%s must not be NULL", dense ? "packed" : "dense");
        if (!are_sizes({T, N, C, H, W}, failure)) return false;
        const double bytes = (double)T * (double)N * (double)H * (double)W * (double)((C + 7) / 8);
        if (bytes > 9e18) return failure.set(PK_BAD_ARGUMENT, "packed spikes would take more than 2^63 bytes");
        if (!check_packed((__int128)T * N * H * W * ((C + 7) / 8), packed_size, failure)) return false;
        DenseSpikes spikes{};
        spikes.dense = const_cast<uint8_t*>(dense), spikes.spikes = packed, spikes.size = 1, spikes.one = 1;
        spikes.T = T, spikes.N = N, spikes.C = C, spikes.H = H, spikes.W = W;
        spikes.pixel = 1, spikes.row = W, spikes.channel = H * W, spikes.image = C * H * W, spikes.step = N * C * H * W;
        return PK_TARGET::pack(&spikes) || failure.set(PK_BAD_ARGUMENT, "dense must hold 0 and 1, and holds other values");
    });
}

pk_status pk_pack_events(const int64_t* t, const int32_t* x, const int32_t* y, const int8_t* p, int64_t events, int64_t begin,
                         int64_t span, int64_t T, int64_t H, int64_t W, uint8_t* packed, size_t packed_size, pk_error* error) {
    return answer(error, [&](Failure& failure) {
        if (!packed || events < 0 || (events && (!t || !x || !y || !p)))
            return failure.set(PK_BAD_ARGUMENT, "t, x, y, p and packed must not be NULL, and events not below 0");
        if (!are_sizes({T, H, W}, failure)) return false;
        if (span < 1) return failure.set(PK_BAD_ARGUMENT, "span must be at least 1, got %lld", (long long)span);
        if (!check_packed((__int128)T * H * W, packed_size, failure)) return false;
        for (int64_t i = 0; i < events; i++) {  // times without a difference in int64
            int64_t since = 0;
            if (__builtin_sub_overflow(t[i], begin, &since) || since < 0 || since >= span)
                return failure.set(PK_BAD_ARGUMENT, "t must lie from begin to below begin + span, got %lld", (long long)t[i]);
        }
        const Events given{column(t), column(x), column(y), column(p), events, begin, T, span, T, H, W, packed};
        return PK_TARGET::pack_events(&given) ||
               failure.set(PK_BAD_ARGUMENT, "x must lie below W = %lld, y below H = %lld, and p be 0 or 1, or -1 or 1",
                           (long long)W, (long long)H);
    });
}

}  // extern "C"
