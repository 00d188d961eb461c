// Where the PICKS greatest elements of each row of WIDTH stand, the greatest first; of equal ones the first. PARTS blocks
// a row, each with CHUNK elements; the last that is done ranks what they kept.
//
// An element and its place are one key of 64 bits, all different: the greater key is to be named first. Of GROUPS keys,
// each the greatest of its group, the PICKS greatest are found by comparing each with each. The least of them is a
// threshold that PICKS keys reach at least, from PICKS groups at most. GROUPS is twice PICKS or more: little more than
// PICKS keys are left of a row in random order, half of them in the worst, and they go through the same again until each
// is a group of its own. In which order they are kept does not matter.
#include "common.cuh"

constexpr int CHUNK = THREADS * EACH, GROUPS = THREADS * OWN, FOUND = PARTS * GROUPS;   // OWN: groups of a thread
constexpr int BLOCKS = THREADS < 512 ? 512 / THREADS : 1;   // of a multiprocessor

__device__ __forceinline__ u64 key_of(float x, int at) {
    const u32 bits = __float_as_uint(x + 0.0f), ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
    return (u64)(x == x ? ordered : 0u) << 32 | (u32)~at;
}

__device__ __forceinline__ int rank_of(u64 key, const u64* keys, int count) {
    int rank = 0;
#pragma unroll 8
    for (int i = 0; i < count; ++i) rank += keys[i] > key;
    return rank;
}

// The least key that may be among the PICKS greatest of the block's, of which each thread holds EACH; absent ones are 0.
__device__ __forceinline__ u64 threshold_of(const u64 (&keys)[EACH]) {
    alignas(16) __shared__ u64 greatest[GROUPS];
    __shared__ u64 threshold;
    u64 mine[OWN] = {};
#pragma unroll
    for (int i = 0; i < EACH; ++i) mine[i % OWN] = keys[i] > mine[i % OWN] ? keys[i] : mine[i % OWN];
    if (threadIdx.x == 0) threshold = 1;
#pragma unroll
    for (int i = 0; i < OWN; ++i) greatest[i * THREADS + threadIdx.x] = mine[i];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
        if (rank_of(mine[i], greatest, GROUPS) == PICKS - 1 && mine[i]) threshold = mine[i];
    }
    __syncthreads();
    return threshold;
}

// Keys in shared memory, at most GROUPS of them between calls.
struct Kept {
    u64* keys;
    int& count;

    __device__ __forceinline__ void add(u64 (&more)[EACH]) const {
        while (append(more) > GROUPS) {
#pragma unroll
            for (int i = 0; i < EACH; ++i) {
                const int at = i * THREADS + threadIdx.x;
                more[i] = at < count ? keys[at] : 0;
            }
            __syncthreads();
            if (threadIdx.x == 0) count = 0;
        }
    }

    __device__ __forceinline__ int append(const u64 (&more)[EACH]) const {
        const u64 threshold = threshold_of(more);
        int mine = 0;
#pragma unroll
        for (int i = 0; i < EACH; ++i) mine += more[i] >= threshold;
        int sum = mine, first = 0;   // of the warp's threads up to this one; where the warp's keys go
#pragma unroll
        for (int step = 1; step < 32; step *= 2) {
            const int other = __shfl_up_sync(~0u, sum, step);
            if (threadIdx.x % 32 >= step) sum += other;
        }
        if (threadIdx.x % 32 == 31) first = atomicAdd(&count, sum);
        int at = __shfl_sync(~0u, first, 31) + sum - mine;
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            if (more[i] >= threshold) keys[at++] = more[i];
        }
        __syncthreads();
        return count;
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) top_k(const T* x, int* y, u64* workspace, u32* counters) {
    let_next_start();
    wait_for_previous();
    extern __shared__ char memory[];
    __shared__ int count;
    __shared__ bool last;
    const Kept kept{reinterpret_cast<u64*>(memory), count};
    const int row = blockIdx.y;
    u64 keys[EACH];
    if (threadIdx.x == 0) count = 0;
#pragma unroll
    for (int i = 0; i < EACH; i += VECTOR) {
        const int at = blockIdx.x * CHUNK + i * THREADS + threadIdx.x * VECTOR;
        Pack<T, VECTOR> a{};
        if (at < WIDTH) a = load<T, VECTOR>(x + (u64)row * WIDTH + at);
#pragma unroll
        for (int j = 0; j < VECTOR; ++j) keys[i + j] = at < WIDTH ? key_of(a[j], at + j) : 0;
    }
    kept.add(keys);
    if (PARTS > 1) {
        u64* found = workspace + (u64)row * FOUND;
        for (int i = threadIdx.x; i < GROUPS; i += THREADS) {
            __stcg(found + blockIdx.x * GROUPS + i, i < count ? kept.keys[i] : 0ull);
        }
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) {
            last = atomicAdd(counters + row, 1) == PARTS - 1;
            if (last) counters[row] = 0;   // as every launch finds it
            count = 0;
        }
        __syncthreads();
        if (!last) return;
        __threadfence();
        for (int first = 0; first < FOUND; first += CHUNK) {
#pragma unroll
            for (int i = 0; i < EACH; ++i) {
                const int at = first + i * THREADS + threadIdx.x;
                keys[i] = at < FOUND ? __ldcg(found + at) : 0;
            }
            kept.add(keys);
        }
    }
    for (int i = threadIdx.x; i < count; i += THREADS) {
        const int rank = rank_of(kept.keys[i], kept.keys, count);
        if (rank < PICKS) y[(u64)row * PICKS + rank] = (int)~(u32)kept.keys[i];
    }
}
