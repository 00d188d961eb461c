// Where the PICKS greatest elements of each row of WIDTH stand, the greatest first; of equal ones the first. PARTS blocks
// a row, each with PART elements; the last that is done ranks what they found.
//
// An element and its place are one key of 64 bits, all different: the greater key is the one to be named first. So the
// number of greater keys is an element's rank, and a threshold that as many keys pass as are wanted is found bit by bit.
#include "common.cuh"

constexpr int FOUND = PARTS * PICKS;

__device__ __forceinline__ u64 key_of(float x, int at) {
    const u32 bits = __float_as_uint(x + 0.0f), ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
    return (u64)(x == x ? ordered : 0u) << 32 | (u32)~at;
}

// The sum over the block, in every thread.
__device__ __forceinline__ int total_of(int x) {
    __shared__ int part[THREADS / 32];
#pragma unroll
    for (int step = 16; step; step /= 2) x += __shfl_xor_sync(~0u, x, step);
    __syncthreads();
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    int total = 0;
#pragma unroll
    for (int w = 0; w < THREADS / 32; ++w) total += part[w];
    return total;
}

// The greatest threshold that ``wanted`` keys reach; every thread holds EACH of them, absent ones 0.
template <int EACH> __device__ __forceinline__ u64 threshold_of(const u64 (&keys)[EACH], int wanted) {
    u64 threshold = 0;
    for (int bit = 63; bit >= 0; --bit) {
        const u64 higher = threshold | 1ull << bit;
        int reach = 0;
#pragma unroll
        for (int i = 0; i < EACH; ++i) reach += keys[i] >= higher;
        reach = total_of(reach);
        if (reach >= wanted) threshold = higher;
        if (reach == wanted) break;
    }
    return threshold;
}

// The keys that reach the threshold, in any order but always the same one.
template <int EACH> __device__ __forceinline__ void gather(const u64 (&keys)[EACH], u64 threshold, u64* to, int most) {
    __shared__ int before[THREADS];
    int mine = 0;
#pragma unroll
    for (int i = 0; i < EACH; ++i) mine += keys[i] >= threshold && keys[i];
    __syncthreads();
    before[threadIdx.x] = mine;
    __syncthreads();
    int at = 0;
    for (int t = 0; t < threadIdx.x; ++t) at += before[t];
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        if (keys[i] >= threshold && keys[i] && at < most) __stcg(to + at++, keys[i]);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) top_k(const T* x, int* y, u64* workspace, u32* counters) {
    let_next_start();
    wait_for_previous();
    constexpr int EACH = (PART + THREADS - 1) / THREADS, LAST = (FOUND + THREADS - 1) / THREADS;
    __shared__ u64 best[PICKS];
    __shared__ bool last;
    const int row = blockIdx.y, first = blockIdx.x * PART, end = min(WIDTH, first + PART);
    u64* found = workspace + (u64)row * FOUND;
    u64 keys[EACH];
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        const int at = first + i * THREADS + threadIdx.x;
        keys[i] = at < end ? key_of(wide(x[(u64)row * WIDTH + at]), at) : 0;
    }
    const int here = min(PICKS, end - first);
    for (int i = here + threadIdx.x; i < PICKS; i += THREADS) __stcg(found + blockIdx.x * PICKS + i, 0ull);
    gather(keys, threshold_of(keys, here), found + blockIdx.x * PICKS, here);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(counters + row, 1) == PARTS - 1;
        if (last) counters[row] = 0;   // as every launch finds it
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    u64 ranked[LAST];
#pragma unroll
    for (int i = 0; i < LAST; ++i) {
        const int at = i * THREADS + threadIdx.x;
        ranked[i] = at < FOUND ? __ldcg(found + at) : 0;
    }
    const u64 threshold = threshold_of(ranked, PICKS);
    __syncthreads();
    gather(ranked, threshold, found, PICKS);   // over what every thread holds by now
    __threadfence();
    __syncthreads();
    for (int i = threadIdx.x; i < PICKS; i += THREADS) best[i] = __ldcg(found + i);
    __syncthreads();
    for (int i = threadIdx.x; i < PICKS; i += THREADS) {
        int rank = 0;
        for (int j = 0; j < PICKS; ++j) rank += best[j] > best[i];
        y[(u64)row * PICKS + rank] = (int)~(u32)best[i];
    }
}
