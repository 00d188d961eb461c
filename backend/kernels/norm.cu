// RMSNorm (CENTRED 0) or LayerNorm (1) of rows of HIDDEN elements, of x or (ADD 1) of x + skip: one block a row.
#include "common.cuh"

constexpr int PARTS = (HIDDEN + THREADS * VECTOR - 1) / (THREADS * VECTOR);

__device__ __forceinline__ int place(int part) { return (part * THREADS + threadIdx.x) * VECTOR; }

extern "C" __global__ void __launch_bounds__(THREADS) norm_rows(
    const T* x, const T* weight,
#if BIAS
    const T* bias,
#endif
#if ADD
    const T* skip, T* total,
#endif
    T* y, float eps) {
    let_next_start();
    Pack<T, VECTOR> gain[PARTS];
#pragma unroll
    for (int p = 0; p < PARTS; ++p) {
        if (place(p) < HIDDEN) gain[p] = load<T, VECTOR>(weight + place(p));
    }
    wait_for_previous();
    const u64 row = (u64)blockIdx.x * HIDDEN;
    float value[PARTS][VECTOR], sum = 0;
#pragma unroll
    for (int p = 0; p < PARTS; ++p) {
        const int at = place(p);
        if (at >= HIDDEN) continue;
        Pack<T, VECTOR> a = load<T, VECTOR>(x + row + at);
#if ADD
        const Pack<T, VECTOR> b = load<T, VECTOR>(skip + row + at);
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) a.set(i, a[i] + b[i]);
        store<T, VECTOR>(total + row + at, a);
#endif
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) {
            value[p][i] = a[i];
            sum += CENTRED ? a[i] : a[i] * a[i];
        }
    }
    float mean = block_sum<THREADS>(sum) / HIDDEN, square = mean;
#if CENTRED
    sum = 0;
#pragma unroll
    for (int p = 0; p < PARTS; ++p) {
        if (place(p) >= HIDDEN) continue;
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) {
            value[p][i] -= mean;
            sum += value[p][i] * value[p][i];
        }
    }
    square = block_sum<THREADS>(sum) / HIDDEN;
#endif
    const float scale = 1.0f / sqrtf(square + eps);
#pragma unroll
    for (int p = 0; p < PARTS; ++p) {
        const int at = place(p);
        if (at >= HIDDEN) continue;
        Pack<T, VECTOR> out;
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) {
#if CENTRED
            out.set(i, value[p][i] * scale * gain[p][i]
#if BIAS
                           + wide(bias[at + i])
#endif
            );
#else
            out.set(i, rounded<T>(value[p][i] * scale) * gain[p][i]);   // rounded before the gain, as Llama does
#endif
        }
        store<T, VECTOR>(y + row + at, out);
    }
}
