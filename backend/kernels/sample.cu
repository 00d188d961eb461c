// The next token of each sequence, drawn: one block of 1,024 threads a row of WIDTH logits.
//
// Tokens are counted and weighed in BINS bins by their distance from the greatest logit, with whole numbers, so that the
// order of the additions does not matter. Which tokens top-k and top-p keep is decided in the bin where the count, or the
// weight, is reached: there each token is compared with each. T: the logits.
#include "common.cuh"

constexpr int THREADS = 1024, BINS = 2048, MOST = 2048;   // MOST: tokens of a bin that are compared; more count as equal
constexpr float ONE = 1073741824.0f;                      // 2^30, the weight of the likeliest token

__device__ __forceinline__ u64 block_total(u64 x) {
    __shared__ u64 part[THREADS / 32];
    for (int step = 16; step; step /= 2) x += __shfl_xor_sync(~0u, x, step);
    __syncthreads();
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    u64 total = 0;
    for (int i = 0; i < THREADS / 32; ++i) total += part[i];
    return total;
}

// The sum over the threads before this one.
__device__ __forceinline__ u64 block_before(u64 x) {
    __shared__ u64 part[THREADS / 32];
    u64 sum = x;
    for (int step = 1; step < 32; step *= 2) {
        const u64 other = __shfl_up_sync(~0u, sum, step);
        if (threadIdx.x % 32 >= step) sum += other;
    }
    __syncthreads();
    if (threadIdx.x % 32 == 31) part[threadIdx.x / 32] = sum;
    __syncthreads();
    for (int i = 0; i < threadIdx.x / 32; ++i) sum += part[i];
    return sum - x;
}

__device__ __forceinline__ u64 philox(u64 key, u32 counter) {
    u32 k0 = (u32)key, k1 = (u32)(key >> 32), c0 = counter, c1 = 0, c2 = 0, c3 = 0;
    for (int i = 0; i < 10; ++i) {
        const u64 first = (u64)c0 * 0xD2511F53u, second = (u64)c2 * 0xCD9E8D57u;
        c0 = (u32)(second >> 32) ^ c1 ^ k0, c1 = (u32)second;
        c2 = (u32)(first >> 32) ^ c3 ^ k1, c3 = (u32)first;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return (u64)c0 << 32 | c1;
}

// Whole numbers in the order of floats.
__device__ __forceinline__ u32 ordered(float x) {
    const u32 bits = __float_as_uint(x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float restored(u32 x) { return __uint_as_float(x & 0x80000000u ? x & 0x7fffffffu : ~x); }

struct Row {
    const T* logits;
    float most, temperature;

    __device__ __forceinline__ float logit(int i) const { return wide(logits[i]); }
    __device__ __forceinline__ u32 weight(float x) const { return (u32)(expf((x - most) / temperature) * ONE); }
    __device__ __forceinline__ int bin(float x) const { return (int)fminf((most - x) / temperature * 64.0f, BINS - 1.0f); }
};

struct Bins {
    u32 count[BINS], low[BINS], middle[BINS], high[BINS];   // the weights in three parts, whose sums 32 bits hold
    float near[MOST];                                       // the logits of the bin that is looked into
    u32 found;

    __device__ __forceinline__ u64 mass(int i) const { return low[i] + ((u64)middle[i] << 10) + ((u64)high[i] << 20); }
};

// The least logit that is kept if tokens are kept as long as those that are likelier reach less than `wanted`: in number
// (BY_COUNT), or in weight.
template <bool BY_COUNT> __device__ float threshold(const Row& row, Bins& bins, u64 wanted) {
    __shared__ int where;
    __shared__ u64 above;
    __shared__ u32 least;
    const auto value = [&](int i) { return BY_COUNT ? (u64)bins.count[i] : bins.mass(i); };
    if (threadIdx.x == 0) where = BINS - 1, above = 0, least = 0xffffffffu, bins.found = 0;
    const u64 two = value(2 * threadIdx.x) + value(2 * threadIdx.x + 1), before = block_before(two);
    __syncthreads();
    if (before < wanted && before + two >= wanted) {
        const bool first = before + value(2 * threadIdx.x) >= wanted;
        where = 2 * threadIdx.x + !first;
        above = before + (first ? 0 : value(2 * threadIdx.x));
    }
    __syncthreads();
    if (block_total(two) < wanted) return -INFINITY;   // all are kept
    const int bin = where;
    for (int i = threadIdx.x; i < WIDTH; i += THREADS) {
        const float x = row.logit(i);
        if (row.bin(x) != bin) continue;
        const u32 at = atomicAdd(&bins.found, 1);
        if (at < MOST) bins.near[at] = x;
    }
    __syncthreads();
    const int found = bins.found;
    if (found > MOST) return row.most - (bin + 1) / 64.0f * row.temperature;
    for (int i = threadIdx.x; i < found; i += THREADS) {
        const float x = bins.near[i];
        u64 better = above;
        for (int j = 0; j < found; ++j) better += bins.near[j] > x ? (BY_COUNT ? 1 : row.weight(bins.near[j])) : 0;
        if (better < wanted) atomicMin(&least, ordered(x));
    }
    __syncthreads();
    return restored(least);
}

extern "C" __global__ void __launch_bounds__(THREADS) sample(
    const T* logits, const float* temperatures, const int* top_k, const float* top_p, const u64* seeds, const int* steps,
    int* y) {
    let_next_start();
    wait_for_previous();
    extern __shared__ char memory[];
    Bins& bins = *reinterpret_cast<Bins*>(memory);
    __shared__ float parts[THREADS / 32];
    __shared__ int first;
    const int batch = blockIdx.x;
    Row row{logits + (u64)batch * WIDTH, -INFINITY, temperatures[batch]};
    for (int i = threadIdx.x; i < WIDTH; i += THREADS) row.most = fmaxf(row.most, row.logit(i));
    row.most = warp_max(row.most);
    if (threadIdx.x == 0) first = WIDTH;
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = row.most;
    for (int i = threadIdx.x; i < BINS; i += THREADS) bins.count[i] = bins.low[i] = bins.middle[i] = bins.high[i] = 0;
    __syncthreads();
    for (int i = 0; i < THREADS / 32; ++i) row.most = fmaxf(row.most, parts[i]);
    if (row.temperature <= 0) {
        for (int i = threadIdx.x; i < WIDTH; i += THREADS) {
            if (row.logit(i) == row.most) atomicMin(&first, i);
        }
        __syncthreads();
        if (threadIdx.x == 0) y[batch] = first < WIDTH ? first : 0;
        return;
    }
    const int k = top_k[batch];
    const float p = top_p[batch];
    float least = -INFINITY;
    if (k > 0 || p < 1) {
        for (int i = threadIdx.x; i < WIDTH; i += THREADS) {
            const float x = row.logit(i);
            const int bin = row.bin(x);
            const u32 weight = row.weight(x);
            atomicAdd(&bins.count[bin], 1);
            if (weight == 0) continue;
            atomicAdd(&bins.low[bin], weight & 1023);
            atomicAdd(&bins.middle[bin], weight >> 10 & 1023);
            atomicAdd(&bins.high[bin], weight >> 20);
        }
        __syncthreads();
        if (k > 0) least = threshold<true>(row, bins, k);
    }
    const auto mass = [&](int i) {
        const float x = row.logit(i);
        return x >= least ? row.weight(x) : 0u;
    };
    const auto mine = [&]() {
        u64 sum = 0;
        for (int i = threadIdx.x; i < WIDTH; i += THREADS) sum += mass(i);
        return sum;
    };
    if (p < 1) least = fmaxf(least, threshold<false>(row, bins, (u64)ceil((double)p * (double)block_total(mine()))));
    const u64 sum = mine(), before = block_before(sum), total = block_total(sum);
    const u64 point = __umul64hi(philox(seeds[batch], steps[batch]), total);
    if (point < before || point >= before + sum) return;
    u64 reached = before;
    for (int i = threadIdx.x; i < WIDTH; i += THREADS) {
        reached += mass(i);
        if (reached <= point) continue;
        y[batch] = i;
        return;
    }
}
