// The products of the experts that are chosen, on the plain units: for f32, and for sizes that tensor cores do not take.
// One warp an element of y. OUTER, WIDTH, INNER and PICKS are as in experts.cu.
#include "common.cuh"

__device__ __forceinline__ float dot(const T* row, const T* x, int lane) {
    float sum = 0;
    for (int k = lane * VECTOR; k < INNER; k += 32 * VECTOR) {
        const Pack<T, VECTOR> a = load<T, VECTOR>(row + k), b = load<T, VECTOR>(x + k);
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) sum += a[i] * b[i];
    }
    return warp_sum(sum);
}

extern "C" __global__ void __launch_bounds__(WARPS * 32) plain_experts(
    const T* x, const int* chosen,
#if OUTER
    const T* shares, const T* proj, T* y) {
#else
    const T* fc, const T* gate, T* y) {
#endif
    let_next_start();
    wait_for_previous();
    const int row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= WIDTH) return;
#if OUTER
    const u64 token = blockIdx.y;
    float sum = 0;
    for (int k = 0; k < PICKS; ++k) {
        const u64 pair = token * PICKS + k;
        const T* weight = proj + ((u64)chosen[pair] * WIDTH + row) * INNER;
        sum += wide(shares[pair]) * dot(weight, x + pair * INNER, lane);
    }
    if (lane == 0) y[token * WIDTH + row] = narrow<T>(sum);
#else
    const u64 pair = blockIdx.y, at = ((u64)chosen[pair] * WIDTH + row) * INNER;
    const T* from = x + pair / PICKS * INNER;
    const float s = dot(fc + at, from, lane), up = dot(gate + at, from, lane);
    if (lane == 0) y[pair * WIDTH + row] = narrow<T>(s / (1.0f + expf(-s)) * up);
#endif
}
