// Operations on packed spikes without neurons: counting, pooling, flattening. abi.h has the layout.
#pragma once
#include "abi.h"
#include "set_bits.h"

namespace PK_TARGET {

// Calls visit(channel) for each channel that fired in the bytes of one pixel.
template <class Visit>
static inline void each_spike(const uint8_t* bytes, int64_t C, Visit visit) {
    for (int64_t c0 = 0; c0 < C; c0 += 64) {
        uint64_t word = 0;
        const int64_t left = (C - c0 + 7) / 8;
        memcpy(&word, bytes + c0 / 8, left < 8 ? left : 8);
        for (; word; word &= word - 1) visit(c0 + __builtin_ctzll(word));
    }
}

// For each byte, its bits as eight bytes of 0 or 1, the lowest bit in the lowest byte.
struct Spread {
    uint64_t of[256];
    constexpr Spread() : of() {
        for (int byte = 0; byte < 256; byte++)
            for (int bit = 0; bit < 8; bit++) of[byte] |= (uint64_t)(byte >> bit & 1) << 8 * bit;
    }
};

// Counts eight channels at once in the bytes of a word, up to 255 steps at a time.
inline void count(const uint8_t* spikes, int32_t* counts, int64_t T, int64_t until, int64_t N, int64_t C, int64_t P) {
    static constexpr Spread spread;
    const int64_t bytes = (C + 7) / 8;
#pragma omp parallel for schedule(static) collapse(2) if (8 * N * P * until * bytes > worth_threads)
    for (int64_t n = 0; n < N; n++)
        for (int64_t p = 0; p < P; p++)
            for (int64_t t0 = 0; t0 < until; t0 += 255)
                for (int64_t b0 = 0; b0 < bytes; b0 += 4) {
                    const int64_t width = bytes - b0 < 4 ? bytes - b0 : 4, steps = until - t0 < 255 ? until - t0 : 255;
                    const uint8_t* x = spikes + ((n * T + t0) * P + p) * bytes + b0;
                    uint64_t sums[4] = {};
                    for (int64_t t = 0; t < steps; t++, x += P * bytes)
                        for (int64_t b = 0; b < width; b++) sums[b] += spread.of[x[b]];
                    for (int64_t c = 8 * b0; c < 8 * b0 + 32 && c < C; c++)
                        counts[(n * C + c) * P + p] += (int32_t)(sums[c / 8 - b0] >> c % 8 * 8 & 255);
                }
}

inline void flatten(const uint8_t* spikes, uint8_t* out, int64_t M, int64_t C, int64_t P) {
    const int64_t bytes = (C + 7) / 8, flat_bytes = (C * P + 7) / 8;
#pragma omp parallel for schedule(static) if (8 * M * P * bytes > worth_threads)
    for (int64_t m = 0; m < M; m++)
        for (int64_t p = 0; p < P; p++)
            each_spike(spikes + (m * P + p) * bytes, C, [&](int64_t c) {
                const int64_t feature = c * P + p;
                out[m * flat_bytes + feature / 8] |= (uint8_t)(1 << feature % 8);
            });
}

// Calls add(i, sums [P]) for i < n. Each thread has its own sums, which are then added up in `totals`.
template <class Add>
static void sum_up(int64_t n, int64_t P, int64_t* totals, Add add) {
    memset(totals, 0, P * sizeof *totals);
#pragma omp parallel
    {
        ThreadMemory<int64_t> own(P);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n; i++) add(i, own.data);
#pragma omp critical(sum_up)
        for (int64_t p = 0; p < P; p++) totals[p] += own.data[p];
    }
}

inline void total(const uint8_t* spikes, int64_t* totals, int64_t M, int64_t P, int64_t bytes) {
    sum_up(M, P, totals, [=](int64_t m, int64_t* sums) {
        for (int64_t p = 0; p < P; p++) sums[p] += count_bits(spikes + (m * P + p) * bytes, bytes);
    });
}

// Writes the OR of some adjacent pixels, byte by byte.
static inline void or_pixels(uint8_t* y, const uint8_t* x, int64_t pixels, int64_t bytes) {
    int64_t i = 0;
    for (; i + 8 <= bytes; i += 8) {
        uint64_t word = 0, other;
        for (int64_t p = 0; p < pixels; p++) {
            memcpy(&other, x + p * bytes + i, 8);
            word |= other;
        }
        memcpy(y + i, &word, 8);
    }
    for (; i < bytes; i++) {
        y[i] = 0;
        for (int64_t p = 0; p < pixels; p++) y[i] |= x[p * bytes + i];
    }
}

// The maximum of spikes is their OR: first of the rows of a window, then of adjacent pixels. Padding is zero and changes
// nothing.
inline void max_pool2d(const Pool2d* pool) {
    const Pool2d q = *pool;
    const int64_t row_bytes = q.W * q.bytes;
#pragma omp parallel if (q.M * q.H * row_bytes > worth_threads)
    {
        ThreadMemory<uint8_t> rows(row_bytes);
        uint8_t* const any = rows.data;
#pragma omp for schedule(static) collapse(2)
        for (int64_t m = 0; m < q.M; m++)
            for (int64_t oy = 0; oy < q.H_out; oy++) {
                const int64_t top = oy * q.stride_h - q.padding_h, first = most(top, 0), last = least(top + q.kernel_h, q.H);
                memset(any, 0, row_bytes);
                for (int64_t iy = first; iy < last; iy++) {
                    const uint8_t* const x = q.x + (m * q.H + iy) * row_bytes;
                    for (int64_t i = 0; i < row_bytes; i++) any[i] |= x[i];
                }
                uint8_t* y = q.y + (m * q.H_out + oy) * q.W_out * q.bytes;
                for (int64_t ox = 0; ox < q.W_out; ox++, y += q.bytes) {
                    const int64_t left = ox * q.stride_w - q.padding_w, from = least(most(left, 0), q.W);
                    or_pixels(y, any + from * q.bytes, least(left + q.kernel_w, q.W) - from, q.bytes);
                }
            }
    }
}

// Passes the gradient of an output pixel to the first pixel of its window that fired or, if none did, to the first pixel, as
// torch does. `apart`: windows do not overlap, so their pixels are written; otherwise the gradient is added to them.
template <bool apart>
static inline void pass_gradient(const PoolBackward& b, const uint8_t* x, float* grad_x, const float* grad_y, int64_t oy,
                                 int64_t ox, int64_t channel) {
    const Pool2d& q = b.pool;
    const int channels = (int)least(b.C - channel, block), bytes = (channels + 7) / 8;
    const int64_t top = most(oy * q.stride_h - q.padding_h, 0), left = most(ox * q.stride_w - q.padding_w, 0);
    const int64_t bottom = least(oy * q.stride_h - q.padding_h + q.kernel_h, q.H);
    const int64_t right = least(ox * q.stride_w - q.padding_w + q.kernel_w, q.W);
    const Block grad = load_block(grad_y + (oy * q.W_out + ox) * b.C + channel, channels);
    const auto each_pixel = [&](auto run) {
        for (int64_t y = top; y < bottom; y++)
            for (int64_t pixel = y * q.W + left; pixel < y * q.W + right; pixel++)
                run(pixel, (uint32_t)load_bits(x + pixel * q.bytes + channel / 8, bytes));
    };
    uint32_t waiting = 0;  // at first: channels that fired anywhere in the window
    each_pixel([&](int64_t, uint32_t fired) { waiting |= fired; });
    uint32_t silent = ~waiting;  // channels whose gradient goes to the first pixel
    waiting = ~0u;               // from here on: channels whose gradient has not been passed on yet
    each_pixel([&](int64_t pixel, uint32_t fired) {
        const uint32_t where = (fired | silent) & waiting;
        waiting &= ~where;
        silent = 0;
        float* const to = grad_x + pixel * b.C + channel;
        if (!apart && !where) return;
        Block sum = apart ? broadcast_block(0.0f) : load_block(to, channels);
        for (int i = 0; i < vecs; i++) sum.v[i] = add_where(mask_of(where >> (i * Vec::width)), sum.v[i], grad.v[i]);
        store_block(to, sum, channels);
    });
}

template <bool apart>
static void pass_gradients(const PoolBackward& b) {
    const Pool2d& q = b.pool;
    const bool whole = q.padding_h == 0 && q.padding_w == 0 && q.H_out * q.kernel_h == q.H && q.W_out * q.kernel_w == q.W;
#pragma omp parallel for schedule(static)
    for (int64_t frame = 0; frame < b.T * b.N; frame++) {  // frame = t * N + n
        const uint8_t* const x = q.x + (frame % b.N * b.T + frame / b.N) * q.H * q.W * q.bytes;
        float* const grad_x = b.grad_x + frame * q.H * q.W * b.C;
        const float* const grad_y = b.grad_y + frame * q.H_out * q.W_out * b.C;
        if (!apart || !whole) memset(grad_x, 0, q.H * q.W * b.C * sizeof(float));
        for (int64_t oy = 0; oy < q.H_out; oy++)
            for (int64_t ox = 0; ox < q.W_out; ox++)
                for (int64_t channel = 0; channel < b.C; channel += block)
                    pass_gradient<apart>(b, x, grad_x, grad_y, oy, ox, channel);
    }
}

inline void max_pool2d_backward(const PoolBackward* b) {
    const bool apart = b->pool.stride_h >= b->pool.kernel_h && b->pool.stride_w >= b->pool.kernel_w;
    if (apart) pass_gradients<true>(*b);
    else pass_gradients<false>(*b);
}

}  // namespace PK_TARGET
