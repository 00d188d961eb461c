// Parts of a softmax and its sums, which warps and blocks have made, added up in their order.
#pragma once
#include "common.cuh"

__device__ __forceinline__ float weight_of(float one, float all) { return one == -INFINITY ? 0.0f : exp2f(one - all); }

// Four elements of a query head's sums, as parts of them are added up.
struct Whole {
    float most = -INFINITY, total = 0;
    float4 sum = {0, 0, 0, 0};

    // N parts: of each the greatest score, an exponent of 2, -INFINITY where it has no key; the total; the sums.
    template <int N> __device__ __forceinline__ void add(const float2 (&told)[N], const float4 (&sums)[N]) {
        float now = most;
#pragma unroll
        for (int n = 0; n < N; ++n) now = fmaxf(now, told[n].x);
        const float less = weight_of(most, now);
        total *= less;
        sum.x *= less, sum.y *= less, sum.z *= less, sum.w *= less;
#pragma unroll
        for (int n = 0; n < N; ++n) {
            const float share = weight_of(told[n].x, now);
            total += told[n].y * share;
            sum.x += sums[n].x * share, sum.y += sums[n].y * share, sum.z += sums[n].z * share, sum.w += sums[n].w * share;
        }
        most = now;
    }
    template <class T> __device__ __forceinline__ void write(T* to, float by) const {
        Pack<T, 4> y;
        y.set(0, sum.x * by), y.set(1, sum.y * by), y.set(2, sum.z * by), y.set(3, sum.w * by);
        store<T, 4>(to, y);
    }
};

// How many came before, of `last` others; the last leaves zero. What a block has written before its barrier is seen by
// the blocks that come later, behind a barrier of theirs.
__device__ __forceinline__ u32 arrive(u32* counter, u32 last) {
    u32 before;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;" : "=r"(before) : "l"(counter), "r"(last) : "memory");
    return before;
}
