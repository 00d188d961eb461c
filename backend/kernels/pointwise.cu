// Each element of y by itself: what it is made of stands in VALUE, which the launch rule writes for one op. A thread makes
// EACH, all read before one is written. Y is the element of y, OPERANDS and SIZES declare what VALUE reads, COORDINATES
// where element i stands.
#include "any.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) pointwise(OPERANDS Y* y SIZES, long long count) {
    let_next_start();
    wait_for_previous();
    const auto value = [&](u64 i) {
        COORDINATES
        return VALUE;
    };
    const u64 first = (u64)blockIdx.x * (THREADS * EACH) + threadIdx.x;
    decltype(value(0)) made[EACH];
#pragma unroll
    for (int n = 0; n < EACH; ++n) {
        if (first + n * THREADS < (u64)count) made[n] = value(first + n * THREADS);
    }
#pragma unroll
    for (int n = 0; n < EACH; ++n) {
        if (first + n * THREADS < (u64)count) put(y + first + n * THREADS, made[n]);
    }
}
