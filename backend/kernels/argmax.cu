// Where the greatest element of each row of WIDTH stands; of equal ones the first. PARTS blocks a row, each with PART
// elements; the last that is done compares what they found.
#include "common.cuh"

struct Best {
    float value;
    int at;
};

__device__ __forceinline__ Best better(Best a, Best b) { return b.value > a.value || (b.value == a.value && b.at < a.at) ? b : a; }

__device__ __forceinline__ Best best_of_block(Best best) {
    __shared__ Best of_warp[THREADS / 32];
#pragma unroll
    for (int step = 16; step; step /= 2) {
        best = better(best, Best{__shfl_xor_sync(~0u, best.value, step), __shfl_xor_sync(~0u, best.at, step)});
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = best;
    __syncthreads();
    best = of_warp[0];
#pragma unroll
    for (int w = 1; w < THREADS / 32; ++w) best = better(best, of_warp[w]);
    return best;
}

extern "C" __global__ void __launch_bounds__(THREADS) argmax(const T* x, int* y, u64* workspace, u32* counters) {
    let_next_start();
    wait_for_previous();
    const int row = blockIdx.y, first = blockIdx.x * PART, end = min(WIDTH, first + PART);
    Best best{-INFINITY, first};
    for (int at = first + threadIdx.x * VECTOR; at < end; at += THREADS * VECTOR) {
        const Pack<T, VECTOR> a = load<T, VECTOR>(x + (u64)row * WIDTH + at);
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) best = better(best, Best{a[i], at + i});
    }
    best = best_of_block(best);
    if (PARTS == 1) {
        if (threadIdx.x == 0) y[row] = best.at;
        return;
    }
    if (threadIdx.x != 0) return;
    u64* found = workspace + (u64)row * PARTS;
    __stcg(found + blockIdx.x, (u64)__float_as_uint(best.value) << 32 | (u32)best.at);
    __threadfence();
    if (atomicAdd(counters + row, 1) != PARTS - 1) return;
    counters[row] = 0;   // as every launch finds it
    __threadfence();
    best = Best{-INFINITY, 0};
    for (int p = 0; p < PARTS; ++p) {
        const u64 other = __ldcg(found + p);
        best = better(best, Best{__uint_as_float((u32)(other >> 32)), (int)(u32)other});
    }
    y[row] = best.at;
}
