// y = x @ weight.T with one warp a row of the weight, on the plain units: for f32, and for sizes that tensor cores do not
// take. A warp reads its row once for COLUMNS rows of x. GATED, ACTIVATION, SOFTCAP, BIAS and RESIDUAL are
// as in linear.cu.
#include "activation.cuh"
#include "common.cuh"

constexpr int OUTER = GATED ? ROWS / 2 : ROWS;

__device__ __forceinline__ void dot(const T* row, const T* x, int columns, int lane, float (&sum)[COLUMNS]) {
    for (int k = lane * VECTOR; k < INNER; k += 32 * VECTOR) {
        const Pack<T, VECTOR> a = load<T, VECTOR>(row + k);
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) {
            if (c >= columns) break;
            const Pack<T, VECTOR> b = load<T, VECTOR>(x + (u64)c * INNER + k);
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) sum[c] += a[i] * b[i];
        }
    }
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) sum[c] = warp_sum(sum[c]);
}

extern "C" __global__ void __launch_bounds__(WARPS * 32) plain_linear(
    const T* x, const T* weight,
#if BIAS
    const T* bias,
#endif
#if RESIDUAL
    const T* residual,
#endif
    T* y, int count, float softcap) {
    let_next_start();
    wait_for_previous();
    const int r = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32, column = blockIdx.y * COLUMNS;
    if (r >= OUTER) return;
    const int columns = min(COLUMNS, count - column);
    const T* from = x + (u64)column * INNER;
    float sum[COLUMNS] = {}, other[COLUMNS] = {};
    dot(weight + (u64)r * INNER, from, columns, lane, sum);
    if (GATED) dot(weight + (u64)(OUTER + r) * INNER, from, columns, lane, other);
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
        if (lane != 0 || c >= columns) continue;
        float s = sum[c];
#if BIAS
        s += wide(bias[r]);
        other[c] += GATED ? wide(bias[OUTER + r]) : 0;
#endif
        if (GATED) s = activated<ACTIVATION>(s) * other[c];
        if (SOFTCAP) s = softcap * tanhf(s / softcap);
#if RESIDUAL
        s += wide(residual[(u64)(column + c) * OUTER + r]);
#endif
        y[(u64)(column + c) * OUTER + r] = narrow<T>(s);
    }
}
